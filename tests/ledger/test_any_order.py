"""Whatever comes in whatever order and however often: one effective entry per exchange, and every sum equal to them."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from gateway.journal.fit import COST_PICOUSD_MAX
from gateway.journal.format import Position
from gateway.journal.records import Closed, Entry, Intent, Record
from gateway.late.orphans import orphans
from gateway.ledger import Folded
from gateway.units import Meter

KINDS = st.sampled_from(["intent", "entry", "entry", "closed"])
COSTS = st.none() | st.integers(0, COST_PICOUSD_MAX)
NUMBERS = st.integers(1, 12)
HOURS = st.integers(0, 30)


class AnyOrder(RuleBasedStateMachine):
    """Folds, replays, orphans and late usage against a model of a few lines."""

    make: Any

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.books = self.make.books(self.folder / "ledger.db")
        self.batches: list[tuple[Position, tuple[Record, ...]]] = []
        self.revisions: dict[str, list[tuple[str, Entry]]] = {}  # exchange: (origin, entry), the last one is effective
        self.open: dict[str, Intent] = {}
        self.fed = Counter[str]()  # what metrics would have counted

    def teardown(self) -> None:
        self.books.ledger.close()
        shutil.rmtree(self.folder)

    def record(self, kind: str, number: int, cost: int | None, hour: int) -> Record:
        at_us = self.make.noon_us + hour * 3_600_000_000
        if kind == "intent":
            return self.make.intent(number, admitted_at_us=at_us)
        if kind == "closed":
            return Closed(f"gx-{number}")
        source = "estimated" if cost is None else "reported"
        usage = {Meter.INPUT_TEXT: number, Meter.IMAGES: hour}
        return self.make.entry(number, cost_picousd=cost, admitted_at_us=at_us, usage=usage, usage_source=source, team=f"team{number % 2}")

    def take(self, origin: str, entry: Entry) -> None:
        revisions = self.revisions.setdefault(entry.exchange_id, [])
        if any(entry == known for _, known in revisions):
            return
        if revisions and (origin == "orphan" or (origin == "journal" and revisions[-1][0] != "orphan")):
            return
        revisions.append((origin, entry))

    def feed(self, folded: Folded) -> None:
        changes = [(1, entry) for entry in folded.new]
        for change in folded.superseding:
            changes += [(-1, change.old), (1, change.new)]
        for sign, entry in changes:
            self.fed["calls"] += sign
            self.fed["cost"] += sign * (entry.cost_picousd or 0)
            for meter, quantity in entry.usage.items():
                self.fed[meter] += sign * quantity

    @rule(steps=st.lists(st.tuples(KINDS, NUMBERS, COSTS, HOURS), max_size=8))
    def fold(self, steps: list[tuple[str, int, int | None, int]]) -> None:
        records = tuple(self.record(*step) for step in steps)
        position = self.books.next(records or (None,))
        self.batches.append((position, records))
        self.feed(self.books.ledger.fold("w0", position, records))
        intents: dict[str, Intent] = {}
        ended: set[str] = set()
        for record in records:
            if isinstance(record, Intent):
                intents[record.exchange_id] = record
                continue
            intents.pop(record.exchange_id, None)
            ended.add(record.exchange_id)
            if isinstance(record, Entry):
                self.take("journal", record)
        for name in ended:
            self.open.pop(name, None)
        for name, intent in intents.items():
            if name not in self.revisions:
                self.open.setdefault(name, intent)

    @rule(pick=st.integers(0, 10**6))
    def replay(self, pick: int) -> None:
        if self.batches:
            position, records = self.batches[pick % len(self.batches)]
            assert self.books.ledger.fold("w0", position, records).replayed

    @rule(pick=st.integers(0, 10**6))
    def fold_the_same_entries_from_elsewhere(self, pick: int) -> None:
        if self.batches:
            _, records = self.batches[pick % len(self.batches)]
            entries = tuple(record for record in records if isinstance(record, Entry))
            self.feed(self.books.ledger.fold("w0", self.books.next(entries or (None,)), entries))
            for entry in entries:
                self.take("journal", entry)
                self.open.pop(entry.exchange_id, None)

    @rule()
    def the_worker_dies(self) -> None:
        found = [found.intent for found in self.books.ledger.open_intents("w0", boot_max=1)]
        assert {intent.exchange_id: intent for intent in found} == self.open
        entries = orphans(found, self.make.noon_us)
        self.feed(self.books.ledger.fold_orphans("w0", entries))
        for entry in entries:
            self.take("orphan", entry)
        self.open.clear()

    @rule(number=NUMBERS, cost=COSTS, hour=HOURS)
    def usage_comes_late(self, number: int, cost: int | None, hour: int) -> None:
        entry = self.record("entry", number, cost, hour)
        assert isinstance(entry, Entry)
        self.feed(self.books.ledger.supersede(entry))
        self.take("late", entry)
        self.open.pop(entry.exchange_id, None)

    @invariant()
    def all_sums_are_those_of_the_effective_entries(self) -> None:
        effective = [revisions[-1][1] for revisions in self.revisions.values()]
        expected = Counter[str]({"calls": len(effective), "cost": sum(entry.cost_picousd or 0 for entry in effective)})
        for entry in effective:
            expected.update(entry.usage)
        calls, cost, usage = self.books.total()  # recounts
        assert Counter({"calls": calls, "cost": cost, **usage}) == expected
        assert self.fed == expected
        shown = {entry["exchange_id"]: entry["cost_picousd"] for entry in self.books.ledger.entries()}
        assert shown == {entry.exchange_id: entry.cost_picousd for entry in effective}
        stored = [self.books.ledger.effective(entry.exchange_id) for entry in effective]
        assert msgspec.json.encode(stored) == msgspec.json.encode(effective)


def test_any_order(make: Any) -> None:
    AnyOrder.make = make
    run_state_machine_as_test(AnyOrder, settings=settings(max_examples=25, stateful_step_count=15, deadline=None))
