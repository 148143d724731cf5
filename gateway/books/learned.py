"""What calls of one kind are seen to use: the 95th percentile, from a histogram of integers. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict

from gateway.config.snapshot import Facts
from gateway.journal.records import Entry
from gateway.units import INPUT_METERS, OUTPUT_METERS

KINDS_MAX = 4_000  # (team, model, endpoint): those used last; 100 counts each, some 4 MB
CALLS_MIN = 20  # before that a percentile is a guess, and the configured estimate holds
CALLS_MAX = 2_000  # then every count is halved: what is learned follows what changes
PERCENT = 95
HISTORY = "history"  # the mark of a call whose input is kept at OpenAI: only such calls teach its size


def _edges() -> tuple[int, ...]:
    """Upper edges, a quarter octave apart, up to 4 M tokens: a percentile is at most a quarter too high and never too low."""
    edges = set(range(1, 8))
    for octave in range(3, 22):
        edges |= {(4 + quarter) << (octave - 2) for quarter in range(4)}
    return tuple(sorted(edges | {1 << 22}))


EDGES = _edges()


class Percentiles:
    """The 95th percentile of token counts by kind of call, bounded."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, list[int]] = OrderedDict()

    def add(self, kind: str, tokens: int) -> None:
        """One call."""
        counts = self._counts.get(kind)
        if counts is None:
            counts = self._counts[kind] = [0] * len(EDGES)
            if len(self._counts) > KINDS_MAX:
                self._counts.popitem(last=False)
        else:
            self._counts.move_to_end(kind)
        counts[min(bisect_left(EDGES, tokens), len(EDGES) - 1)] += 1
        if sum(counts) >= CALLS_MAX:
            counts[:] = [count // 2 for count in counts]

    def p95(self) -> dict[str, int]:
        """Tokens that 95 of 100 calls stay within, of every kind that was seen often enough."""
        return {kind: _percentile(counts) for kind, counts in self._counts.items() if sum(counts) >= CALLS_MIN}


class Learned:
    """What the books teach the workers' estimates, from usage that OpenAI reported and nothing else."""

    def __init__(self) -> None:
        self.output = Percentiles()
        self.input = Percentiles()

    def learn(self, entry: Entry, facts: Facts) -> None:
        """One effective entry."""
        if entry.usage_source != "reported" or not entry.usage:
            return
        card = facts.cards.get(entry.model_asked or "")
        kind = f"{entry.team}\0{card.model if card else entry.model_asked}\0{entry.endpoint}"
        self.output.add(kind, sum(entry.usage.get(meter, 0) for meter in OUTPUT_METERS))
        if HISTORY in entry.marks:
            self.input.add(kind, sum(entry.usage.get(meter, 0) for meter in INPUT_METERS))


def _percentile(counts: list[int]) -> int:
    wanted = -(-sum(counts) * PERCENT // 100)
    for edge, count in zip(EDGES, counts, strict=True):
        wanted -= count
        if wanted <= 0:
            return edge
    return EDGES[-1]
