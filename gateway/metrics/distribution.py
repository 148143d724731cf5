"""Histograms that take many values at once: prometheus-client's own costs more an entry than the ledger does."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from threading import Lock

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.utils import floatToGoString


class Distribution:
    """Counts of values by bucket, and their sum. Any thread may add."""

    __slots__ = ("_counts", "_edges", "_lock", "_sum")

    def __init__(self, edges: Sequence[float]) -> None:
        self._edges = edges
        self._counts = [0] * (len(edges) + 1)  # the last: above every edge
        self._sum = 0.0
        self._lock = Lock()

    def observe(self, *values: float) -> None:
        """Count values; an edge belongs to the bucket below it."""
        counts, edges = self._counts, self._edges
        with self._lock:
            for value in values:
                counts[bisect_left(edges, value)] += 1
            self._sum += sum(values)

    def shown(self) -> tuple[list[int], float]:
        """How many values were at most each edge, all of them last; and their sum."""
        with self._lock:
            return list(accumulate(self._counts)), self._sum


class DistributionFamily:
    """One metric of type histogram. Shows what prometheus-client's would: no sum where values may be negative."""

    def __init__(self, name: str, text: str, labels: Sequence[str], edges: Sequence[float], registry: CollectorRegistry) -> None:
        self._name, self._text, self._labels, self._edges = name, text, tuple(labels), tuple(edges)
        self._les = [floatToGoString(edge) for edge in (*edges, math.inf)]  # type: ignore[no-untyped-call]
        self._children: dict[tuple[str, ...], Distribution] = {}
        self._lock = Lock()
        registry.register(self)

    def labels(self, *values: str) -> Distribution:
        """The child with these label values."""
        with self._lock:
            return self._children.setdefault(values, Distribution(self._edges))

    def remove(self, *values: str) -> None:
        """Show this child no more."""
        with self._lock:
            del self._children[values]

    def collect(self) -> Iterable[Metric]:
        """Every child as samples, for the registry."""
        metric = Metric(self._name, self._text, "histogram")
        with self._lock:
            children = list(self._children.items())
        for values, child in children:
            counts, total = child.shown()
            labels = dict(zip(self._labels, values, strict=True))
            for le, count in zip(self._les, counts, strict=True):
                metric.add_sample(f"{self._name}_bucket", {**labels, "le": le}, count)
            metric.add_sample(f"{self._name}_count", labels, counts[-1])
            if self._edges[0] >= 0:
                metric.add_sample(f"{self._name}_sum", labels, total)
        return [metric]
