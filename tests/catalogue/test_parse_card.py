"""A model card out of YAML: the format, what it becomes, and what is refused with which words."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from gateway.catalogue import RATE_SCALE
from gateway.catalogue.parse import modalities_without_price, parse_card
from gateway.catalogue.rates import PER_MILLION, PER_MINUTE_MS, PER_ONE, PER_THOUSAND, RATE_MAX, picousd_of, rate_of
from gateway.catalogue.schema import CardModel
from gateway.units import Limits, Meter

REALTIME = """
model: gpt-4o-realtime-preview
aliases: []
snapshots:
  - gpt-4o-realtime-preview-2025-06-03
  - gpt-4o-realtime-preview-2024-12-17
  - gpt-4o-realtime-preview-2024-10-01
context_window_tokens: 32000
max_output_tokens: 4096
knowledge_cutoff: 2023-10-01
modalities: {text: [input, output], audio: [input, output], image: []}
endpoints: [chat/completions, responses, realtime, assistants, batch, fine-tuning, embeddings, images/generations, images/edits,
            audio/speech, audio/transcriptions, audio/translations, moderations, completions]
features: {function_calling: true, structured_outputs: false, fine_tuning: false, distillation: false, predicted_outputs: false}
prices:                                 # the newest that is effective when the exchange ends applies
  - effective_from: 2024-10-01
    source: model card GPT-4o Realtime
    usd_per_million_tokens:
      text: {input: "5.00", cached: "2.50", output: "20.00"}
      audio: {input: "40.00", cached: "2.50", output: "80.00"}
limits:                                 # a tier that is not listed may not use the model (the card says of Free: not supported)
  tier-1: {rpm: 200, rpd: 1000, tpm: 40000}
  tier-2: {rpm: 400, tpm: 200000}
  tier-3: {rpm: 5000, tpm: 800000}
  tier-4: {rpm: 10000, tpm: 4000000}
  tier-5: {rpm: 20000, tpm: 15000000}
"""

CHAT = """
model: gpt-4o
snapshots: [gpt-4o-2024-08-06, gpt-4o-2024-11-20]
context_window_tokens: 128000
max_output_tokens: 16384
modalities: {text: [input, output], audio: [], image: [input]}
endpoints: [chat/completions, responses, assistants, batch, fine-tuning]
features: {function_calling: true, structured_outputs: true, fine_tuning: true, distillation: true, predicted_outputs: true}
prices:
  - effective_from: 2024-10-02
    source: price table of reference/usage-and-pricing.md
    usd_per_million_tokens:
      text: {input: "2.50", cached: "1.25", output: "10.00"}
    service_tiers:
      batch: {text: {input: "1.25", output: "5.00"}}
      priority: {text: {input: "4.25", cached: "2.125", output: "17.00"}}
limits:
  tier-1: {rpm: 500, tpm: 30000}
  tier-2: {rpm: 5000, tpm: 450000}
  tier-3: {rpm: 5000, tpm: 800000}
  tier-4: {rpm: 10000, tpm: 2000000}
  tier-5: {rpm: 10000, tpm: 30000000}
"""


def per_million(rates: dict[Meter, int]) -> dict[Meter, Decimal]:
    """Token rates as USD per million."""
    return {meter: Decimal(rate) / (RATE_SCALE * 1_000_000) for meter, rate in rates.items() if meter.endswith(("text", "audio", "image"))}


def raw(**changes: Any) -> dict[str, Any]:
    table = {"effective_from": "2024-10-02", "source": "a test", "usd_per_million_tokens": {"text": {"input": "1", "output": "2"}}}
    return {"model": "m", "prices": [table], **changes}


def raw_table(**changes: Any) -> dict[str, Any]:
    card = raw()
    return {**card, "prices": [{**card["prices"][0], **changes}]}


def test_the_realtime_card_becomes_what_it_says() -> None:
    card = parse_card(yaml.safe_load(REALTIME))
    (table,) = card.prices
    assert (table.version, table.effective_from_us) == ("gpt-4o-realtime-preview@2024-10-01", 1_727_740_800_000_000)
    assert per_million(table.standard) == {
        Meter.INPUT_TEXT: 5, Meter.CACHED_TEXT: Decimal("2.5"), Meter.OUTPUT_TEXT: 20,
        Meter.INPUT_AUDIO: 40, Meter.CACHED_AUDIO: Decimal("2.5"), Meter.OUTPUT_AUDIO: 80,
    }  # fmt: skip
    assert card.snapshots[-1] == "gpt-4o-realtime-preview-2024-10-01"
    assert (card.context_window_tokens, card.max_output_tokens, card.knowledge_cutoff) == (32_000, 4096, "2023-10-01")
    assert card.modalities == {"text": ("input", "output"), "audio": ("input", "output"), "image": ()}
    assert len(card.endpoints) == 14
    assert card.features["function_calling"] is True
    assert card.features["structured_outputs"] is False
    assert card.limits["tier-1"] == Limits(rpm=200, rpd=1000, tpm=40_000)
    assert card.limits["tier-2"] == Limits(rpm=400, rpd=None, tpm=200_000)
    assert "free" not in card.limits
    assert (card.reasoning, card.shutdown_date, card.data_residency_uplift_percent, card.snapshot_prices) == (False, None, 0, {})
    assert card.limit_group == "gpt-4o-realtime-preview"


def test_the_chat_card_becomes_what_it_says() -> None:
    card = parse_card(yaml.safe_load(CHAT))
    (table,) = card.prices
    assert per_million(table.service_tiers["priority"]) == {
        Meter.INPUT_TEXT: Decimal("4.25"), Meter.CACHED_TEXT: Decimal("2.125"), Meter.OUTPUT_TEXT: 17,
    }  # fmt: skip
    assert per_million(table.service_tiers["batch"]) == {
        Meter.INPUT_TEXT: Decimal("1.25"), Meter.CACHED_TEXT: Decimal("1.25"), Meter.OUTPUT_TEXT: 5,
    }  # fmt: skip
    assert table.long_context_above_tokens is None
    assert modalities_without_price(card) == ("image input",)


def test_all_price_forms_become_rates_of_one_unit() -> None:
    card = parse_card(
        raw_table(
            usd_per_minute={"input": "0.006", "output": "6"},
            usd_per_million_characters="15",
            usd_per_image="0.04",
            usd_per_thousand_calls={"web_search": "12"},
            usd_per_container_session={"4g": "0.5"},
        )
    )
    rates = card.prices[0].standard
    usd = RATE_SCALE * 10**12
    assert rates[Meter.DURATION_IN_MS] * 60_000 * 1000 == 6 * usd
    assert rates[Meter.DURATION_OUT_MS] * 60_000 == 6 * usd
    assert rates[Meter.CHARACTERS] * 1_000_000 == 15 * usd
    assert rates[Meter.IMAGES] * 25 == usd
    assert rates[Meter.WEB_SEARCH_CALLS] * 1000 == 12 * usd
    assert rates[Meter.FILE_SEARCH_CALLS] * 1000 * 2 == 5 * usd
    assert rates[Meter.CONTAINER_4G_SESSIONS] * 2 == usd
    assert rates[Meter.CONTAINER_SESSIONS] * 100 == 3 * usd


def test_tables_come_out_oldest_first_and_dates_may_be_text_or_dates() -> None:
    text, parsed = raw_table(effective_from="2025-01-01"), yaml.safe_load("2024-10-02")
    tables = [text["prices"][0], {**text["prices"][0], "effective_from": parsed}]
    assert [table.version for table in parse_card(raw(prices=tables)).prices] == ["m@2024-10-02", "m@2025-01-01"]


def test_keys_beyond_the_example_are_kept() -> None:
    card = parse_card(raw(reasoning=True, shutdown_date="2026-12-11", data_residency_uplift_percent=10, limit_group="g", aliases=["n"]))
    assert (card.reasoning, card.shutdown_date, card.data_residency_uplift_percent, card.limit_group) == (True, "2026-12-11", 10, "g")
    assert card.aliases == ("n",)


@pytest.mark.parametrize("price", [2.5, 2, True, None, ["2"]], ids=str)
def test_a_price_without_quotes_is_refused_and_told_to_be_quoted(price: object) -> None:
    with pytest.raises(ValidationError, match=r"a price is a quoted string of USD such as \"2.50\""):
        parse_card(raw_table(usd_per_million_characters=None, usd_per_minute={"input": "1"}, usd_per_container_session={"1g": price}))


@pytest.mark.parametrize("price", ["", "1e3", "1,5", "1.", ".5", "NaN", "inf", "2.50 ", "$2", "+1", "٢", "2.50\n", "0x1"])
def test_a_price_is_digits_with_a_point(price: str) -> None:
    with pytest.raises(ValidationError, match="a price is digits with an optional point"):
        parse_card(raw_table(usd_per_image=price))


def test_a_negative_price_is_refused() -> None:
    with pytest.raises(ValidationError, match="a price is not negative"):
        parse_card(raw_table(usd_per_image="-0.04"))


@pytest.mark.parametrize(
    "usd, per_units, rate",
    [
        ("2.50", PER_MILLION, 150_000_000_000),
        ("0.0000000001", PER_MILLION, 6),
        ("0.00000000005", PER_MILLION, 3),
        ("0.006", PER_MINUTE_MS, 6_000_000_000),
        ("0.000000000001", PER_MINUTE_MS, 1),
        ("10", PER_THOUSAND, 600_000_000_000_000),
        ("0.03", PER_ONE, 1_800_000_000_000_000),
        ("153.722867280912930", PER_ONE, RATE_MAX - 7),
    ],
)
def test_rates_are_exact(usd: str, per_units: int, rate: int) -> None:
    assert rate_of(usd, per_units) == rate


@pytest.mark.parametrize(
    "usd, per_units, words",
    [
        ("0.00000000001", PER_MILLION, "finer than 1/60000 pico-dollar"),
        ("0.0000000000001", PER_MINUTE_MS, "finer than 1/60000 pico-dollar"),
        ("153.722867280912931", PER_ONE, "more than a price can be"),
    ],
)
def test_a_price_that_is_not_whole_or_too_large_is_refused(usd: str, per_units: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        rate_of(usd, per_units)


def test_money_finer_than_a_pico_dollar_is_refused() -> None:
    assert picousd_of("0.000000000001") == 1
    with pytest.raises(ValueError, match="finer than a pico-dollar"):
        picousd_of("0.0000000000001")


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"modle": "x"}, "Extra inputs are not permitted"),
        ({"model": "has a space"}, "String should match pattern"),
        ({"model": ""}, "String should match pattern"),
        ({"endpoints": ["chat"]}, "Input should be 'chat/completions'"),
        ({"endpoints": ["batch", "batch"]}, "each endpoint is listed once; found twice: batch"),
        ({"modalities": {"text": ["in"]}}, "Input should be 'input' or 'output'"),
        ({"modalities": {"smell": []}}, "Input should be 'text', 'audio', 'image' or 'video'"),
        ({"features": {"function_calling": "yes"}}, "valid boolean"),
        ({"reasoning": "true"}, "valid boolean"),
        ({"context_window_tokens": 0}, "greater than or equal to 1"),
        ({"context_window_tokens": "32000"}, "valid integer"),
        ({"data_residency_uplift_percent": 101}, "less than or equal to 100"),
        ({"shutdown_date": "soon"}, 'a date is YYYY-MM-DD; found "soon"'),
        ({"shutdown_date": 2026}, "a date is YYYY-MM-DD, without a time; found 2026"),
        ({"snapshots": ["s", "s"]}, "each snapshot is listed once; found twice: s"),
        ({"aliases": ["m"]}, "model, aliases and snapshots are different names; found twice: m"),
        ({"aliases": ["s"], "snapshots": ["s"]}, "different names; found twice: s"),
        ({"snapshots": ["s"], "snapshot_prices": {"t": raw()["prices"]}}, "t is not a snapshot of this card; allowed: s"),
        ({"snapshot_prices": {"t": raw()["prices"]}}, "allowed: none, as the card lists no snapshots"),
        ({"prices": raw()["prices"] * 2}, "prices: each table has its own effective_from"),
        ({"snapshots": ["s"], "snapshot_prices": {"s": raw()["prices"] * 2}}, "snapshot_prices: s: each table has its own effective_from"),
        ({"limits": {"tier-1": {"rpm": 0}}}, "greater than or equal to 1"),
        ({"limits": {"tier-1": {"rpm": 1.5}}}, "valid integer"),
        ({"limits": {"tier-1": {"tpm": 30_000_000_001}}}, "less than or equal to 30000000000"),
        ({"limits": {"tier-1": {"rpd": 25_000_001}}}, "less than or equal to 25000000"),
        ({"limits": {"tier-1": {"tpd": 5}}}, "Extra inputs are not permitted"),
        ({"limits": {"auto": {"rpm": 5}}}, 'a tier cannot be called "auto"'),
    ],
)
def test_what_a_card_may_not_say(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as refused:
        parse_card(raw(**changes))
    assert words in str(refused.value)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"source": ""}, "at least 1 character"),
        ({"source": None}, "valid string"),
        ({"effective_from": "2024-13-01"}, "a date is YYYY-MM-DD"),
        ({"effective_from": yaml.safe_load("2024-10-02 10:00:00")}, "without a time"),
        ({"usd_per_million_tokens": None}, "a table states usd_per_million_tokens, usd_per_minute"),
        ({"usd_per_million_tokens": {"text": {"inptu": "1"}}}, "Extra inputs are not permitted"),
        ({"usd_per_million_tokens": {"audio": {"cache_write": "1"}}}, "Extra inputs are not permitted"),
        ({"usd_per_million_tokens": {"text": {"input": "0.00000000001"}}}, "finer than 1/60000 pico-dollar per unit"),
        ({"usd_per_container_session": {"2g": "1"}}, "Extra inputs are not permitted"),
        ({"service_tiers": {"default": {}}}, "Input should be 'batch', 'flex', 'priority' or 'ultrafast'"),
        ({"free": True}, "a table that is `free: true` states no other prices"),
        ({"long_context": {"above_input_tokens": 272_000}}, "Field required"),
        ({"long_context": {"above_input_tokens": 0, "usd_per_million_tokens": {}}}, "greater than or equal to 1"),
    ],
)
def test_what_a_price_table_may_not_say(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as refused:
        parse_card(raw_table(**changes))
    assert words in str(refused.value)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ValidationError) as refused:
        parse_card({"endpoints": ["chat"], "reasoning": 1, "prices": [{}]})
    assert {error["loc"] for error in refused.value.errors()} == {
        ("model",), ("endpoints", 0), ("reasoning",), ("prices", 0, "effective_from"), ("prices", 0, "source"),
    }  # fmt: skip


def test_the_largest_limits_are_allowed() -> None:
    card = parse_card(raw(limits={"tier-1": {"rpm": 1, "rpd": 25_000_000, "tpm": 30_000_000_000}}))
    assert card.limits["tier-1"].tpm == 30_000_000_000


def test_editors_get_a_schema_in_which_prices_are_text() -> None:
    schema = CardModel.model_json_schema()
    price = schema["$defs"]["TextPrices"]["properties"]["input"]["anyOf"][0]
    assert price["type"] == "string"
    assert schema["additionalProperties"] is False
