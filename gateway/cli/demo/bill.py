"""The bill: our ledger beside the simulator's own account, by team, model and service tier. Values in, value out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.simulator import Difference, Line, compare
from gateway.units import INPUT_METERS, OUTPUT_METERS, Meter

CACHED_METERS = (Meter.CACHED_TEXT, Meter.CACHED_AUDIO, Meter.CACHED_IMAGE)
FRESH_METERS = tuple(meter for meter in INPUT_METERS if meter not in CACHED_METERS)
NOBODY = "(nobody)"  # of an exchange that no client of ours asked for

Group = tuple[str, str, str]
"""Team, model as served, service tier as served."""


@dataclass
class Side:
    """What one of the two says of a group. `cost_picousd` None: something in it has no price."""

    calls: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0  # inside output
    cost_picousd: int | None = 0

    def add(self, usage: Mapping[Any, int], details: Mapping[str, int], cost_picousd: int | None) -> None:
        """One exchange."""
        self.calls += 1
        self.input_tokens += sum(usage.get(meter, 0) for meter in FRESH_METERS)
        self.cached_tokens += sum(usage.get(meter, 0) for meter in CACHED_METERS)
        self.output_tokens += sum(usage.get(meter, 0) for meter in OUTPUT_METERS)
        self.reasoning_tokens += details.get("reasoning_tokens", 0)
        self.cost_picousd = None if self.cost_picousd is None or cost_picousd is None else self.cost_picousd + cost_picousd

    def merge(self, other: Side) -> None:
        """Another group on top of this one."""
        self.calls += other.calls
        self.input_tokens += other.input_tokens
        self.cached_tokens += other.cached_tokens
        self.output_tokens += other.output_tokens
        self.reasoning_tokens += other.reasoning_tokens
        self.cost_picousd = None if self.cost_picousd is None or other.cost_picousd is None else self.cost_picousd + other.cost_picousd


@dataclass(frozen=True)
class BillRow:
    """One group: what the gateway booked, and what the simulator served."""

    team: str
    model: str
    service_tier: str
    booked: Side
    served: Side

    @property
    def equal(self) -> bool:
        """Every number of it, to the last pico-dollar. No price is no number."""
        return self.booked == self.served and self.booked.cost_picousd is not None


@dataclass(frozen=True)
class Bill:
    """All rows, their sum, and each exchange that differs."""

    rows: tuple[BillRow, ...]
    total: BillRow
    differences: tuple[Difference, ...]
    refused: dict[str, int] = field(default_factory=dict)  # calls by team, as its clients saw them
    failures: tuple[str, ...] = ()  # calls that were neither answered nor refused

    @property
    def equal(self) -> bool:
        """Whether ledger and account say the same of everything, and there was something to say."""
        return bool(self.rows) and not self.differences and self.total.equal and all(row.equal for row in self.rows)


def make_bill(
    entries: Iterable[Mapping[str, Any]],
    account: Iterable[Line],
    asked: Mapping[str, str],
    *,
    refused: Mapping[str, int] | None = None,
    failures: Iterable[str] = (),
) -> Bill:
    """Hold the ledger's entries against the account.

    `asked` is the team of each exchange as its client knows it: also whose usage it was is not taken from the ledger alone.
    """
    entries, account = list(entries), list(account)
    booked: defaultdict[Group, Side] = defaultdict(Side)
    served: defaultdict[Group, Side] = defaultdict(Side)
    for entry in entries:
        group = (entry["team"], entry["model_served"] or "-", _tier(entry["service_tier"]))
        booked[group].add(entry["usage"], entry["details"], entry["cost_picousd"])
    for line in account:
        if line.kind == "billed":
            team = asked.get(line.client_request_id or "", NOBODY)
            served[team, line.model or "-", _tier(line.service_tier)].add(line.quantities, line.details, line.cost_picousd)
    groups = sorted(booked.keys() | served.keys())
    rows = tuple(BillRow(*group, booked[group], served[group]) for group in groups)
    total = BillRow("total", "", "", Side(), Side())
    for row in rows:
        total.booked.merge(row.booked)
        total.served.merge(row.served)
    return Bill(rows, total, tuple(compare(entries, account)), dict(refused or {}), tuple(failures))


def _tier(service_tier: str | None) -> str:
    """Not said is standard, which OpenAI calls default."""
    return service_tier or "default"
