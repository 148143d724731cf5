"""Examples E1 to E17 of reference/usage-and-pricing.md section 3, on the cards that ship, to the last pico-dollar."""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

import pytest
import yaml

from gateway.catalogue import Card
from gateway.catalogue.parse import parse_card
from gateway.pricing import Priced, cost_lines, price
from gateway.units import Meter, Usage

NOVEMBER_2026_US = 1_795_305_600_000_000  # 2026-11-22
SEED = "gpt-4o-realtime-preview"


def usage(
    text: tuple[int, int, int] = (0, 0, 0),
    audio: tuple[int, int, int] = (0, 0, 0),
    image: tuple[int, int, int] = (0, 0, 0),
    **other: int,
) -> Usage:
    """Disjoint quantities: (uncached input, cached input, output) by modality, and other meters by name."""
    quantities = dict(
        zip(
            [f"{kind}_{modality}" for modality in ("text", "audio", "image") for kind in ("input", "cached", "output")],
            (*text, *audio, *image),
            strict=True,
        )
    )
    return {Meter(name): quantity for name, quantity in {**quantities, **other}.items() if quantity}


class Example(NamedTuple):
    name: str
    model: str
    usage: Usage
    usd: str
    service_tier: str | None = None
    data_residency: bool = False


E1 = usage(text=(88, 512, 60), audio=(72, 128, 400))
E2 = usage(text=(55, 64, 30), audio=(13, 0, 91))
E8 = usage(text=(86, 1920, 300))
E10 = usage(text=(1000, 8000, 500), cache_write_text=3000)
E13 = usage(text=(50, 0, 0), image=(1000, 0, 4160))
E16 = usage(text=(4904, 4096, 700))
TOOLS: Usage = {Meter.WEB_SEARCH_CALLS: 2, Meter.FILE_SEARCH_CALLS: 1, Meter.CONTAINER_SESSIONS: 1}

EXAMPLES = (
    Example("E1 seed, a turn with cache", SEED, E1, "0.038120"),
    Example("E1 on a snapshot of the seed", "gpt-4o-realtime-preview-2025-06-03", E1, "0.038120"),
    Example("E2 seed, the sample of the costs guide", SEED, E2, "0.008835"),
    Example("E2 on gpt-realtime", "gpt-realtime", E2, "0.0069656"),
    Example("E3 seed, first turn", SEED, usage(text=(100, 0, 10), audio=(20, 0, 20)), "0.003100"),
    Example("E3 seed, second turn without cache", SEED, usage(text=(110, 0, 0), audio=(64, 0, 0)), "0.003110"),
    Example("E3 seed, second turn with cache", SEED, usage(text=(14, 96, 0), audio=(32, 32, 0)), "0.001670"),
    Example("E4 seed, a minute of the user", SEED, usage(audio=(600, 0, 0)), "0.024"),
    Example("E4 seed, a minute of the assistant", SEED, usage(audio=(0, 0, 1200)), "0.096"),
    Example("E6 transcription inside realtime by tokens", "gpt-4o-transcribe", usage(text=(0, 0, 9), audio=(17, 0, 0)), "0.0001325"),
    Example("E6 transcription inside realtime by duration", "whisper-1", usage(duration_in_ms=3200), "0.00032"),
    Example(
        "E7 gpt-realtime-mini with an image",
        "gpt-realtime-mini",
        usage(text=(100, 900, 50), audio=(100, 500, 240), image=(765, 0, 0)),
        "0.006796",
    ),
    Example("E8 gpt-4o", "gpt-4o", E8, "0.005615"),
    Example("E8 gpt-4o served as default", "gpt-4o", E8, "0.005615", "default"),
    Example("E8 gpt-4o served as priority", "gpt-4o", E8, "0.0095455", "priority"),
    Example("E9 gpt-5, reasoning inside output", "gpt-5", usage(text=(1000, 0, 1800)), "0.019250"),
    Example("E10 gpt-6-sol with a cache write", "gpt-6-sol", E10, "0.016100"),
    Example("E10 gpt-6-sol served as priority", "gpt-6-sol", E10, "0.032200", "priority"),
    Example("E10 gpt-6-sol on a European host", "gpt-6-sol", E10, "0.017710", None, True),
    Example("E11 gpt-5.5 with long context", "gpt-5.5", usage(text=(50_000, 250_000, 2000)), "0.840000"),
    Example("E12 gpt-4o-mini in a batch, cached is not cheaper", "gpt-4o-mini", usage(text=(476, 1024, 500)), "0.0002625", "batch"),
    Example("E13 gpt-image-1", "gpt-image-1", E13, "0.176650"),
    Example("E13 gpt-image-2", "gpt-image-2", E13, "0.133050"),
    Example("E14 gpt-audio in chat", "gpt-audio", usage(text=(120, 0, 50), audio=(80, 0, 260)), "0.020000"),
    Example("E15 speech by characters", "tts-1", usage(characters=1234), "0.018510"),
    Example("E15 speech by tokens", "gpt-4o-mini-tts", usage(text=(14, 0, 0), audio=(0, 0, 101)), "0.0012204"),
    Example("E16 gpt-4.1 without its tools", "gpt-4.1", E16, "0.017456"),
    Example("E16 gpt-4.1 with tools", "gpt-4.1", {**E16, **TOOLS}, "0.069956"),
    Example("E17 an embedding", "text-embedding-3-small", usage(text=(8191, 0, 0)), "0.00016382"),
    Example("E17 whisper by the second", "whisper-1", usage(duration_in_ms=83_400), "0.00834"),
    Example("E17 a Live session", "gpt-live-1", usage(duration_in_ms=90_000), "0.075"),
    Example("E17 gpt-6-astra served as ultrafast", "gpt-6-astra", usage(text=(1000, 0, 500)), "0.21", "ultrafast"),
)


def picousd(usd: str) -> int:
    exact = Decimal(usd).scaleb(12)
    assert exact == int(exact)
    return int(exact)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_example_costs_what_the_reference_says(example: Example, cards: dict[str, Card]) -> None:
    card = cards[example.model]
    arguments = (card, example.model, example.service_tier, example.usage, NOVEMBER_2026_US)
    priced = price(*arguments, data_residency=example.data_residency)
    assert isinstance(priced, Priced)
    assert priced.cost_picousd == picousd(example.usd)
    assert priced.price_version.startswith(f"{card.model}@")
    lines = cost_lines(*arguments, data_residency=example.data_residency)
    assert isinstance(lines, dict)
    assert sum(lines.values()) == priced.cost_picousd


E5_CARD = """
model: gpt-4o-realtime-preview
snapshots: [gpt-4o-realtime-preview-2025-06-03, gpt-4o-realtime-preview-2024-10-01]
prices:
  - effective_from: 2024-10-01
    source: model card GPT-4o Realtime
    usd_per_million_tokens:
      text: {input: "5.00", cached: "2.50", output: "20.00"}
      audio: {input: "40.00", cached: "2.50", output: "80.00"}
snapshot_prices:
  gpt-4o-realtime-preview-2024-10-01:
    - effective_from: 2024-10-01
      source: reference/usage-and-pricing.md section 4.1
      usd_per_million_tokens:
        text: {input: "5.00", cached: "2.50", output: "20.00"}
        audio: {input: "100.00", cached: "20.00", output: "200.00"}
"""


@pytest.mark.parametrize(
    "served, usd, version",
    [
        ("gpt-4o-realtime-preview-2024-10-01", "0.092680", "gpt-4o-realtime-preview-2024-10-01@2024-10-01"),
        ("gpt-4o-realtime-preview-2025-06-03", "0.038120", "gpt-4o-realtime-preview@2024-10-01"),
        ("gpt-4o-realtime-preview", "0.038120", "gpt-4o-realtime-preview@2024-10-01"),
    ],
    ids=["the snapshot with prices of its own", "its sister shares the card's", "the alias has the card's"],
)
def test_example_5_a_snapshot_may_have_prices_of_its_own(served: str, usd: str, version: str) -> None:
    card = parse_card(yaml.safe_load(E5_CARD))
    assert price(card, served, None, E1, NOVEMBER_2026_US) == Priced(picousd(usd), version)


def test_example_6_the_session_and_its_transcription_add_up(cards: dict[str, Card]) -> None:
    response = price(cards[SEED], SEED, None, E1, NOVEMBER_2026_US)
    heard = price(cards["gpt-4o-transcribe"], "gpt-4o-transcribe", None, usage(text=(0, 0, 9), audio=(17, 0, 0)), NOVEMBER_2026_US)
    assert isinstance(response, Priced)
    assert isinstance(heard, Priced)
    assert response.cost_picousd + heard.cost_picousd == picousd("0.0382525")


def test_the_smallest_unit_price_is_exact(cards: dict[str, Card]) -> None:
    """gpt-5-nano, cached, in a batch: 2.5 nano-dollars a token (section 2 rule 14)."""
    assert price(cards["gpt-5-nano"], "gpt-5-nano", "batch", {Meter.CACHED_TEXT: 1}, NOVEMBER_2026_US) == Priced(
        2500, "gpt-5-nano@2025-08-07"
    )
