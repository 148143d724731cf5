"""The bill itself: values in, a verdict out. Anything that differs must turn it red."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace as replaced
from typing import Any

import msgspec
import pytest

from gateway.cli.demo.bill import NOBODY, Bill, make_bill
from gateway.cli.demo.paper import as_json_value, verdict_lines
from gateway.simulator import Line
from gateway.units import Meter

ASKED = {"gx-1": "search", "gx-2": "support"}


def entry(exchange_id: str, team: str, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "exchange_id": exchange_id,
        "team": team,
        "model_served": "gpt-4o-mini",
        "service_tier": "default",
        "usage": {"input_text": 100, "cached_text": 20, "output_text": 7},
        "details": {"reasoning_tokens": 3},
        "usage_source": "reported",
        "cost_picousd": 20_700_000,
        "upstream_request_id": "req_1",
    }
    return values | changes


def line(exchange_id: str | None, **changes: Any) -> Line:
    made = Line(
        kind="billed", request_id="req_1", client_request_id=exchange_id, method="POST", path="/v1/chat/completions", model="gpt-4o-mini",
        service_tier="default", quantities={Meter.INPUT_TEXT: 100, Meter.CACHED_TEXT: 20, Meter.OUTPUT_TEXT: 7},
        details={"reasoning_tokens": 3}, cost_picousd=20_700_000, status=200, streamed=False, complete=True, answer_id="chatcmpl-1",
        started_at_us=1, ended_at_us=2,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def bill(entries: list[dict[str, Any]], account: list[Line]) -> Bill:
    return make_bill(entries, account, ASKED)


def test_the_same_on_both_sides_is_equal_and_summed_by_team() -> None:
    made = bill([entry("gx-1", "search"), entry("gx-2", "support")], [line("gx-1"), line("gx-2")])
    assert made.equal
    assert [(row.team, row.booked.calls, row.booked.cost_picousd) for row in made.rows] == [
        ("search", 1, 20_700_000),
        ("support", 1, 20_700_000),
    ]
    assert (made.total.booked.calls, made.total.served.cost_picousd) == (2, 41_400_000)
    assert (made.total.booked.input_tokens, made.total.booked.cached_tokens, made.total.booked.reasoning_tokens) == (200, 40, 6)
    assert next(verdict_lines(made)).startswith("EQUAL to the last digit: 2 calls, $0.0000414 ")


def test_nothing_on_both_sides_is_not_called_equal() -> None:
    made = bill([], [])
    assert not made.equal
    assert next(verdict_lines(made)).startswith("NOTHING WAS USED")


def test_what_costs_nothing_needs_no_entry() -> None:
    assert bill([entry("gx-1", "search")], [line("gx-1"), line("gx-9", kind="refused", quantities={}, cost_picousd=0)]).equal


REDS: dict[str, Callable[[], Bill]] = {
    "a pico-dollar more": lambda: bill([entry("gx-1", "search", cost_picousd=20_700_001)], [line("gx-1")]),
    "a token less": lambda: bill([entry("gx-1", "search", usage={"input_text": 99, "cached_text": 20, "output_text": 7})], [line("gx-1")]),
    "a cached token booked as a fresh one": lambda: bill(
        [entry("gx-1", "search", usage={"input_text": 101, "cached_text": 19, "output_text": 7})], [line("gx-1")]
    ),
    "a reasoning token less": lambda: bill([entry("gx-1", "search", details={"reasoning_tokens": 2})], [line("gx-1")]),
    "unpriced here": lambda: bill([entry("gx-1", "search", cost_picousd=None)], [line("gx-1")]),
    "unpriced on both sides": lambda: bill([entry("gx-1", "search", cost_picousd=None)], [line("gx-1", cost_picousd=None)]),
    "the other team's": lambda: bill([entry("gx-1", "support")], [line("gx-1")]),
    "another service tier": lambda: bill([entry("gx-1", "search", service_tier="priority")], [line("gx-1")]),
    "never booked": lambda: bill([entry("gx-1", "search")], [line("gx-1"), line("gx-2")]),
    "never served": lambda: bill([entry("gx-1", "search"), entry("gx-2", "support")], [line("gx-1")]),
    "booked twice": lambda: bill([entry("gx-1", "search")] * 2, [line("gx-1")]),
    "estimated": lambda: bill([entry("gx-1", "search", usage_source="estimated", cost_picousd=1)], [line("gx-1")]),
    "served past the gateway": lambda: bill([entry("gx-1", "search")], [line("gx-1"), line(None)]),
}


@pytest.mark.parametrize("make", REDS.values(), ids=REDS.keys())
def test_any_difference_turns_it_red(make: Callable[[], Bill]) -> None:
    made = make()
    assert not made.equal
    assert next(verdict_lines(made)).startswith("NOT EQUAL")
    assert as_json_value(made)["equal"] is False
    assert any(not row.equal for row in made.rows)


def test_what_no_client_asked_for_is_nobodys() -> None:
    made = bill([], [line("gx-unknown")])
    assert [row.team for row in made.rows] == [NOBODY]


def test_a_verdict_shows_ten_differences_and_counts_the_rest() -> None:
    asked = {f"gx-{n}": "search" for n in range(12)}
    made = make_bill([entry(name, "search", cost_picousd=1) for name in asked], [line(name) for name in asked], asked)
    lines = list(verdict_lines(replaced(made, refused={"search": 2}, failures=("search: 1 calls, the last /x: status 500",))))
    assert sum("cost_picousd" in text for text in lines) == 10
    assert "  and 2 more" in lines
    assert lines[-2:] == ["Refused at their limits, and not billed: search 2.", "Failed: search: 1 calls, the last /x: status 500"]
