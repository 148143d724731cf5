"""Makes any entry and intent fit the room that was reserved: texts clipped, impossible numbers named. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import overload

from msgspec.structs import replace

from gateway.journal.records import TEXT_CHARS_MAX, Entry, Intent
from gateway.units import Meter

QUANTITY_MAX = 2**36  # of one meter in one exchange (two years in ms, 68 G characters); keeps sums over 10**8 rows inside 64 bits
COST_PICOUSD_MAX = 2**62  # of one exchange: $4.6 M
NUMBER_MAX = 2**62  # of anything else that is kept: 64-bit signed is what MessagePack and SQLite share
TIME_US_MAX = 253_402_300_799_999_999  # the end of the year 9999, where RFC 3339 ends
FACTS_MAX = 16  # details, timings and marks each; today's observers make at most ten
FACT_CHARS_MAX = 40
OUT_OF_RANGE = "out_of_range"


@overload
def clip(text: str) -> str: ...
@overload
def clip(text: str | None) -> str | None: ...
def clip(text: str | None) -> str | None:
    r"""A foreign text in at most TEXT_CHARS_MAX bytes. What is not ASCII is escaped (`\xe9`), so it always encodes."""
    if text is None:
        return None
    if not text.isascii():
        text = text[:TEXT_CHARS_MAX].encode("ascii", "backslashreplace").decode("ascii")
    return text[:TEXT_CHARS_MAX]


def in_range(entry: Entry) -> bool:
    """Whether every number of the entry can be kept and summed."""
    if not billable(entry) or not (0 <= entry.admitted_at_us <= TIME_US_MAX and 0 <= entry.ended_at_us <= TIME_US_MAX):
        return False
    return max(entry.status or 0, entry.retry_count or 0, entry.ask_tokens or 0, entry.body_bytes) <= NUMBER_MAX


def billable(entry: Entry) -> bool:
    """Whether usage and cost are numbers that can be kept and summed."""
    cost, usage = entry.cost_picousd, entry.usage
    if cost is not None and not 0 <= cost <= COST_PICOUSD_MAX:
        return False
    return not usage or (max(usage.values()) <= QUANTITY_MAX and min(usage.values()) >= 0)


def fit_entry(entry: Entry) -> Entry:
    """The same entry in less than ENTRY_BYTES_MAX.

    Texts are clipped and facts beyond FACTS_MAX dropped. Usage or cost that no 64-bit ledger can hold is not kept as a wrong
    number: the entry becomes `unknown` and unpriced, with the mark `out_of_range`.
    """
    late = entry.late_usage if entry.late_usage and not entry.usage and _usage_in_range(entry.late_usage) else None  # room for one usage
    marks = tuple(clip(mark)[:FACT_CHARS_MAX] for mark in entry.marks[:FACTS_MAX])
    if not billable(entry):  # of these alone: a wild retry count in a header must not make a call free
        entry = replace(entry, usage={}, usage_source="unknown", cost_picousd=None)
        marks = (*marks[: FACTS_MAX - 1], OUT_OF_RANGE)
    return replace(
        entry,
        exchange_id=clip(entry.exchange_id),
        session_id=clip(entry.session_id),
        team=clip(entry.team),
        key=clip(entry.key),
        account=clip(entry.account),
        endpoint=clip(entry.endpoint),
        model_asked=clip(entry.model_asked),
        model_served=clip(entry.model_served),
        service_tier=clip(entry.service_tier),
        price_version=clip(entry.price_version),
        error_code=clip(entry.error_code),
        upstream_request_id=clip(entry.upstream_request_id),
        client_request_id=clip(entry.client_request_id),
        outcome=clip(entry.outcome),
        answer_id=clip(entry.answer_id),
        details=_facts(entry.details),
        timings_us=_facts(entry.timings_us),
        status=_number(entry.status),
        admitted_at_us=max(0, min(entry.admitted_at_us, TIME_US_MAX)),
        ended_at_us=max(0, min(entry.ended_at_us, TIME_US_MAX)),
        retry_count=_number(entry.retry_count),
        ask_tokens=_number(entry.ask_tokens),
        body_bytes=min(entry.body_bytes, NUMBER_MAX),
        marks=marks,
        late_usage=late,
    )


def fit_intent(intent: Intent) -> Intent:
    """The same intent in less than ENTRY_BYTES_MAX. An ask beyond the range is cut to it: it is an upper bound of its own kind."""
    return replace(
        intent,
        exchange_id=clip(intent.exchange_id),
        session_id=clip(intent.session_id),
        team=clip(intent.team),
        key=clip(intent.key),
        account=clip(intent.account),
        endpoint=clip(intent.endpoint),
        model_asked=clip(intent.model_asked),
        service_tier_asked=clip(intent.service_tier_asked),
        price_version=clip(intent.price_version),
        client_request_id=clip(intent.client_request_id),
        ask_usage=_ask(intent.ask_usage),
        ask_cost_picousd=None if intent.ask_cost_picousd is None else min(intent.ask_cost_picousd, COST_PICOUSD_MAX),
        retry_count=_number(intent.retry_count),
        marks=tuple(clip(mark)[:FACT_CHARS_MAX] for mark in intent.marks[:FACTS_MAX]),
    )


def _usage_in_range(usage: Mapping[Meter, int]) -> bool:
    return not usage or (max(usage.values()) <= QUANTITY_MAX and min(usage.values()) >= 0)


def _ask(usage: Mapping[Meter, int]) -> dict[Meter, int]:
    return {meter: min(quantity, QUANTITY_MAX) for meter, quantity in usage.items()}


def _facts(facts: Mapping[str, int]) -> dict[str, int]:
    kept = [(clip(name)[:FACT_CHARS_MAX], value) for name, value in facts.items() if abs(value) <= NUMBER_MAX]
    return dict(kept[:FACTS_MAX])


def _number(value: int | None) -> int | None:
    return value if value is not None and abs(value) <= NUMBER_MAX else None
