"""What can be asked of a ledger, also from another process while the books write."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gateway
from gateway.ledger import HourlyRequests, LedgerForeign, LedgerUnavailable, UsageRow
from gateway.ledger.questions import SqliteQuestions
from gateway.ledger.rows import days_of, time_text
from gateway.units import Meter

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US

PUBLISHED_KEYS = [
    "exchange_id", "session_id", "team", "key", "account", "endpoint", "model_asked", "model_served", "service_tier",
    "usage", "details", "usage_source", "cost_picousd", "price_version", "status", "error_code", "upstream_request_id",
    "client_request_id", "admitted_at", "ended_at", "timings_us", "retry_count",
]  # fmt: skip


def test_an_entry_is_shown_with_the_published_keys_in_their_order(books: Any, make: Any) -> None:
    books.fold(make.entry(1))
    (shown,) = books.ledger.entries()
    assert list(shown)[: len(PUBLISHED_KEYS)] == PUBLISHED_KEYS
    assert list(shown)[len(PUBLISHED_KEYS) :] == ["outcome", "streamed", "answer_id", "marks", "revision", "origin"]
    assert shown["usage"] == {"input_text": 120, "output_text": 80}
    assert (shown["admitted_at"], shown["ended_at"]) == ("2026-05-01T12:00:00.000000Z", "2026-05-01T12:00:01.000001Z")
    assert (shown["cost_picousd"], shown["streamed"], shown["marks"], shown["timings_us"]["sent"]) == (1_100_000_001, True, ["shadow"], 90)


@pytest.mark.parametrize(
    ("at_us", "text"),
    [(0, "1970-01-01T00:00:00.000000Z"), (1, "1970-01-01T00:00:00.000001Z"), (253_402_300_799_999_999, "9999-12-31T23:59:59.999999Z")],
    ids=["the first", "one later", "the last"],
)
def test_times_read_as_rfc_3339(at_us: int, text: str) -> None:
    assert time_text(at_us) == text


def test_entries_are_filtered_bounded_and_sorted(books: Any, make: Any) -> None:
    noon = make.noon_us
    books.fold(
        make.entry(3, admitted_at_us=noon + 2),
        make.entry(1, admitted_at_us=noon, team="search", model_served=None, service_tier=None),
        make.entry(2, admitted_at_us=noon + 1, session_id="s1", outcome="client_gone"),
    )
    ask = books.ledger.entries
    ids = lambda *args, **options: [entry["exchange_id"] for entry in ask(*args, **options)]  # noqa: E731
    assert ids() == ["gx-1", "gx-2", "gx-3"]
    assert ids(limit=2) == ["gx-2", "gx-3"]
    assert ids(limit=0) == []
    assert ids(since_us=noon + 1) == ["gx-2", "gx-3"]
    assert ids(until_us=noon + 2) == ["gx-1", "gx-2"]
    assert ids(since_us=noon + 1, until_us=noon + 2) == ["gx-2"]
    assert books.ids(team="search") == books.ids(model="gpt-4o") == ["gx-1"]
    assert books.ids(service_tier="default") == ["gx-1", "gx-2", "gx-3"]
    assert books.ids(session_id="s1") == books.ids(outcome="client_gone") == ["gx-2"]
    assert books.ids(team="search", outcome="client_gone") == []
    with pytest.raises(ValueError, match="'teem'"):
        list(ask({"teem": "voice"}))


def test_only_the_effective_revision_unless_all_are_asked_for(books: Any, make: Any) -> None:
    books.fold(make.entry(1, cost_picousd=1))
    books.ledger.supersede(make.entry(1, cost_picousd=2))
    books.ledger.supersede(make.entry(1, cost_picousd=3))
    assert [entry["cost_picousd"] for entry in books.ledger.entries()] == [3]
    assert [entry["cost_picousd"] for entry in books.ledger.entries(effective_only=False)] == [1, 2, 3]
    assert [entry["cost_picousd"] for entry in books.ledger.entries(effective_only=False, limit=2)] == [2, 3]
    assert books.ledger.effective("gx-1").cost_picousd == 3
    assert books.ledger.effective("gx-2") is None


def test_an_iterator_of_entries_can_be_left_early(books: Any, make: Any) -> None:
    books.fold(*(make.entry(number) for number in range(50)))
    iterator = books.ledger.entries()
    next(iterator)
    iterator.close()
    books.fold(make.entry(99))


def test_usage_by_everything(books: Any, make: Any) -> None:
    books.fold(
        make.entry(1),
        make.entry(2, service_tier=None, usage_source="estimated"),
        make.entry(3, service_tier="priority", cost_picousd=None),
        make.entry(4, usage={}, usage_source="not_billed", cost_picousd=0, model_served=None, model_asked=None),
        make.entry(5, usage_source="unknown", key="k2", account="other", endpoint="responses"),
    )
    both = {Meter.INPUT_TEXT: 120, Meter.OUTPUT_TEXT: 80}
    twice = {meter: 2 * quantity for meter, quantity in both.items()}
    assert books.ledger.usage(["model", "service_tier"], filters={"key": "k1"}) == [
        UsageRow({"model": None, "service_tier": "default"}, 1, {}, 0, 0, 0, 0, 0, 1),
        UsageRow({"model": "gpt-4o-2024-08-06", "service_tier": "default"}, 2, twice, 2_200_000_002, 0, 1, 1, 0, 0),
        UsageRow({"model": "gpt-4o-2024-08-06", "service_tier": "priority"}, 1, both, 0, 1, 1, 0, 0, 0),
    ]
    everything = ["team", "key", "account", "endpoint", "model", "service_tier", "day", "hour"]
    rows = books.ledger.usage(everything, filters={"account": "other"})
    assert [list(row.by.values()) for row in rows] == [
        ["voice", "k2", "other", "responses", "gpt-4o-2024-08-06", "default", "2026-05-01", "2026-05-01T12:00:00Z"]
    ]
    assert list(rows[0].by) == everything
    assert books.ledger.usage(["team"], filters={"team": "nobody"}) == []
    with pytest.raises(ValueError, match="'models'"):
        books.ledger.usage(["models"])
    with pytest.raises(ValueError, match="'day'"):
        books.ledger.usage(["team"], filters={"day": "2026-05-01"})


def test_usage_is_asked_in_whole_hours(books: Any, make: Any) -> None:
    books.ledger.usage(["team"], make.noon_us, make.noon_us + HOUR_US)
    for since_us, until_us in ((make.noon_us + 1, None), (None, make.noon_us - 1)):
        with pytest.raises(ValueError, match="by the hour"):
            books.ledger.usage(["team"], since_us, until_us)


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_any_range_adds_up_to_the_entries_in_it(tmp_path_factory: pytest.TempPathFactory, make: Any, data: st.DataObject) -> None:
    start_us = make.noon_us - 12 * HOUR_US
    edges = st.sampled_from([0, DAY_US - 1, DAY_US, HOUR_US - 1, HOUR_US])
    offsets = data.draw(st.lists(st.integers(0, 5 * DAY_US - 1) | edges, max_size=30))
    books = make.books(tmp_path_factory.mktemp("ledger") / "ledger.db")
    books.fold(*(make.entry(number, admitted_at_us=start_us + offset, cost_picousd=number) for number, offset in enumerate(offsets)))
    for _ in range(8):
        first, after = data.draw(st.integers(-3, 123)), data.draw(st.integers(-3, 123))
        costs = [number for number, offset in enumerate(offsets) if first * HOUR_US <= offset < after * HOUR_US]
        for by in ([], ["hour"], ["day"]):
            rows = books.ledger.usage(by, start_us + first * HOUR_US, start_us + after * HOUR_US)
            assert (sum(row.calls for row in rows), sum(row.cost_picousd for row in rows)) == (len(costs), sum(costs))
    books.ledger.close()


def test_money_beyond_64_bits_stays_exact(books: Any, make: Any) -> None:
    cost = 2**62 - 1
    for start in (0, 30):
        books.fold(*(make.entry(number, cost_picousd=cost) for number in range(start, start + 30)))
    assert books.total()[:2] == (60, 60 * cost)
    books.ledger.supersede(make.entry(7, cost_picousd=1))
    assert books.total()[:2] == (60, 59 * cost + 1)
    assert books.ledger.spent("voice", "2026-05") == 59 * cost + 1


def test_spent_in_a_day_and_a_month_of_utc(books: Any, make: Any) -> None:
    may_us = make.noon_us - 12 * HOUR_US
    books.fold(
        make.entry(1, admitted_at_us=may_us - 1, cost_picousd=1),
        make.entry(2, admitted_at_us=may_us, cost_picousd=10),
        make.entry(3, admitted_at_us=may_us + DAY_US - 1, cost_picousd=100, key="k2"),
        make.entry(4, admitted_at_us=may_us + DAY_US, cost_picousd=1_000),
        make.entry(5, admitted_at_us=may_us + 31 * DAY_US - 1, cost_picousd=10_000),
        make.entry(6, admitted_at_us=may_us + 31 * DAY_US, cost_picousd=100_000),
        make.entry(7, admitted_at_us=may_us, cost_picousd=10**6, team="search"),
    )
    spent = books.ledger.spent
    assert spent("voice", "2026-05-01") == 110
    assert spent("voice", "2026-05") == 11_110
    assert spent("voice", "2026-04") == 1
    assert spent("voice", "2026-06-01") == 100_000
    assert spent("voice", "2026-05", key="k2") == 100
    assert spent("nobody", "2026-05") == 0


@pytest.mark.parametrize(
    ("period", "days"),
    [("1970-01", (0, 31)), ("1970-12", (334, 365)), ("1972-02", (761, 790)), ("1970-01-01", (0, 1)), ("1972-02-29", (789, 790))],
    ids=["january", "december", "a leap february", "a day", "a leap day"],
)
def test_periods(period: str, days: tuple[int, int]) -> None:
    assert days_of(period) == days


@pytest.mark.parametrize("period", ["", "2026", "2026-13", "2026-02-29", "yesterday"])
def test_what_is_no_period_is_refused(books: Any, period: str) -> None:
    with pytest.raises(ValueError):
        books.ledger.spent("voice", period)


def test_requests_since_counts_every_call_by_hour(books: Any, make: Any) -> None:
    noon = make.noon_us
    books.fold(
        make.entry(1, admitted_at_us=noon - 1),
        make.entry(2, admitted_at_us=noon),
        make.entry(3, admitted_at_us=noon + HOUR_US - 1, usage_source="not_billed", cost_picousd=0),
        make.entry(4, admitted_at_us=noon + HOUR_US),
    )
    place = ("voice", "k1", "openai", "gpt-4o-2024-08-06")
    assert books.ledger.requests_since(noon + 5) == [HourlyRequests(*place, noon, 2), HourlyRequests(*place, noon + HOUR_US, 1)]
    assert len(books.ledger.requests_since(noon - 1)) == 3
    assert books.ledger.requests_since(noon + 2 * HOUR_US) == []


def test_an_answer_remembers_who_made_it_first(books: Any, make: Any) -> None:
    books.fold(make.entry(1, answer_id="resp_a"), make.entry(2, answer_id=None))
    books.fold(make.entry(3, answer_id="resp_a", team="thief"))
    books.ledger.supersede(make.entry(1, answer_id="resp_a", cost_picousd=7))
    assert books.ledger.owner_of("resp_a") == "voice"
    assert books.ledger.by_answer_id("resp_a") == make.entry(1, answer_id="resp_a", cost_picousd=7)
    assert books.ledger.owner_of("resp_b") is None
    assert books.ledger.by_answer_id("resp_b") is None


def test_a_recount_finds_what_is_wrong(books: Any, make: Any) -> None:
    books.fold(make.entry(1))
    assert books.ledger.recount().differences == ()
    other = sqlite3.connect(books.path)
    other.execute("UPDATE rollup_days SET cost_low = cost_low + 1")
    other.commit()
    other.close()
    first, second = books.ledger.recount().differences
    assert "'cost_low': 100000001" in first
    assert "rollup_days says" in second


CHILD = """
import sys
from pathlib import Path
from gateway.ledger.questions import SqliteQuestions
ledger = SqliteQuestions(Path(sys.argv[1]))
print(ledger.usage([])[0].calls, len(list(ledger.entries())), len(ledger.recount().differences))
"""


def asked_elsewhere(path: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(Path(gateway.__file__).parents[1])}
    asked = subprocess.run([sys.executable, "-c", CHILD, str(path)], env=environment, capture_output=True, check=True, text=True)
    return asked.stdout.strip()


def test_another_process_reads_while_the_books_write_and_after_they_closed(tmp_path: Path, make: Any) -> None:
    books = make.books(tmp_path / "ledger.db")
    books.fold(make.entry(1))
    books.fold(make.entry(2))
    assert asked_elsewhere(books.path) == "2 2 0"
    books.fold(make.entry(3))
    books.ledger.close()
    assert asked_elsewhere(books.path) == "3 3 0"


def test_a_ledger_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnavailable, match=r"nowhere\.db"):
        SqliteQuestions(tmp_path / "nowhere.db").usage(["team"])
    assert not (tmp_path / "nowhere.db").exists()


def test_readers_do_not_bring_an_older_file_up_to_date(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "old.db").close()
    with pytest.raises(LedgerForeign, match="older"):
        SqliteQuestions(tmp_path / "old.db").usage(["team"])
