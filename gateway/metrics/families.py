"""Every metric family of the gateway: name, type, labels, buckets; and the cap on their series.

Source of names and buckets: reference/observability.md. Buckets of durations are those of the OpenTelemetry GenAI conventions,
prolonged to 655 s because long reasoning streams pass their last one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge

from gateway.metrics.distribution import Distribution, DistributionFamily

OTHER = "other"
OPEN_LABELS = frozenset({"team", "model", "account", "scope"})  # as many values as the configuration has; others are closed sets

DURATION_BUCKETS = (
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68, 655.36,
)  # fmt: skip
FIRST_TOKEN_BUCKETS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
)  # fmt: skip
PER_TOKEN_BUCKETS = (0.001, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
TEAM_DURATION_BUCKETS = (0.25, 1, 2.5, 5, 10, 30, 60, 120)  # few on purpose: there are many teams
BODY_BUCKETS = (256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216)
OVERHEAD_BUCKETS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)  # the last: overload
TOKENS_BUCKETS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304)
ESTIMATE_ERROR_BUCKETS = (-0.9, -0.5, -0.25, -0.1, -0.05, 0, 0.05, 0.1, 0.25, 0.5, 1, 2, 5)
LOOP_LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)

Metric = TypeVar("Metric", Counter, Gauge, Distribution)


class Series(Generic[Metric]):
    """The children of one family, cached and capped.

    Beyond `series_max` children the open labels of a sample become `other`, so that sums stay exact, and the sample is counted
    as overflow. The folded children come on top: they are as many as the closed labels have combinations.
    """

    def __init__(
        self,
        make: Callable[..., Metric],
        remove: Callable[..., None],
        labels: Sequence[str],
        lines_each: int,
        series_max: int,
        overflow: Counter,
    ) -> None:
        """`make` gives the child with some label values, `remove` lets it be shown no more."""
        self._make: Callable[..., Metric] = make
        self._remove = remove
        self._series_max, self._overflow = series_max, overflow
        self.labels = tuple(labels)
        self._open = tuple(label in OPEN_LABELS for label in labels)
        self._children: dict[tuple[str, ...], Metric] = {}
        self.lines_each = lines_each

    def __len__(self) -> int:
        return len(self._children)

    def child(self, *values: str, samples: int = 1) -> Metric:
        """The child with these label values, in the order of the family's labels; or the one that stands for it beyond the cap.

        `samples`: how many it is asked for, so that as many are counted as overflow.
        """
        found = self._children.get(values)
        return self._admit(values, samples) if found is None else found

    def forget(self, *values: str) -> None:
        """Drop a child, so that it is shown no more. For gauges of things that are gone."""
        if self._children.pop(values, None) is not None:
            self._remove(*values)

    def replace(self: Series[Gauge], shown: Mapping[tuple[str, ...], float]) -> None:
        """Show exactly these values, of a gauge. What is beyond the cap is left out: a share of a limit cannot be folded into another's."""
        for gone in self._children.keys() - shown.keys():
            self.forget(*gone)
        for values, value in shown.items():
            if values in self._children or len(self._children) < self._series_max:
                self.child(*values).set(value)
            else:
                self._overflow.inc()

    def _admit(self, values: tuple[str, ...], samples: int) -> Metric:
        if len(self._children) >= self._series_max:
            folded = tuple(OTHER if is_open else value for value, is_open in zip(values, self._open, strict=True))
            self._overflow.inc(samples)
            if folded in self._children:
                return self._children[folded]
            values = folded
        child = self._children[values] = self._make(*values)
        return child


class Families:
    """One registry with every family of the gateway. `series_max` caps each family."""

    def __init__(self, series_max: int) -> None:
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]  # they would double the lines
        self.registry = CollectorRegistry()
        self.series_max = series_max
        self._all: list[Series[Any]] = []
        prometheus_client.ProcessCollector(registry=self.registry)
        prometheus_client.GCCollector(registry=self.registry)
        self._overflow = Counter(
            "gateway_metrics_overflow",
            "Samples folded into label value other, or left out, by the series cap",
            ("metric",),
            registry=self.registry,
        )
        Gauge("gateway_metrics_series", "Series this process keeps", registry=self.registry).set_function(self.series_count)
        self._make_traffic()
        self._make_usage()
        self._make_limits()
        self._make_house()

    def series_count(self) -> int:
        """Lines of the exposition that labels make."""
        return sum(len(series) * series.lines_each for series in self._all)

    def _make_traffic(self) -> None:
        counter, histogram, gauge = self._counter, self._histogram, self._gauge
        self.requests = counter("gateway_requests", "Finished requests", "team", "model", "operation", "status_class", "outcome")
        self.in_flight = gauge("gateway_requests_in_flight", "Requests now inside the gateway", "team")
        self.streams_active = gauge("gateway_streams_active", "Open streams and sockets", "kind")
        self.connections = gauge("gateway_connections_active", "Open client connections", "worker")
        self.upstream_connections = gauge("gateway_upstream_connections_open", "Pooled upstream connections", "worker", "state")
        self.duration = histogram(
            "gateway_request_duration_seconds", "Arrival to last byte written", DURATION_BUCKETS, "model", "operation", "stream"
        )
        self.first_token = histogram(
            "gateway_time_to_first_token_seconds", "Arrival to first content chunk, streams only", FIRST_TOKEN_BUCKETS, "model", "operation"
        )
        self.per_token = histogram(
            "gateway_time_per_output_token_seconds", "Mean time between output tokens, streams only", PER_TOKEN_BUCKETS, "model"
        )
        self.team_duration = histogram("gateway_team_request_duration_seconds", "Coarse latency of a team", TEAM_DURATION_BUCKETS, "team")
        self.body = histogram("gateway_request_body_bytes", "Request body size", BODY_BUCKETS, "operation")
        self.overhead = histogram(
            "gateway_overhead_seconds", "Time the gateway itself adds to a call, without waits for client or upstream", OVERHEAD_BUCKETS
        )
        self.upstream_duration = histogram(
            "gateway_upstream_duration_seconds", "Request sent to last upstream byte", DURATION_BUCKETS, "account", "model"
        )
        self.upstream_requests = counter(
            "gateway_upstream_requests", "Upstream answers by status code or kind of failure", "account", "model", "code"
        )

    def _make_usage(self) -> None:
        counter, histogram = self._counter, self._histogram
        self.tokens = counter("gateway_tokens", "Billed tokens, disjoint", "team", "model", "direction", "modality")
        self.tokens_detail = counter(
            "gateway_tokens_detail", "Subsets of gateway_tokens_total, never to be added to it", "team", "model", "detail"
        )
        self.tokens_per_request = histogram(
            "gateway_tokens_per_request", "Distribution of tokens of one request", TOKENS_BUCKETS, "model", "direction"
        )
        self.usage_source = counter("gateway_usage_source", "Where a request's usage came from", "source")
        self.estimate_error = histogram(
            "gateway_token_estimate_error_ratio", "(reserved - settled) / settled tokens", ESTIMATE_ERROR_BUCKETS, "model"
        )
        self.cost = counter("gateway_cost_usd", "List-price cost in USD; the ledger is the truth", "team", "model", "cost_class")
        self.unpriced = counter("gateway_unpriced_requests", "Usage seen but no price applied", "model", "reason")

    def _make_limits(self) -> None:
        counter, gauge = self._counter, self._gauge
        self.limit_decisions = counter("gateway_limit_decisions", "Decisions by limit", "team", "limit", "decision")
        self.limit_value = gauge(
            "gateway_limit_value", "Limits in use: calls or tokens each allows in its period", "team", "limit", "scope"
        )
        self.limit_used = gauge("gateway_limit_used_ratio", "Used share, 0..1, of the limits in use now", "team", "limit", "scope")
        self.auth_failures = counter("gateway_auth_failures", "Calls without a valid key or permission", "reason")

    def _make_house(self) -> None:
        counter, gauge = self._counter, self._gauge
        self.loop_lag = self._histogram("gateway_event_loop_lag_seconds", "Scheduling delay of the workers' loops", LOOP_LAG_BUCKETS)
        self.ledger_lag = gauge("gateway_ledger_lag_seconds", "Age of the oldest usage record not yet written, at most")
        self.ledger_records = counter("gateway_ledger_records", "Records offered to the ledger", "result")
        self.journal_gaps = counter("gateway_journal_gaps", "Holes and torn records found in journals", "worker")
        self.journal_free = gauge("gateway_journal_free_bytes", "Room left for a worker's journal", "worker")
        self.orphans = counter("gateway_orphaned_intents", "Exchanges of dead workers booked as unknown")
        self.late_usage = counter("gateway_late_usage", "Unknown entries superseded by usage that came later")
        self.reloads = counter("gateway_config_reloads", "Hot reloads", "result")
        self.reloaded_at = gauge("gateway_config_last_reload_success_timestamp_seconds", "Last good reload")
        self.ready = gauge("gateway_ready", "1 while /readyz answers 200: calls are carried")
        self.degraded = gauge("gateway_degraded", "1 while this check of /readyz is in this state", "check", "state")
        self.build_info = gauge("gateway_build_info", "Always 1", "version", "revision", "python", "config_hash")

    def _counter(self, name: str, text: str, *labels: str) -> Series[Counter]:
        metric = Counter(name, text, labels, registry=self.registry)
        make = metric.labels if labels else lambda: metric
        return self._kept(Series(make, metric.remove, labels, 1, self.series_max, self._overflow.labels(f"{name}_total")), labels)

    def _gauge(self, name: str, text: str, *labels: str) -> Series[Gauge]:
        metric = Gauge(name, text, labels, registry=self.registry)
        make = metric.labels if labels else lambda: metric
        return self._kept(Series(make, metric.remove, labels, 1, self.series_max, self._overflow.labels(name)), labels)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Series[Distribution]:
        family = DistributionFamily(name, text, labels, buckets, self.registry)
        lines = len(buckets) + (3 if buckets[0] >= 0 else 2)  # +Inf, count, and a sum unless values may be negative
        series_max = max(1, self.series_max // lines)
        return self._kept(Series(family.labels, family.remove, labels, lines, series_max, self._overflow.labels(name)), labels)

    def _kept(self, series: Series[Metric], labels: Sequence[str]) -> Series[Metric]:
        self._all.append(series)
        if not labels:
            series.child()  # such a metric is shown from the start
        return series
