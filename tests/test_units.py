"""Quantities: exact money, durations as Go prints them, ids that never repeat."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.units import (
    INPUT_METERS,
    OUTPUT_METERS,
    PICOUSD_PER_USD,
    TOKEN_METERS,
    ExchangeIds,
    Meter,
    div_ceil,
    duration_text,
    tokens_of,
    usd_text,
)

# reference/limits-and-errors.md sections 2 and 3: what OpenAI was seen to print
DURATIONS = {
    0: "0s", -5: "0s", 1: "1µs", 999: "999µs", 1_000: "1ms", 1_500: "1.5ms", 6_000: "6ms", 9_000: "9ms", 12_000: "12ms", 20_000: "20ms",
    174_000: "174ms", 644_000: "644ms", 999_000: "999ms", 999_999: "999.999ms", 1_000_000: "1s", 1_000_001: "1.000001s",
    3_114_000: "3.114s",
    3_890_000: "3.89s", 8_640_000: "8.64s", 9_816_000: "9.816s", 18_642_000: "18.642s", 20_000_000: "20s", 59_999_000: "59.999s",
    60_000_000: "1m0s", 86_400_000: "1m26.4s", 360_000_000: "6m0s", 432_000_000: "7m12s", 3_599_000_000: "59m59s", 3_600_000_000: "1h0m0s",
    86_400_000_000: "24h0m0s",
}  # fmt: skip


@pytest.mark.parametrize(("duration_us", "text"), DURATIONS.items(), ids=DURATIONS.values())
def test_durations_are_as_go_prints_them(duration_us: int, text: str) -> None:
    assert duration_text(duration_us) == text


UNITS_US = {"h": 3_600_000_000, "m": 60_000_000, "s": 1_000_000, "ms": 1_000, "µs": 1}


@given(st.integers(0, 10**13))
def test_a_duration_reads_back_to_the_microsecond(duration_us: int) -> None:
    parts = re.findall(r"([0-9.]+)(h|ms|µs|m|s)", duration_text(duration_us))
    assert sum(Decimal(number) * UNITS_US[unit] for number, unit in parts) == duration_us


USD = {
    0: "0.00", 1: "0.000000000001", 38_120_000_000: "0.03812", 10**12: "1.00", 1_500_000_000_000: "1.50",
    1_234_567_890_123: "1.234567890123",
    -38_120_000_000: "-0.03812", 10**24: "1000000000000.00",
}  # fmt: skip


@pytest.mark.parametrize(("picousd", "text"), USD.items(), ids=USD.values())
def test_money_is_printed_exactly(picousd: int, text: str) -> None:
    assert usd_text(picousd) == text


@given(st.integers(-(10**20), 10**20))
def test_printed_money_reads_back_to_the_pico_dollar(picousd: int) -> None:
    text = usd_text(picousd)
    assert Decimal(text) * PICOUSD_PER_USD == picousd
    assert "E" not in text
    assert len(text.partition(".")[2]) >= 2


@given(st.integers(0, 10**18), st.integers(1, 10**9))
def test_division_is_rounded_up_and_by_less_than_one(dividend: int, divisor: int) -> None:
    quotient = div_ceil(dividend, divisor)
    assert (quotient - 1) * divisor < dividend <= quotient * divisor


def test_only_tokens_are_tokens() -> None:
    assert tokens_of({}) == 0
    assert tokens_of(dict.fromkeys(Meter, 1)) == len(TOKEN_METERS) == 11
    assert tokens_of({Meter.CHARACTERS: 9, Meter.IMAGES: 9, Meter.DURATION_IN_MS: 9, Meter.WEB_SEARCH_CALLS: 9}) == 0
    assert tokens_of({Meter.INPUT_TEXT: 60, Meter.CACHED_TEXT: 40, Meter.OUTPUT_AUDIO: 20}) == 120


def test_token_meters_are_input_or_output_and_none_is_both() -> None:
    assert not set(INPUT_METERS) & set(OUTPUT_METERS)
    assert set(TOKEN_METERS) == set(INPUT_METERS) | set(OUTPUT_METERS)
    assert {meter for meter in Meter if meter.value.endswith(("_text", "_audio", "_image"))} == set(TOKEN_METERS)


def test_meters_are_found_by_their_names() -> None:
    assert {Meter.INPUT_TEXT: 1}[Meter("input_text")] == 1
    assert {meter: meter.value for meter in Meter} == {meter.value: meter.value for meter in Meter}


def test_exchange_ids_sort_in_the_order_of_their_making_and_never_repeat() -> None:
    first, again = ExchangeIds(1_790_000_000_000), ExchangeIds(1_790_000_000_000)
    ids = [first.next() for _ in range(2_000)]
    assert ids == sorted(set(ids))
    assert not set(ids) & {again.next() for _ in range(2_000)}, "two workers that start in the same millisecond"
    assert ExchangeIds(1_790_000_000_001).next() > ids[-1]
    assert all(re.fullmatch(r"gx-[0-9a-f]{38}", one) for one in ids)
