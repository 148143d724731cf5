"""The cards in `config/models/`: they load, agree with each other, and say what the reference says."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest
import yaml

from gateway.catalogue import RATE_SCALE, Card, Catalogue, Rates
from gateway.catalogue.parse import modalities_without_price, parse_card
from gateway.units import Limits, Meter

CONFIG = Path(__file__).parents[2] / "config"
FILES = sorted((CONFIG / "models").glob("*.yaml"))


@pytest.fixture(scope="module")
def cards() -> dict[str, Card]:
    return {card.model: card for card in map(load, FILES)}


def load(path: Path) -> Card:
    return parse_card(yaml.safe_load(path.read_text()))


def usd(rates: Rates, *meters: Meter) -> str:
    """Prices per million as the reference prints them: "2.5/1.25/10", "-" where there is none."""
    return "/".join(plain(Decimal(rates[meter]) / (RATE_SCALE * 1_000_000)) if meter in rates else "-" for meter in meters)


def plain(price: Decimal | str) -> str:
    return f"{Decimal(price).normalize():f}"


def printed(prices: str) -> str:
    return "/".join(price if price == "-" else plain(price) for price in prices.split("/"))


TEXT = (Meter.INPUT_TEXT, Meter.CACHED_TEXT, Meter.OUTPUT_TEXT)
AUDIO = (Meter.INPUT_AUDIO, Meter.CACHED_AUDIO, Meter.OUTPUT_AUDIO)
WRITES = (Meter.INPUT_TEXT, Meter.CACHED_TEXT, Meter.CACHE_WRITE_TEXT, Meter.OUTPUT_TEXT)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_card_loads_and_prices_all_it_names(path: Path) -> None:
    card = load(path)
    assert path.stem == card.model.replace(":", "-")
    assert card.prices
    assert modalities_without_price(card) == ()
    for table in card.prices:
        assert table.source
        if {"chat/completions", "responses"} & set(card.endpoints):
            rows = [table.standard, *table.service_tiers.values(), *table.long_context_service_tiers.values()]
            rows += [table.long_context] if table.long_context else []
            assert all(Meter.INPUT_TEXT in row and Meter.OUTPUT_TEXT in row for row in rows)
        if table.long_context_above_tokens is not None:
            assert table.long_context_service_tiers.keys() == table.service_tiers.keys()


def test_every_name_leads_to_one_card(cards: dict[str, Card]) -> None:
    claims = Counter(name for card in cards.values() for name in (card.model, *card.aliases, *card.snapshots))
    assert claims.most_common(1)[0][1] == 1
    names = Catalogue(tuple(cards.values())).by_name()
    assert names["gpt-4o-realtime-preview-2024-10-01"].model == "gpt-4o-realtime-preview"
    assert names["gpt-4o-2024-05-13"].model == "gpt-4o-2024-05-13"
    assert "gpt-4o-2024-05-13" not in cards["gpt-4o"].snapshots


def test_limits_name_tiers_that_exist(cards: dict[str, Card]) -> None:
    tiers = yaml.safe_load((CONFIG / "tiers.yaml").read_text())["tiers"]
    for card in cards.values():
        assert card.limits.keys() <= tiers.keys()


def test_the_realtime_card_is_the_model_page(cards: dict[str, Card]) -> None:
    card = cards["gpt-4o-realtime-preview"]
    assert usd(card.prices[0].standard, *TEXT, *AUDIO) == "5/2.5/20/40/2.5/80"
    assert card.limits == {
        "tier-1": Limits(200, 1000, 40_000),
        "tier-2": Limits(400, None, 200_000),
        "tier-3": Limits(5000, None, 800_000),
        "tier-4": Limits(10_000, None, 4_000_000),
        "tier-5": Limits(20_000, None, 15_000_000),
    }
    assert card.modalities["image"] == ()


# model | standard | batch (cached as input where none is printed) | flex | priority: reference/usage-and-pricing.md section 4.2
PRINTED = """
gpt-4o            | 2.50/1.25/10    | 1.25/1.25/5      |                  | 4.25/2.125/17
gpt-4o-2024-05-13 | 5/-/15          | 2.50/2.50/7.50   |                  | 8.75/-/26.25
gpt-4o-mini       | 0.15/0.075/0.60 | 0.075/0.075/0.30 |                  | 0.25/0.125/1
gpt-4.1           | 2/0.50/8        | 1/1/4            |                  | 3.50/0.875/14
gpt-4.1-mini      | 0.40/0.10/1.60  | 0.20/0.20/0.80   |                  | 0.70/0.175/2.80
gpt-4.1-nano      | 0.10/0.025/0.40 | 0.05/0.05/0.20   |                  | 0.20/0.05/0.80
gpt-5             | 1.25/0.125/10   | 0.625/0.0625/5   | 0.625/0.0625/5   | 2.50/0.25/20
gpt-5.1           | 1.25/0.125/10   | 0.625/0.0625/5   | 0.625/0.0625/5   | 2.50/0.25/20
gpt-5-mini        | 0.25/0.025/2    | 0.125/0.0125/1   | 0.125/0.0125/1   | 0.45/0.045/3.60
gpt-5-nano        | 0.05/0.005/0.40 | 0.025/0.0025/0.2 | 0.025/0.0025/0.2 |
gpt-5-pro         | 15/-/120        | 7.50/7.50/60     |                  |
gpt-5.2           | 1.75/0.175/14   | 0.875/0.0875/7   | 0.875/0.0875/7   | 3.50/0.35/28
gpt-5.4           | 2.50/0.25/15    | 1.25/0.13/7.50   | 1.25/0.13/7.50   | 5/0.50/30
gpt-5.4-mini      | 0.75/0.075/4.50 | 0.375/0.0375/2.25| 0.375/0.0375/2.25| 1.50/0.15/9
gpt-5.4-nano      | 0.20/0.02/1.25  | 0.10/0.01/0.625  | 0.10/0.01/0.625  |
gpt-5.5           | 5/0.50/30       | 2.50/0.25/15     | 2.50/0.25/15     | 12.50/1.25/75
gpt-5.4-pro       | 30/-/180        | 15/15/90         | 15/-/90          |
gpt-5.5-pro       | 30/-/180        | 15/15/90         | 15/-/90          |
o1                | 15/7.50/60      | 7.50/7.50/30     |                  |
o1-pro            | 150/-/600       | 75/75/300        |                  |
o3                | 2/0.50/8        | 1/1/4            | 1/0.25/4         | 3.5/0.875/14
o3-pro            | 20/-/80         | 10/10/40         |                  |
o3-mini           | 1.10/0.55/4.40  | 0.55/0.55/2.20   |                  |
o4-mini           | 1.10/0.275/4.40 | 0.55/0.55/2.20   | 0.55/0.138/2.2   | 2/0.5/8
o3-deep-research  | 10/2.50/40      | 5/5/20           |                  |
o4-mini-deep-research | 2/0.50/8    | 1/1/4            |                  |
gpt-4o-search-preview | 2.50/-/10   |                  |                  |
gpt-5-search-api  | 1.25/0.125/10   |                  |                  |
computer-use-preview | 3/-/12       |                  |                  |
gpt-3.5-turbo     | 0.50/-/1.50     |                  |                  |
gpt-3.5-turbo-instruct | 1.50/-/2   |                  |                  |
davinci-002       | 2/-/2           |                  |                  |
babbage-002       | 0.40/-/0.40     |                  |                  |
ft:gpt-4o-2024-08-06 | 3.75/1.875/15 |                 |                  |
ft:gpt-4.1-2025-04-14 | 3/0.75/12   |                  |                  |
"""


@pytest.mark.parametrize("line", PRINTED.strip().splitlines(), ids=lambda line: line.split()[0])
def test_text_models_cost_what_the_reference_prints(line: str, cards: dict[str, Card]) -> None:
    model, standard, *tiers = (cell.strip() for cell in line.split("|"))
    (table,) = cards[model].prices
    assert usd(table.standard, *TEXT) == printed(standard)
    expected = {tier: printed(row) for tier, row in zip(("batch", "flex", "priority"), tiers, strict=True) if row}
    assert {tier: usd(row, *TEXT) for tier, row in table.service_tiers.items()} == expected


@pytest.mark.parametrize(
    "model, now, before",
    [
        ("gpt-5.6", "4/0.4/5/20", "5/0.5/6.25/30"),
        ("gpt-5.6-sol", "4/0.4/5/20", "5/0.5/6.25/30"),
        ("gpt-5.6-terra", "2/0.2/2.5/12", "2.5/0.25/3.125/15"),
        ("gpt-5.6-luna", "0.2/0.02/0.25/1.2", "1/0.1/1.25/6"),
        ("gpt-6-astra", "10/1/12.5/50", None),
        ("gpt-6-sol", "2/0.2/2.5/10", None),
        ("gpt-6-luna", "0.1/0.01/0.125/0.5", None),
        ("gpt-6.1-sol", "2/0.1/2.5/10", None),
        ("gpt-6.1-terra", "1/0.05/1.25/5", None),
    ],
)
def test_models_with_cache_writes_cost_what_the_reference_prints(model: str, now: str, before: str | None, cards: dict[str, Card]) -> None:
    card = cards[model]
    assert [usd(table.standard, *WRITES) for table in card.prices] == [row for row in (before, now) if row]
    assert card.reasoning
    assert card.data_residency_uplift_percent == 10


@pytest.mark.parametrize(
    "model", ["gpt-5.4", "gpt-5.5", "gpt-5.4-pro", "gpt-5.5-pro", "gpt-5.6", "gpt-5.6-luna", "gpt-6-astra", "gpt-6.1-sol"]
)
def test_long_context_doubles_input_and_adds_half_to_output(model: str, cards: dict[str, Card]) -> None:
    for table in cards[model].prices:
        assert table.long_context_above_tokens == 272_000
        pairs = [(table.standard, table.long_context)]
        pairs += [(row, table.long_context_service_tiers[tier]) for tier, row in table.service_tiers.items()]
        for short, long in pairs:
            assert short.keys() == long.keys()
            for meter in {Meter.INPUT_TEXT, Meter.CACHED_TEXT, Meter.CACHE_WRITE_TEXT, Meter.CACHE_WRITE_12H_TEXT} & short.keys():
                assert long[meter] == 2 * short[meter]
            assert 2 * long[Meter.OUTPUT_TEXT] == 3 * short[Meter.OUTPUT_TEXT]


@pytest.mark.parametrize(
    "tier, twice_the_factor",
    [("batch", 1), ("flex", 1), ("priority", 4), ("ultrafast", 12)],
    ids=["half", "half in flex", "double", "six times"],
)
def test_rows_of_the_newest_models_are_multiples_in_every_token_price(tier: str, twice_the_factor: int, cards: dict[str, Card]) -> None:
    model = "gpt-6-astra"
    (table,) = cards[model].prices
    for meter in (*WRITES, Meter.CACHE_WRITE_12H_TEXT, Meter.INPUT_IMAGE, Meter.CACHED_IMAGE):
        assert 2 * table.service_tiers[tier][meter] == twice_the_factor * table.standard[meter]
    assert table.standard[Meter.CACHE_WRITE_12H_TEXT] * 2 == 5 * table.standard[Meter.INPUT_TEXT]


def test_ultrafast_has_a_row_only_where_the_reference_gives_one(cards: dict[str, Card]) -> None:
    paid = {model: card.prices[-1] for model, card in cards.items() if model != "omni-moderation-latest"}  # free in every tier
    assert {model for model, table in paid.items() if "ultrafast" in table.service_tiers} == {"gpt-6-astra", "gpt-6.1-sol"}


@pytest.mark.parametrize(
    "model, text, audio, image",
    [
        ("gpt-4o-mini-realtime-preview", "0.6/0.3/2.4", "10/0.3/20", "-/-"),
        ("gpt-realtime", "4/0.4/16", "32/0.4/64", "5/0.5"),
        ("gpt-realtime-mini", "0.6/0.06/2.4", "10/0.3/20", "0.8/0.08"),
        ("gpt-realtime-1.5", "4/0.4/16", "32/0.4/64", "5/0.5"),
        ("gpt-realtime-2", "4/0.4/24", "32/0.4/64", "5/0.5"),
        ("gpt-realtime-2.1", "4/0.4/24", "32/0.4/64", "5/0.5"),
        ("gpt-realtime-2.1-mini", "0.6/0.06/2.4", "10/0.3/20", "0.8/0.08"),
        ("gpt-audio", "2.5/2.5/10", "32/32/64", "-/-"),
        ("gpt-audio-1.5", "2.5/2.5/10", "32/32/64", "-/-"),
        ("gpt-audio-mini", "0.6/0.6/2.4", "10/10/20", "-/-"),
        ("gpt-4o-audio-preview", "2.5/2.5/10", "40/40/80", "-/-"),
        ("gpt-4o-mini-audio-preview", "0.15/0.15/0.6", "10/10/20", "-/-"),
        ("gpt-4o-transcribe", "2.5/-/10", "2.5/-/-", "-/-"),
        ("gpt-4o-transcribe-diarize", "2.5/-/10", "2.5/-/-", "-/-"),
        ("gpt-4o-mini-transcribe", "1.25/-/5", "1.25/-/-", "-/-"),
        ("gpt-4o-mini-tts", "0.6/-/-", "-/-/12", "-/-"),
        ("gpt-image-1", "5/1.25/-", "-/-/-", "10/2.5"),
        ("gpt-image-1-mini", "2/0.2/-", "-/-/-", "2.5/0.25"),
        ("gpt-image-1.5", "5/1.25/10", "-/-/-", "8/2"),
        ("chatgpt-image-latest", "5/1.25/10", "-/-/-", "8/2"),
        ("gpt-image-2", "5/1.25/-", "-/-/-", "8/2"),
        ("gpt-image-2.5-sunburst", "5/1.25/-", "-/-/-", "8/2"),
        ("gpt-image-2.5-flare", "5/1.25/-", "-/-/-", "8/2"),
        ("text-embedding-3-small", "0.02/-/-", "-/-/-", "-/-"),
        ("text-embedding-3-large", "0.13/-/-", "-/-/-", "-/-"),
        ("text-embedding-ada-002", "0.1/-/-", "-/-/-", "-/-"),
    ],
)
def test_audio_image_and_embedding_models_cost_what_the_reference_prints(
    model: str, text: str, audio: str, image: str, cards: dict[str, Card]
) -> None:
    rates = cards[model].prices[-1].standard
    assert usd(rates, *TEXT) == text
    assert usd(rates, *AUDIO) == audio
    assert usd(rates, Meter.INPUT_IMAGE, Meter.CACHED_IMAGE) == image


@pytest.mark.parametrize(
    "model, meter, units, dollars",
    [
        ("gpt-realtime-whisper", Meter.DURATION_IN_MS, 60_000, "0.017"),
        ("gpt-live-transcribe", Meter.DURATION_IN_MS, 60_000, "0.017"),
        ("gpt-realtime-translate", Meter.DURATION_IN_MS, 60_000, "0.034"),
        ("gpt-live-1", Meter.DURATION_IN_MS, 60_000, "0.05"),
        ("gpt-live-1.1", Meter.DURATION_IN_MS, 60_000, "0.05"),
        ("gpt-transcribe", Meter.DURATION_IN_MS, 60_000, "0.0045"),
        ("whisper-1", Meter.DURATION_IN_MS, 60_000, "0.006"),
        ("sora-2", Meter.DURATION_OUT_MS, 1000, "0.1"),
        ("sora-2-pro", Meter.DURATION_OUT_MS, 1000, "0.3"),
        ("tts-1", Meter.CHARACTERS, 1_000_000, "15"),
        ("tts-1-hd", Meter.CHARACTERS, 1_000_000, "30"),
        ("gpt-image-1", Meter.OUTPUT_IMAGE, 1_000_000, "40"),
        ("gpt-image-1-mini", Meter.OUTPUT_IMAGE, 1_000_000, "8"),
        ("gpt-image-1.5", Meter.OUTPUT_IMAGE, 1_000_000, "32"),
        ("chatgpt-image-latest", Meter.OUTPUT_IMAGE, 1_000_000, "32"),
        ("gpt-image-2", Meter.OUTPUT_IMAGE, 1_000_000, "30"),
        ("gpt-image-2.5-sunburst", Meter.OUTPUT_IMAGE, 1_000_000, "30"),
        ("gpt-image-2.5-flare", Meter.OUTPUT_IMAGE, 1_000_000, "30"),
        ("gpt-4o-search-preview", Meter.WEB_SEARCH_CALLS, 1000, "25"),
        ("gpt-5-search-api", Meter.WEB_SEARCH_CALLS, 1000, "10"),
        ("omni-moderation-latest", Meter.INPUT_TEXT, 1_000_000, "0"),
    ],
)
def test_other_units_cost_what_the_reference_prints(model: str, meter: Meter, units: int, dollars: str, cards: dict[str, Card]) -> None:
    assert cards[model].prices[-1].standard[meter] * units == Decimal(dollars) * RATE_SCALE * 10**12


def test_only_models_that_reason_are_marked(cards: dict[str, Card]) -> None:
    for model in ("gpt-4o", "gpt-4.1", "gpt-4o-realtime-preview", "gpt-realtime", "gpt-audio"):
        assert not cards[model].reasoning
    for model in ("gpt-5", "gpt-5-nano", "gpt-5.2", "gpt-5.5-pro", "gpt-6-luna", "o1", "o3-mini", "o4-mini"):
        assert cards[model].reasoning
