"""What follows from what became effective: late usage in every order of events, segments that go, estimates that are learned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import msgspec
import pytest

from gateway.books.bookkeeper import Bookkeeper
from gateway.books.learned import CALLS_MAX, CALLS_MIN, EDGES, KINDS_MAX, Learned, Percentiles
from gateway.books.links import spent_of
from gateway.config.load import Loaded, load
from gateway.config.snapshot import Facts
from gateway.journal.format import ENTRY_BYTES_MAX, segments_in
from gateway.journal.records import Entry
from gateway.journal.writer import JournalFull, JournalWriter
from gateway.late.background import CORRECTED
from gateway.ledger import HourlyRequests, Ledger, LedgerUnavailable
from gateway.ledger.sqlite import SqliteLedger
from gateway.metrics import EntryMetrics, Families
from gateway.units import Meter, UsageSource

LATE = {Meter.INPUT_TEXT: 400, Meter.OUTPUT_TEXT: 2_000}
LATE_PICOUSD = 400 * 2_500_000 + 2_000 * 10_000_000
NOW_US = 1_780_000_100_000_000


class Desk:
    """A bookkeeper that can be killed and started again, over the same files."""

    def __init__(self, place: Any) -> None:
        self.place, self.path = place, place.root / "ledger.db"
        self.fail_next: set[str] = set()  # methods of the ledger whose next call finds the database away
        self.start()

    def start(self) -> None:
        loaded = load(self.place.root / "config", {})
        assert isinstance(loaded, Loaded)
        snapshot = loaded.snapshot(0)
        families = Families(1_000)
        metrics = EntryMetrics(families, 1_000)
        metrics.configure(snapshot)
        self.families = families
        self.keeper = Bookkeeper(self.place.journal, self.open, Facts(snapshot), metrics, families, lambda: NOW_US)

    def open(self) -> Ledger:
        return cast(Ledger, Away(SqliteLedger(self.path), self.fail_next))

    def kill(self) -> None:
        """Whatever was only in memory is gone."""
        self.keeper.close()
        self.start()

    def read(self, worker: str = "w0") -> None:
        while not self.keeper.turn(worker).caught_up:
            pass

    def effective(self, number: int) -> Entry | None:
        return SqliteLedger(self.path).effective(f"gx-{number}")

    def late_usage(self) -> float | None:
        return self.families.registry.get_sample_value("gateway_late_usage_total")


class Away:
    """At the port: a real ledger whose database is away for single calls, as a full disk or a lock makes it."""

    def __init__(self, ledger: SqliteLedger, fail_next: set[str]) -> None:
        self._ledger, self._fail_next = ledger, fail_next

    def __getattr__(self, name: str) -> Any:
        if name in self._fail_next:
            self._fail_next.discard(name)
            raise LedgerUnavailable(f"{name}: away")
        return getattr(self._ledger, name)


@pytest.fixture
def desk(place: Any) -> Iterator[Desk]:
    desk = Desk(place)
    yield desk
    desk.keeper.close()


@pytest.fixture
def journal(place: Any) -> Iterator[JournalWriter]:
    with JournalWriter(place.journal, "w0") as journal:
        yield journal


def queued(entry: Any, number: int) -> Entry:
    usage = {Meter.INPUT_TEXT: 1_000, Meter.OUTPUT_TEXT: 1_000}
    made: Entry = entry(number, usage=usage, usage_source="unknown", cost_picousd=12_500_000_000, answer_id="resp_a")
    return made


def fetched(entry: Any, number: int, **changes: Any) -> Entry:
    values = {
        "endpoint": "responses/retrieve", "usage": {}, "usage_source": "not_billed", "cost_picousd": 0, "price_version": None,
        "answer_id": "resp_a", "late_usage": LATE, "details": {"reasoning_tokens": 7},
    }  # fmt: skip
    made: Entry = entry(number, **(values | changes))
    return made


def write(journal: JournalWriter, intent: Any, *entries: Entry) -> None:
    for entry in entries:
        journal.intend(intent(int(entry.exchange_id.removeprefix("gx-"))))
        journal.append(entry)


def assert_corrected(desk: Desk) -> None:
    found = desk.effective(1)
    assert found is not None
    assert (found.usage, found.usage_source, found.cost_picousd) == (LATE, "reported", LATE_PICOUSD)
    assert (found.price_version, found.details, found.marks) == ("gpt-4o@2024-10-02", {"reasoning_tokens": 7}, ("late",))
    assert SqliteLedger(desk.path).recount().differences == ()


def test_late_usage_in_the_same_batch_as_the_call(desk: Desk, journal: JournalWriter, intent: Any, entry: Any) -> None:
    write(journal, intent, queued(entry, 1), fetched(entry, 2))
    desk.read()
    assert_corrected(desk)
    assert desk.late_usage() == 1


def test_late_usage_in_a_later_batch(desk: Desk, journal: JournalWriter, intent: Any, entry: Any) -> None:
    write(journal, intent, queued(entry, 1))
    desk.read()
    write(journal, intent, fetched(entry, 2), fetched(entry, 3, late_usage={Meter.INPUT_TEXT: 1}))
    desk.read()
    assert_corrected(desk)
    assert desk.late_usage() == 1


def test_late_usage_that_another_worker_saw_before_the_call_is_read(desk: Desk, place: Any, intent: Any, entry: Any) -> None:
    with JournalWriter(place.journal, "w0") as first, JournalWriter(place.journal, "w1") as second:
        write(second, intent, fetched(entry, 2))
        desk.read("w1")
        write(first, intent, queued(entry, 1))
        desk.read("w0")
    assert_corrected(desk)


def test_late_usage_survives_books_that_die_before_the_call_is_read(desk: Desk, place: Any, intent: Any, entry: Any) -> None:
    with JournalWriter(place.journal, "w0") as first, JournalWriter(place.journal, "w1") as second:
        write(second, intent, fetched(entry, 2))
        desk.read("w1")
        desk.kill()
        write(first, intent, queued(entry, 1))
        desk.read("w0")
    assert_corrected(desk)


@pytest.mark.parametrize("source", sorted(CORRECTED))
def test_late_usage_survives_books_that_die_between_the_call_and_its_correction(
    desk: Desk, place: Any, intent: Any, entry: Any, source: UsageSource
) -> None:
    with JournalWriter(place.journal, "w0") as first, JournalWriter(place.journal, "w1") as second:
        write(second, intent, fetched(entry, 2))
        desk.read("w1")
        write(first, intent, msgspec.structs.replace(queued(entry, 1), usage_source=source))
        desk.fail_next.add("supersede")
        with pytest.raises(LedgerUnavailable):
            desk.read("w0")
        desk.kill()
        desk.read("w0")
    assert_corrected(desk)


@pytest.mark.parametrize("away", ["add_events", "fold", "supersede"])
@pytest.mark.parametrize("killed", [False, True], ids=["the books live on", "the books die"])
def test_late_usage_survives_a_ledger_that_goes_away_at_any_step(
    desk: Desk, journal: JournalWriter, intent: Any, entry: Any, away: str, killed: bool
) -> None:
    write(journal, intent, queued(entry, 1), fetched(entry, 2))
    desk.fail_next.add(away)
    with pytest.raises(LedgerUnavailable):
        desk.read()
    if killed:
        desk.kill()
    desk.read()
    assert_corrected(desk)
    assert desk.effective(2) is not None


NOT_CORRECTED = [
    ("what OpenAI reported", {"usage_source": "reported"}, {}),
    ("another team's call", {}, {"team": "search"}),
    ("a call whose answer says nothing", {}, {"late_usage": None}),
    ("a call by another answer", {}, {"answer_id": "resp_b"}),
]


@pytest.mark.parametrize("made,seen", [row[1:] for row in NOT_CORRECTED], ids=[row[0] for row in NOT_CORRECTED])
def test_late_usage_corrects_nothing_else(
    desk: Desk, journal: JournalWriter, intent: Any, entry: Any, made: dict[str, Any], seen: dict[str, Any]
) -> None:
    original = msgspec.structs.replace(queued(entry, 1), **made)
    write(journal, intent, original, fetched(entry, 2, **seen))
    desk.read()
    assert desk.effective(1) == original


def test_late_usage_of_a_model_without_a_price_is_unpriced_and_never_zero(
    desk: Desk, journal: JournalWriter, intent: Any, entry: Any
) -> None:
    write(journal, intent, queued(entry, 1), fetched(entry, 2, model_served="gpt-9"))
    desk.read()
    found = desk.effective(1)
    assert found is not None
    assert (found.usage_source, found.cost_picousd, found.model_served) == ("reported", None, "gpt-9")


def test_a_batch_the_ledger_refused_is_offered_again_and_counted_once(desk: Desk, journal: JournalWriter, intent: Any, entry: Any) -> None:
    write(journal, intent, entry(1), entry(2))
    for _ in range(2):
        desk.fail_next.add("fold")
        with pytest.raises(LedgerUnavailable):
            desk.read()
    desk.read()
    value = desk.families.registry.get_sample_value
    assert value("gateway_ledger_records_total", {"result": "failed"}) == 4
    assert value("gateway_ledger_records_total", {"result": "written"}) == 2


def test_segments_go_once_the_ledger_holds_them_and_open_intents_stay_known(desk: Desk, place: Any, intent: Any, entry: Any) -> None:
    with JournalWriter(place.journal, "w0", segment_bytes=4 * ENTRY_BYTES_MAX) as journal:
        journal.intend(intent(10_000))
        for number in range(1, 401):
            written = False
            while not written:
                try:
                    write(journal, intent, entry(number))
                    written = True
                except JournalFull:  # the next segment is being made
                    desk.read()
        desk.read()
        assert segments_in(place.journal / "w0")[0].segment > 1
    desk.read()
    orphan = desk.effective(10_000)
    assert orphan is not None
    assert (orphan.usage_source, orphan.cost_picousd) == ("unknown", 12_500_000_000)


def test_p95_is_never_too_low_and_at_most_a_quarter_too_high() -> None:
    seen = Percentiles()
    for tokens in range(1, 1_001):
        seen.add("kind", tokens)
    assert 950 <= seen.p95()["kind"] <= 950 * 1.25


@pytest.mark.parametrize("tokens", [0, 1, 2, 7, 8, 9, 1_000, EDGES[-1] - 1, EDGES[-1]])
def test_a_constant_is_learned_as_itself_or_little_more(tokens: int) -> None:
    seen = Percentiles()
    for _ in range(CALLS_MIN):
        seen.add("kind", tokens)
    assert tokens <= seen.p95()["kind"] <= max(1, tokens * 1.25)


def test_nothing_is_learned_from_too_few_calls() -> None:
    seen = Percentiles()
    for _ in range(CALLS_MIN - 1):
        seen.add("kind", 100)
    assert seen.p95() == {}


def test_what_is_learned_follows_what_changes() -> None:
    seen = Percentiles()
    for _ in range(CALLS_MAX):
        seen.add("kind", 4_000)
    for _ in range(20 * CALLS_MAX):
        seen.add("kind", 100)
    assert seen.p95()["kind"] < 130


def test_only_the_kinds_used_last_are_kept() -> None:
    seen = Percentiles()
    for number in range(KINDS_MAX + 1):
        for _ in range(CALLS_MIN):
            seen.add(f"kind {number}", 1)
    assert len(seen.p95()) == KINDS_MAX
    assert "kind 0" not in seen.p95()


def test_only_reported_usage_teaches_and_history_only_by_its_mark(desk: Desk, entry: Any) -> None:
    learned, facts = Learned(), desk.keeper.facts
    for number in range(CALLS_MIN):
        learned.learn(entry(number, model_asked="gpt-4o-2024-08-06"), facts)
        learned.learn(entry(number, endpoint="e", usage_source="estimated"), facts)
        learned.learn(entry(number, endpoint="h", marks=("history",)), facts)
    assert learned.output.p95() == {"voice\0gpt-4o\0responses": 10, "voice\0gpt-4o\0h": 10}
    assert learned.input.p95() == {"voice\0gpt-4o\0h": 112}


def test_the_ledger_teaches_again_after_a_restart(desk: Desk, journal: JournalWriter, intent: Any, entry: Any) -> None:
    write(journal, intent, *(entry(number) for number in range(CALLS_MIN)))
    desk.read()
    desk.kill()
    desk.keeper.prepare()
    assert desk.keeper.learned.output.p95() == {"voice\0gpt-4o\0responses": 10}


def test_hours_become_moments_at_their_end_and_never_in_the_future() -> None:
    hour_us = 3_600_000_000
    hours = [HourlyRequests("voice", "dev", "openai", "gpt-4o", hour * hour_us, hour) for hour in (2, 1)]
    assert [(use.requests, use.at_ms) for use in spent_of(hours, 2 * hour_us + 5_000)] == [(1, 7_200_000), (2, 7_200_005)]
