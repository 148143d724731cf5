"""Every entry and intent can be made to fit the room that an intent reserves."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.journal.fit import COST_PICOUSD_MAX, OUT_OF_RANGE, QUANTITY_MAX, billable, clip, fit_entry, fit_intent, in_range
from gateway.journal.format import ENTRY_BYTES_MAX, HEADER_BYTES
from gateway.journal.records import TEXT_CHARS_MAX
from gateway.units import Meter

ENTRY_TEXTS = (
    "exchange_id", "session_id", "team", "key", "account", "endpoint", "model_asked", "model_served", "service_tier", "price_version",
    "error_code", "upstream_request_id", "client_request_id", "outcome", "answer_id",
)  # fmt: skip
ENTRY_NUMBERS = ("cost_picousd", "status", "retry_count", "ask_tokens", "admitted_at_us", "ended_at_us")
INTENT_TEXTS = (
    "exchange_id", "session_id", "team", "key", "account", "endpoint", "model_asked", "service_tier_asked", "price_version",
    "client_request_id",
)  # fmt: skip
ROOM = ENTRY_BYTES_MAX - HEADER_BYTES
wild_text = st.text(st.characters(), max_size=300) | st.just("\ud800" * 300) | st.just("é" * 300) | st.just("x" * 9_000)
wild_number = st.integers(-(2**80), 2**80) | st.sampled_from([2**62, 2**63, 2**64, -(2**63) - 1])


@pytest.mark.parametrize(
    ("text", "clipped"),
    [
        ("", ""),
        ("x" * TEXT_CHARS_MAX, "x" * TEXT_CHARS_MAX),
        ("x" * (TEXT_CHARS_MAX + 1), "x" * TEXT_CHARS_MAX),
        ("naïve", r"na\xefve"),
        ("\ud800", r"\ud800"),
        (None, None),
    ],
    ids=["empty", "as long as may be", "one too long", "not ASCII", "half a surrogate pair", "absent"],
)
def test_clip(text: str | None, clipped: str | None) -> None:
    assert clip(text) == clipped


def test_the_longest_entry_fits(make: Any) -> None:
    many = {f"{'x' * 300}{number}": 2**62 for number in range(99)}
    worst = {f"{number:02d}{'x' * 300}": 2**62 for number in range(99)}
    entry = make.entry(
        **dict.fromkeys(ENTRY_TEXTS, "\U0001f600" * 300),
        usage=dict.fromkeys(Meter, QUANTITY_MAX), cost_picousd=COST_PICOUSD_MAX, details=worst, timings_us=worst,
        marks=tuple(many), status=2**62, retry_count=2**62, ask_tokens=2**62, body_bytes=2**62,
    )  # fmt: skip
    fitted = fit_entry(entry)
    assert ROOM // 2 < len(msgspec.msgpack.encode(fitted)) <= ROOM
    assert (fitted.usage, fitted.cost_picousd, fitted.usage_source) == (entry.usage, entry.cost_picousd, "reported")


def test_the_longest_intent_fits(make: Any) -> None:
    intent = make.intent(
        **dict.fromkeys(INTENT_TEXTS, "\U0001f600" * 300),
        ask_usage=dict.fromkeys(Meter, 2**90), ask_cost_picousd=2**90, marks=("x" * 300,) * 99,
    )  # fmt: skip
    assert len(msgspec.msgpack.encode(fit_intent(intent))) <= ROOM


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_entry_can_be_made_to_fit_and_be_kept(make: Any, data: st.DataObject) -> None:
    changes: dict[str, Any] = {name: data.draw(wild_text) for name in data.draw(st.sets(st.sampled_from(ENTRY_TEXTS)))}
    for name in data.draw(st.sets(st.sampled_from(ENTRY_NUMBERS))):
        changes[name] = data.draw(wild_number)
    changes["usage"] = data.draw(st.dictionaries(st.sampled_from(list(Meter)), wild_number, max_size=5))
    changes["details"] = data.draw(st.dictionaries(wild_text, wild_number, max_size=30))
    fitted = fit_entry(make.entry(**changes))
    assert len(msgspec.msgpack.encode(fitted)) <= ROOM
    assert in_range(fitted)
    assert fit_entry(fitted) == fitted


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"usage": {Meter.INPUT_TEXT: QUANTITY_MAX}}, True),
        ({"usage": {Meter.INPUT_TEXT: QUANTITY_MAX + 1}}, False),
        ({"usage": {Meter.INPUT_TEXT: -1}}, False),
        ({"usage": {}}, True),
        ({"cost_picousd": COST_PICOUSD_MAX}, True),
        ({"cost_picousd": COST_PICOUSD_MAX + 1}, False),
        ({"cost_picousd": -1}, False),
        ({"cost_picousd": None}, True),
    ],
    ids=["most of a meter", "one more", "less than none", "nothing used", "highest cost", "one more pico", "negative cost", "unpriced"],
)
def test_numbers_that_no_ledger_can_hold_make_the_entry_unknown_and_unpriced(make: Any, changes: dict[str, Any], kept: bool) -> None:
    entry = make.entry(**changes)
    fitted = fit_entry(entry)
    assert billable(entry) is kept
    if kept:
        assert (fitted.usage, fitted.cost_picousd, fitted.usage_source, fitted.marks) == (entry.usage, entry.cost_picousd, "reported", ())
    else:
        assert (fitted.usage, fitted.cost_picousd, fitted.usage_source, fitted.marks) == ({}, None, "unknown", (OUT_OF_RANGE,))


def test_a_wild_number_in_a_header_does_not_make_a_call_free(make: Any) -> None:
    entry = make.entry(retry_count=10**30)
    fitted = fit_entry(entry)
    assert fitted.retry_count is None
    assert (fitted.usage, fitted.cost_picousd, fitted.usage_source) == (entry.usage, entry.cost_picousd, "reported")
