"""Records to fold, and a ledger to fold them into."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.journal.format import Position
from gateway.journal.records import Entry, Intent, Record
from gateway.ledger import Folded
from gateway.ledger.sqlite import SqliteLedger
from gateway.units import Meter

NOON_US = 1_777_636_800_000_000  # 2026-05-01T12:00:00Z


def an_intent(number: int = 1, **changes: Any) -> Intent:
    intent = Intent(
        exchange_id=f"gx-{number}", session_id=None, team="voice", key="k1", account="openai", endpoint="chat",
        model_asked="gpt-4o", service_tier_asked=None, ask_usage={Meter.INPUT_TEXT: 400, Meter.OUTPUT_TEXT: 1_000},
        ask_cost_picousd=11_000_000_000, price_version="2025-06-01", client_request_id="mine", retry_count=0, admitted_at_us=NOON_US,
        marks=("store_away",),
    )  # fmt: skip
    return msgspec.structs.replace(intent, **changes)


def an_entry(number: int = 1, **changes: Any) -> Entry:
    entry = Entry(
        exchange_id=f"gx-{number}", session_id=None, team="voice", key="k1", account="openai", endpoint="chat",
        model_asked="gpt-4o", model_served="gpt-4o-2024-08-06", service_tier="default",
        usage={Meter.INPUT_TEXT: 120, Meter.OUTPUT_TEXT: 80}, details={"reasoning_tokens": 0}, usage_source="reported",
        cost_picousd=1_100_000_001, price_version="2025-06-01", status=200, error_code=None, upstream_request_id="req_1",
        client_request_id=None, admitted_at_us=NOON_US, ended_at_us=NOON_US + 1_000_001,
        timings_us={"sent": 90, "last": 900_000}, retry_count=0, outcome="ok", ask_tokens=1_400, streamed=True,
        answer_id=f"resp_{number}", body_bytes=1_024, marks=("shadow",),
    )  # fmt: skip
    return msgspec.structs.replace(entry, **changes)


class Books:
    """A ledger and the journal of one worker, as far as a test needs them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ledger = SqliteLedger(path, busy_timeout_ms=0)
        self.sequence = 0

    def fold(self, *records: Record, worker: str = "w0") -> Folded:
        """Fold records as the next batch of the worker's journal."""
        return self.ledger.fold(worker, self.next(records), records)

    def next(self, records: Sequence[Record]) -> Position:
        self.sequence += len(records)
        return Position(1, 1, 100 * self.sequence, self.sequence)

    def ids(self, **filters: str) -> list[str]:
        return [entry["exchange_id"] for entry in self.ledger.entries(filters)]

    def total(self) -> tuple[int, int, dict[Meter, int]]:
        """Calls, picoUSD and usage of everything, after the rollups were held against the entries."""
        assert self.ledger.recount().differences == ()
        rows = self.ledger.usage([])
        return (rows[0].calls, rows[0].cost_picousd, rows[0].usage) if rows else (0, 0, {})


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    books = Books(tmp_path / "ledger.db")
    yield books
    books.ledger.close()


@pytest.fixture(scope="session")
def make() -> Any:
    """The functions of this file: test modules do not import each other."""

    class Make:
        intent = staticmethod(an_intent)
        entry = staticmethod(an_entry)
        books = Books
        noon_us = NOON_US

    return Make
