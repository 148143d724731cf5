"""An entry as a row, a row as an entry, and as what people are shown."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from gateway.journal.records import Entry

CONTENT_COLUMNS = (
    "exchange_id", "session_id", "team", "key", "account", "endpoint", "model_asked", "model_served", "service_tier",
    "usage", "details", "usage_source", "cost_picousd", "price_version", "status", "error_code",
    "upstream_request_id", "client_request_id", "admitted_at_us", "ended_at_us", "timings_us", "retry_count",
    "outcome", "ask_tokens", "streamed", "answer_id", "body_bytes", "marks",
)  # fmt: skip
COLUMNS = (*CONTENT_COLUMNS, "revision", "origin")
INSERT_ENTRY = f"INSERT INTO entries ({', '.join(COLUMNS)}, id) VALUES ({', '.join('?' * (len(COLUMNS) + 1))})"
ENTRY_KEYS = (
    "exchange_id", "session_id", "team", "key", "account", "endpoint", "model_asked", "model_served", "service_tier",
    "usage", "details", "usage_source", "cost_picousd", "price_version", "status", "error_code",
    "upstream_request_id", "client_request_id", "admitted_at", "ended_at", "timings_us", "retry_count",
    "outcome", "streamed", "answer_id", "marks", "revision", "origin",
)  # fmt: skip
"""What `entries` shows of each, in this order. The first 22 are the published form."""

Content = tuple[Any, ...]

_JSON_COLUMNS = frozenset({"usage", "details", "timings_us", "marks"})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_json = msgspec.json.Encoder()


def content_of(entry: Entry) -> Content:
    """The values of CONTENT_COLUMNS. Two entries say the same if and only if these are equal."""
    encode = _json.encode
    return (
        entry.exchange_id, entry.session_id, entry.team, entry.key, entry.account, entry.endpoint,
        entry.model_asked, entry.model_served, entry.service_tier,
        encode(entry.usage).decode(), encode(entry.details).decode(), entry.usage_source, entry.cost_picousd, entry.price_version,
        entry.status, entry.error_code, entry.upstream_request_id, entry.client_request_id,
        entry.admitted_at_us, entry.ended_at_us, encode(entry.timings_us).decode(), entry.retry_count,
        entry.outcome, entry.ask_tokens, int(entry.streamed), entry.answer_id, entry.body_bytes, encode(entry.marks).decode(),
    )  # fmt: skip


def entry_of(content: Sequence[Any]) -> Entry:
    """The entry that a row's CONTENT_COLUMNS hold."""
    values: dict[str, Any] = dict(zip(CONTENT_COLUMNS, content, strict=True))
    for name in _JSON_COLUMNS:
        values[name] = msgspec.json.decode(values[name])
    values["streamed"] = bool(values["streamed"])
    return msgspec.convert(["e", *(values[name] for name in CONTENT_COLUMNS)], Entry)  # the order of Entry; `late_usage` is another's


def shown(row: sqlite3.Row) -> dict[str, Any]:
    """A row as `gateway entries --json` prints it: exactly ENTRY_KEYS, times in RFC 3339 with microseconds, UTC."""
    raw: dict[str, Any] = dict(zip(row.keys(), row, strict=True))
    for name in _JSON_COLUMNS:
        raw[name] = msgspec.json.decode(raw[name])
    raw["streamed"] = bool(raw["streamed"])
    raw["admitted_at"] = time_text(raw["admitted_at_us"])
    raw["ended_at"] = time_text(raw["ended_at_us"])
    return {key: raw[key] for key in ENTRY_KEYS}


def time_text(at_us: int) -> str:
    """Unix microseconds as RFC 3339: "2026-05-01T13:37:00.000001Z"."""
    return (_EPOCH + timedelta(microseconds=at_us)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def day_text(day: int) -> str:
    """Days since 1970 as "2026-05-01"."""
    return (_EPOCH + timedelta(days=day)).strftime("%Y-%m-%d")


def hour_text(hour: int) -> str:
    """Hours since 1970 as "2026-05-01T13:00:00Z"."""
    return (_EPOCH + timedelta(hours=hour)).strftime("%Y-%m-%dT%H:00:00Z")


def days_of(period: str) -> tuple[int, int]:
    """First day and the day after the last, since 1970, of "2026-05-01" or "2026-05". ValueError for anything else."""
    if len(period) == 7:
        first = datetime.strptime(period, "%Y-%m").replace(tzinfo=UTC)
        after = (first + timedelta(days=31)).replace(day=1)
    else:
        first = datetime.strptime(period, "%Y-%m-%d").replace(tzinfo=UTC)
        after = first + timedelta(days=1)
    return (first - _EPOCH).days, (after - _EPOCH).days
