"""The simulator's own prices against the worked examples of the reference, as integers written by hand."""

from __future__ import annotations

import pytest

from gateway.simulator.prices import PRICES, SNAPSHOTS, cost_picousd
from gateway.units import Meter

M = Meter
EXAMPLES = [
    pytest.param(
        "gpt-4o-realtime-preview", "default",
        {M.INPUT_TEXT: 88, M.CACHED_TEXT: 512, M.INPUT_AUDIO: 72, M.CACHED_AUDIO: 128, M.OUTPUT_TEXT: 60, M.OUTPUT_AUDIO: 400},
        38_120_000_000, id="E1 a turn with cache on the reference model",
    ),
    pytest.param(
        "gpt-realtime", "default",
        {M.INPUT_TEXT: 55, M.CACHED_TEXT: 64, M.INPUT_AUDIO: 13, M.OUTPUT_TEXT: 30, M.OUTPUT_AUDIO: 91},
        6_965_600_000, id="E2 the costs guide on gpt-realtime",
    ),
    pytest.param(
        "gpt-4o-transcribe", "default", {M.INPUT_AUDIO: 17, M.OUTPUT_TEXT: 9}, 132_500_000, id="E6 transcription in tokens"
    ),
    pytest.param("whisper-1", "default", {M.DURATION_IN_MS: 3200}, 320_000_000, id="E6 transcription by the minute"),
    pytest.param(
        "gpt-realtime-mini", "default",
        {M.INPUT_TEXT: 100, M.CACHED_TEXT: 900, M.INPUT_AUDIO: 100, M.CACHED_AUDIO: 500, M.INPUT_IMAGE: 765, M.OUTPUT_TEXT: 50,
         M.OUTPUT_AUDIO: 240},
        6_796_000_000, id="E7 cached text and cached audio differ",
    ),
    pytest.param(
        "gpt-4o-2024-08-06", "default", {M.INPUT_TEXT: 86, M.CACHED_TEXT: 1920, M.OUTPUT_TEXT: 300}, 5_615_000_000, id="E8 standard"
    ),
    pytest.param(
        "gpt-4o", "priority", {M.INPUT_TEXT: 86, M.CACHED_TEXT: 1920, M.OUTPUT_TEXT: 300}, 9_545_500_000, id="E8 priority"
    ),
    pytest.param("gpt-5", "default", {M.INPUT_TEXT: 1000, M.OUTPUT_TEXT: 1800}, 19_250_000_000, id="E9 reasoning is output"),
    pytest.param(
        "gpt-6-sol", "default",
        {M.INPUT_TEXT: 1000, M.CACHED_TEXT: 8000, M.CACHE_WRITE_TEXT: 3000, M.OUTPUT_TEXT: 500},
        16_100_000_000, id="E10 written to the cache",
    ),
    pytest.param(
        "gpt-6-sol", "priority",
        {M.INPUT_TEXT: 1000, M.CACHED_TEXT: 8000, M.CACHE_WRITE_TEXT: 3000, M.OUTPUT_TEXT: 500},
        32_200_000_000, id="E10 written to the cache at priority",
    ),
    pytest.param(
        "gpt-5.5", "default", {M.INPUT_TEXT: 50_000, M.CACHED_TEXT: 250_000, M.OUTPUT_TEXT: 2000}, 840_000_000_000, id="E11 long"
    ),
    pytest.param(
        "gpt-image-2", "default", {M.INPUT_TEXT: 50, M.INPUT_IMAGE: 1000, M.OUTPUT_IMAGE: 4160}, 133_050_000_000, id="E13 pictures"
    ),
    pytest.param(
        "gpt-audio", "default",
        {M.INPUT_TEXT: 120, M.INPUT_AUDIO: 80, M.OUTPUT_TEXT: 50, M.OUTPUT_AUDIO: 260},
        20_000_000_000, id="E14 speech over chat",
    ),
    pytest.param(
        "gpt-4.1", "default",
        {M.INPUT_TEXT: 4904, M.CACHED_TEXT: 4096, M.OUTPUT_TEXT: 700, M.WEB_SEARCH_CALLS: 2, M.FILE_SEARCH_CALLS: 1,
         M.CONTAINER_SESSIONS: 1},
        69_956_000_000, id="E16 tools",
    ),
    pytest.param("text-embedding-3-small", "default", {M.INPUT_TEXT: 8191}, 163_820_000, id="E17 embedding"),
    pytest.param("whisper-1", "default", {M.DURATION_IN_MS: 83_400}, 8_340_000_000, id="E17 whisper"),
    pytest.param("gpt-6-astra", "ultrafast", {M.INPUT_TEXT: 1000, M.OUTPUT_TEXT: 500}, 210_000_000_000, id="E17 ultrafast"),
    pytest.param("gpt-5.4", "default", {M.INPUT_TEXT: 272_000}, 680_000_000_000, id="exactly at the long-context threshold"),
    pytest.param("gpt-5.4", "default", {M.INPUT_TEXT: 272_001}, 1_360_005_000_000, id="one over the long-context threshold"),
    pytest.param("gpt-4.1", "default", {M.INPUT_TEXT: 272_001}, 544_002_000_000, id="a model without a threshold"),
    pytest.param("o4-mini", "flex", {M.CACHED_TEXT: 1}, 138_000, id="flex has rows of its own"),
    pytest.param("gpt-4o", "scale", {M.OUTPUT_TEXT: 1}, 10_000_000, id="scale is standard"),
    pytest.param("ft:gpt-4o-2024-08-06:acme::id7", "default", {M.INPUT_TEXT: 4}, 15_000_000, id="a fine-tuned model"),
    pytest.param("gpt-transcribe", "default", {M.DURATION_IN_MS: 1}, 75_000, id="a whole price per millisecond"),
    pytest.param("gpt-4o", "default", {}, 0, id="nothing"),
    pytest.param("gpt-4o", "default", {M.INPUT_AUDIO: 0}, 0, id="nothing of what has no price"),
]  # fmt: skip


@pytest.mark.parametrize("model, tier, quantities, picousd", EXAMPLES)
def test_cost_is_exact(model, tier, quantities, picousd):
    assert cost_picousd(model, tier, quantities) == picousd


@pytest.mark.parametrize(
    "model, tier, quantities",
    [
        pytest.param("gpt-4", "default", {M.INPUT_TEXT: 1}, id="a model that is not in the table"),
        pytest.param("gpt-4o-realtime", "default", {M.INPUT_TEXT: 1}, id="a name that only begins like one"),
        pytest.param("gpt-4o", "flex", {M.INPUT_TEXT: 1}, id="a tier the model does not have"),
        pytest.param("gpt-4o", "default", {M.INPUT_AUDIO: 1}, id="a meter without a price"),
        pytest.param("gpt-audio", "default", {M.CACHED_AUDIO: 1}, id="no cached price"),
        pytest.param("gpt-4o", "default", {M.DURATION_IN_MS: 1}, id="not by the minute"),
    ],
)
def test_what_has_no_price_is_none_and_never_zero(model, tier, quantities):
    assert cost_picousd(model, tier, quantities) is None


def test_every_snapshot_has_a_row():
    assert set(SNAPSHOTS.values()) <= set(PRICES)


@pytest.mark.parametrize("name", [name for name, price in PRICES.items() if Meter.CACHED_TEXT in price.standard])
def test_cached_costs_less_than_input_in_every_tier(name):
    for rates in (PRICES[name].standard, *PRICES[name].tiers.values()):
        assert rates[Meter.CACHED_TEXT] < rates[Meter.INPUT_TEXT] < rates.get(Meter.OUTPUT_TEXT, rates[Meter.INPUT_TEXT] + 1)
