"""Edges of pricing: dates, tiers, thresholds, what is missing, rounding; and what holds for any usage."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.catalogue import Card
from gateway.catalogue.parse import parse_card
from gateway.pricing import CostClass, Priced, Unpriced, cost_lines, price, price_ask
from gateway.units import PICOUSD_PER_USD, Meter, Usage

DAY_US = 86_400_000_000
OCTOBER_2_US = 1_727_827_200_000_000  # 2024-10-02
JANUARY_1_US = OCTOBER_2_US + 91 * DAY_US  # 2025-01-01
NOVEMBER_2026_US = 1_795_305_600_000_000  # 2026-11-22


def table(effective_from: str = "2024-10-02", **keys: Any) -> dict[str, Any]:
    if not keys.keys() & {"free", "usd_per_minute"}:
        keys.setdefault("usd_per_million_tokens", {"text": {"input": "2.50", "cached": "1.25", "output": "10.00"}})
    return {"effective_from": effective_from, "source": "a test", **keys}


def card_of(*tables: dict[str, Any], **keys: Any) -> Card:
    return parse_card({"model": "m", "prices": list(tables), **keys})


def cost(card: Card, usage: Usage, service_tier: str | None = None, at_us: int = NOVEMBER_2026_US, **options: Any) -> int:
    priced = price(card, "m", service_tier, usage, at_us, **options)
    assert isinstance(priced, Priced)
    return priced.cost_picousd


@pytest.mark.parametrize(
    "at_us, expected",
    [
        (OCTOBER_2_US - 1, Unpriced(frozenset({Meter.INPUT_TEXT}), "no_table", None)),
        (OCTOBER_2_US, Priced(2_500_000, "m@2024-10-02")),
        (JANUARY_1_US - 1, Priced(2_500_000, "m@2024-10-02")),
        (JANUARY_1_US, Priced(3_000_000, "m@2025-01-01")),
        (NOVEMBER_2026_US, Priced(3_000_000, "m@2025-01-01")),
    ],
    ids=["before all tables", "as the first begins", "just before the second", "as the second begins", "long after"],
)
def test_the_newest_table_effective_at_the_end_applies(at_us: int, expected: Priced | Unpriced) -> None:
    newer = table("2025-01-01", usd_per_million_tokens={"text": {"input": "3.00"}})
    card = card_of(newer, table())  # in any order
    assert price(card, "m", None, {Meter.INPUT_TEXT: 1}, at_us) == expected


def test_a_card_without_tables_prices_nothing() -> None:
    assert price(card_of(), "m", None, {Meter.INPUT_TEXT: 1, Meter.OUTPUT_TEXT: 0}, NOVEMBER_2026_US) == Unpriced(
        frozenset({Meter.INPUT_TEXT}), "no_table", None
    )


def test_a_snapshot_with_prices_of_its_own_never_falls_back_to_the_cards() -> None:
    card = card_of(table(), snapshots=["m-1"], snapshot_prices={"m-1": [table("2025-01-01")]})
    assert price(card, "m-1", None, {Meter.INPUT_TEXT: 1}, JANUARY_1_US - 1) == Unpriced(frozenset({Meter.INPUT_TEXT}), "no_table", None)
    assert price(card, "m-1", None, {Meter.INPUT_TEXT: 1}, JANUARY_1_US) == Priced(2_500_000, "m-1@2025-01-01")


TIERED = table(
    service_tiers={
        "priority": {"text": {"input": "4.25", "cached": "2.125", "output": "17.00"}},
        "flex": {"text": {"input": "1.00"}},
        "batch": {"text": {"input": "1.25", "output": "5.00"}},
    }
)


@pytest.mark.parametrize(
    "service_tier, picousd",
    [
        (None, 2_500_000), ("", 2_500_000), ("default", 2_500_000), ("auto", 2_500_000), ("standard", 2_500_000), ("scale", 2_500_000),
        ("priority", 4_250_000), ("fast", 4_250_000), ("flex", 1_000_000), ("batch", 1_250_000),
    ],
)  # fmt: skip
def test_the_tier_served_picks_the_row(service_tier: str | None, picousd: int) -> None:
    assert cost(card_of(TIERED), {Meter.INPUT_TEXT: 1}, service_tier) == picousd


@pytest.mark.parametrize("service_tier", ["ultrafast", "Priority", "something new"])
def test_a_tier_without_a_row_is_unpriced(service_tier: str) -> None:
    unpriced = price(card_of(TIERED), "m", service_tier, {Meter.INPUT_TEXT: 1, Meter.OUTPUT_TEXT: 0}, NOVEMBER_2026_US)
    assert unpriced == Unpriced(frozenset({Meter.INPUT_TEXT}), "no_service_tier", "m@2024-10-02")


def test_a_row_that_lacks_a_meter_does_not_borrow_it_from_the_standard_row() -> None:
    unpriced = price(card_of(TIERED), "m", "flex", {Meter.INPUT_TEXT: 9, Meter.CACHED_TEXT: 1, Meter.OUTPUT_TEXT: 2}, NOVEMBER_2026_US)
    assert unpriced == Unpriced(frozenset({Meter.CACHED_TEXT, Meter.OUTPUT_TEXT}), "no_rate", "m@2024-10-02")


def test_batch_bills_cached_input_as_input_only_where_no_cached_price_is_given() -> None:
    assert cost(card_of(TIERED), {Meter.CACHED_TEXT: 1}, "batch") == 1_250_000
    stated = table(service_tiers={"batch": {"text": {"input": "1.25", "cached": "0.125", "output": "5.00"}}})
    assert cost(card_of(stated), {Meter.CACHED_TEXT: 1}, "batch") == 125_000


@pytest.mark.parametrize("meter", [Meter.INPUT_AUDIO, Meter.INPUT_IMAGE, Meter.CACHE_WRITE_TEXT, Meter.DURATION_IN_MS, Meter.IMAGES])
def test_a_meter_without_price_is_unpriced_and_named(meter: Meter) -> None:
    assert price(card_of(table()), "m", None, {Meter.INPUT_TEXT: 5, meter: 1}, NOVEMBER_2026_US) == Unpriced(
        frozenset({meter}), "no_rate", "m@2024-10-02"
    )
    assert cost(card_of(table()), {Meter.INPUT_TEXT: 5, meter: 0}) == 12_500_000  # a quantity of 0 needs no price


def test_images_in_the_input_have_the_text_prices_when_the_card_says_so() -> None:
    card = card_of({**TIERED, "image_input_priced_as_text": True})
    assert cost(card, {Meter.INPUT_IMAGE: 1, Meter.CACHED_IMAGE: 1}) == 2_500_000 + 1_250_000
    assert cost(card, {Meter.INPUT_IMAGE: 1, Meter.CACHED_IMAGE: 1}, "batch") == 2 * 1_250_000
    assert isinstance(price(card, "m", None, {Meter.OUTPUT_IMAGE: 1}, NOVEMBER_2026_US), Unpriced)


def test_usage_below_zero_cannot_lower_a_bill() -> None:
    unpriced = price(card_of(table()), "m", None, {Meter.INPUT_TEXT: 5, Meter.CACHED_TEXT: -1}, NOVEMBER_2026_US)
    assert unpriced == Unpriced(frozenset({Meter.CACHED_TEXT}), "negative_quantity", "m@2024-10-02")


def test_what_is_free_costs_nothing_in_any_tier_and_still_has_a_version() -> None:
    card = card_of(table(free=True))
    for service_tier in (None, "batch", "priority"):
        assert price(card, "m", service_tier, {Meter.INPUT_TEXT: 100}, NOVEMBER_2026_US) == Priced(0, "m@2024-10-02")
    assert cost(card, {}) == 0


LONG_ROW = {"text": {"input": "5.00", "cached": "2.50", "output": "15.00"}}
LONG = table(
    long_context={"above_input_tokens": 272_000, "usd_per_million_tokens": LONG_ROW, "service_tiers": {"flex": LONG_ROW}},
    service_tiers={"flex": {"text": {"input": "1.25", "output": "5.00"}}, "priority": LONG_ROW},
)


@pytest.mark.parametrize(
    "input_tokens, picousd",
    [
        (271_999, 271_999 * 2_500_000 + 10_000_000),
        (272_000, 272_000 * 2_500_000 + 10_000_000),
        (272_001, 272_001 * 5_000_000 + 15_000_000),
    ],
    ids=["one under the threshold", "exactly at it", "one over: the whole call"],
)
def test_long_context_applies_to_the_whole_call_above_the_threshold(input_tokens: int, picousd: int) -> None:
    assert cost(card_of(LONG), {Meter.INPUT_TEXT: input_tokens, Meter.OUTPUT_TEXT: 1}) == picousd


@pytest.mark.parametrize(
    "usage, picousd",
    [
        ({Meter.INPUT_TEXT: 1, Meter.CACHED_TEXT: 271_999}, 2_500_000 + 271_999 * 1_250_000),
        ({Meter.INPUT_TEXT: 1, Meter.CACHED_TEXT: 272_000}, 5_000_000 + 272_000 * 2_500_000),
        ({Meter.INPUT_TEXT: 272_000, Meter.OUTPUT_TEXT: 300_000}, 272_000 * 2_500_000 + 300_000 * 10_000_000),
    ],
    ids=["cached input counts, exactly at", "cached input counts, one over", "output does not count"],
)
def test_the_threshold_counts_all_input_and_no_output(usage: Usage, picousd: int) -> None:
    assert cost(card_of(LONG), usage) == picousd


def test_long_context_has_rows_of_its_own_by_tier() -> None:
    assert cost(card_of(LONG), {Meter.INPUT_TEXT: 272_001}, "flex") == 272_001 * 5_000_000
    assert cost(card_of(LONG), {Meter.INPUT_TEXT: 272_000}, "priority") == 272_000 * 5_000_000
    unpriced = price(card_of(LONG), "m", "priority", {Meter.INPUT_TEXT: 272_001}, NOVEMBER_2026_US)
    assert unpriced == Unpriced(frozenset({Meter.INPUT_TEXT}), "no_service_tier", "m@2024-10-02")


def test_tool_fees_are_the_same_in_every_row() -> None:
    tools = {Meter.WEB_SEARCH_CALLS: 1, Meter.FILE_SEARCH_CALLS: 1, Meter.CONTAINER_64G_SESSIONS: 1}
    fees = 10_000_000_000 + 2_500_000_000 + 1_920_000_000_000
    for service_tier in (None, "flex", "priority"):
        assert cost(card_of(LONG), tools, service_tier) == fees
    assert cost(card_of(LONG), {**tools, Meter.INPUT_TEXT: 272_001}) == fees + 272_001 * 5_000_000


@pytest.mark.parametrize("reasoning, usd_per_thousand", [(False, 25), (True, 10)], ids=["a model that does not reason", "one that does"])
def test_the_preview_search_fee_depends_on_reasoning(reasoning: bool, usd_per_thousand: int) -> None:
    card = card_of(table(), reasoning=reasoning)
    assert cost(card, {Meter.WEB_SEARCH_PREVIEW_CALLS: 1000}) == usd_per_thousand * PICOUSD_PER_USD


@pytest.mark.parametrize(
    "usd, duration_ms, picousd",
    [("0.006", 1, 100_000), ("0.000001", 1, 17), ("0.000001", 3, 50), ("0.000001", 59_999, 999_984), ("0.000001", 60_000, 1_000_000)],
    ids=["whole", "16.67 is rounded up", "whole again", "999,983.3 is rounded up", "a minute is exact"],
)
def test_a_price_per_minute_divides_once_and_rounds_up(usd: str, duration_ms: int, picousd: int) -> None:
    assert cost(card_of(table(usd_per_minute={"input": usd})), {Meter.DURATION_IN_MS: duration_ms}) == picousd


@pytest.mark.parametrize(
    "usd_per_million, percent, tokens, picousd",
    [("2.50", 10, 1, 2_750_000), ("0.000001", 10, 1, 2), ("0.000001", 10, 10, 11), ("0.000001", 10, 11, 13), ("0.000001", 0, 11, 11)],
    ids=["whole", "1.1 is rounded up", "11 is whole", "12.1 is rounded up once, not per token", "a card without uplift"],
)
def test_the_uplift_is_exact_and_rounded_up_once(usd_per_million: str, percent: int, tokens: int, picousd: int) -> None:
    prices = {"text": {"input": usd_per_million}}
    card = card_of(table(usd_per_million_tokens=prices), data_residency_uplift_percent=percent)
    assert cost(card, {Meter.INPUT_TEXT: tokens}, data_residency=True) == picousd


def test_without_data_residency_there_is_no_uplift() -> None:
    assert cost(card_of(table(), data_residency_uplift_percent=10), {Meter.INPUT_TEXT: 1}) == 2_500_000


WRITES = table(usd_per_million_tokens={"text": {"input": "2.00", "cached": "0.20", "cache_write": "2.50", "output": "10.00"}})


@pytest.mark.parametrize(
    "prices, ask, picousd",
    [
        (WRITES, {Meter.INPUT_TEXT: 1000, Meter.OUTPUT_TEXT: 100}, 1000 * 2_500_000 + 100 * 10_000_000),
        (WRITES, {Meter.INPUT_TEXT: 1000, Meter.CACHE_WRITE_TEXT: 5}, 1005 * 2_500_000),
        (table(), {Meter.INPUT_TEXT: 1000, Meter.OUTPUT_TEXT: 100}, 1000 * 2_500_000 + 100 * 10_000_000),
        (table(), {Meter.OUTPUT_TEXT: 100}, 100 * 10_000_000),
    ],
    ids=["input may all be written to the cache", "beside writes asked for", "no price for writes: input", "no text input"],
)
def test_an_ask_is_priced_at_its_worst(prices: dict[str, Any], ask: Usage, picousd: int) -> None:
    before = dict(ask)
    assert price_ask(card_of(prices), "m", None, ask, NOVEMBER_2026_US) == Priced(picousd, "m@2024-10-02")
    assert ask == before


def test_an_ask_without_a_price_is_unpriced() -> None:
    unpriced = price_ask(card_of(WRITES), "m", "flex", {Meter.INPUT_TEXT: 1}, NOVEMBER_2026_US)
    assert unpriced == Unpriced(frozenset({Meter.INPUT_TEXT}), "no_service_tier", "m@2024-10-02")


def test_cost_lines_tell_the_classes_apart(cards: dict[str, Card]) -> None:
    usage = {Meter.INPUT_TEXT: 88, Meter.CACHED_TEXT: 512, Meter.INPUT_AUDIO: 72, Meter.CACHED_AUDIO: 128, Meter.OUTPUT_TEXT: 60}
    usage |= {Meter.OUTPUT_AUDIO: 400, Meter.WEB_SEARCH_CALLS: 1}
    lines = cost_lines(cards["gpt-4o-realtime-preview"], "gpt-4o-realtime-preview", None, usage, NOVEMBER_2026_US)
    assert lines == {
        CostClass.INPUT: 440_000_000,
        CostClass.CACHED_INPUT: 1_280_000_000,
        CostClass.OUTPUT: 1_200_000_000,
        CostClass.AUDIO: 35_200_000_000,
        CostClass.TOOL: 10_000_000_000,
    }


def test_cost_lines_of_what_is_unpriced_are_unpriced() -> None:
    assert cost_lines(card_of(table()), "m", None, {Meter.IMAGES: 1}, NOVEMBER_2026_US) == Unpriced(
        frozenset({Meter.IMAGES}), "no_rate", "m@2024-10-02"
    )


ALL_METERS = card_of(
    table(
        usd_per_million_tokens={
            "text": {"input": "1.25", "cached": "0.13", "cache_write": "1.5625", "cache_write_12h": "3.125", "output": "10"},
            "audio": {"input": "32", "cached": "0.40", "output": "64"},
            "image": {"input": "5", "cached": "0.0000001", "output": "30"},
        },
        usd_per_minute={"input": "0.0000017", "output": "0.000000001"},
        usd_per_million_characters="0.0000003",
        usd_per_image="0.04",
    ),
    data_residency_uplift_percent=7,
)
WHOLE_METERS = [meter for meter in Meter if not meter.startswith("duration") and meter not in (Meter.CACHED_IMAGE, Meter.CHARACTERS)]
QUANTITIES = st.integers(0, 2_000_000)
USAGES = st.dictionaries(st.sampled_from(list(Meter)), QUANTITIES)


@settings(deadline=None, max_examples=150)
@given(first=st.dictionaries(st.sampled_from(WHOLE_METERS), QUANTITIES), second=st.dictionaries(st.sampled_from(WHOLE_METERS), QUANTITIES))
def test_cost_is_additive_where_rates_are_whole(first: Usage, second: Usage) -> None:
    both = {meter: first.get(meter, 0) + second.get(meter, 0) for meter in {*first, *second}}
    assert cost(ALL_METERS, both) == cost(ALL_METERS, first) + cost(ALL_METERS, second)


@settings(deadline=None, max_examples=150)
@given(first=USAGES, second=USAGES, data_residency=st.booleans())
def test_rounding_up_adds_less_than_a_pico_dollar_an_entry(first: Usage, second: Usage, data_residency: bool) -> None:
    both = {meter: first.get(meter, 0) + second.get(meter, 0) for meter in {*first, *second}}
    apart = cost(ALL_METERS, first, data_residency=data_residency) + cost(ALL_METERS, second, data_residency=data_residency)
    assert 0 <= apart - cost(ALL_METERS, both, data_residency=data_residency) <= 1


@settings(deadline=None, max_examples=150)
@given(usage=USAGES, data_residency=st.booleans())
def test_cost_lines_sum_to_the_cost_and_are_never_negative(usage: Usage, data_residency: bool) -> None:
    lines = cost_lines(ALL_METERS, "m", None, usage, NOVEMBER_2026_US, data_residency=data_residency)
    assert isinstance(lines, dict)
    assert sum(lines.values()) == cost(ALL_METERS, usage, data_residency=data_residency)
    assert all(line >= 0 for line in lines.values())


@settings(deadline=None, max_examples=150)
@given(
    usage=st.dictionaries(st.sampled_from(list(Meter)), st.integers(-3, 3)),
    tier=st.sampled_from([None, "batch", "flex", "x"]),
    at_us=st.sampled_from([0, NOVEMBER_2026_US]),
)
def test_any_usage_gives_a_cost_or_says_why_not(usage: Usage, tier: str | None, at_us: int) -> None:
    outcome = price(card_of(LONG), "m", tier, usage, at_us)
    if isinstance(outcome, Priced):
        assert outcome.cost_picousd >= 0
        assert min(usage.values(), default=0) >= 0
    else:
        assert outcome.meters <= {meter for meter, quantity in usage.items() if quantity}
