"""Quantities come first, follow from seed and content, and are what the usage objects say."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.simulator.draw import Choice, Dice, Draw, Prompt, Wish, draw, prompt_of
from gateway.simulator.models import served
from gateway.simulator.prices import PRICES
from gateway.simulator.usage import CHAT_METERS, RESPONSE_METERS, chat_usage, response_usage
from gateway.units import Meter

CHAT_MODELS = ("gpt-4o", "gpt-5", "gpt-6-sol", "gpt-audio", "gpt-4o-search-preview")
tokens = st.integers(0, 10_000)


def quantities(meters):
    return st.dictionaries(st.sampled_from(sorted(meters)), tokens)


@given(quantities(CHAT_METERS))
@settings(max_examples=60, deadline=None)
def test_chat_usage_can_be_untangled_again(drawn):
    usage = chat_usage(Draw("m", "default", drawn))
    prompt, completion = usage["prompt_tokens_details"], usage["completion_tokens_details"]
    cached, written = prompt["cached_tokens"], prompt["cache_write_tokens"]
    assert {
        Meter.INPUT_TEXT: usage["prompt_tokens"] - cached - written - prompt["audio_tokens"],
        Meter.CACHED_TEXT: cached,
        Meter.CACHE_WRITE_TEXT: written,
        Meter.INPUT_AUDIO: prompt["audio_tokens"],
        Meter.OUTPUT_TEXT: usage["completion_tokens"] - completion["audio_tokens"],
        Meter.OUTPUT_AUDIO: completion["audio_tokens"],
    } == {meter: drawn.get(meter, 0) for meter in CHAT_METERS}
    assert usage["total_tokens"] == sum(drawn.values())


@given(quantities(RESPONSE_METERS))
@settings(max_examples=60, deadline=None)
def test_response_usage_can_be_untangled_again(drawn):
    usage = response_usage(Draw("m", "default", drawn))
    details = usage["input_tokens_details"]
    kept = details.get("cache_write_tokens_details", {"ttl_30m_tokens": 0, "ttl_12h_tokens": 0})
    assert details["cache_write_tokens"] == sum(kept.values())
    assert {
        Meter.INPUT_TEXT: usage["input_tokens"] - details["cached_tokens"] - details["cache_write_tokens"],
        Meter.CACHED_TEXT: details["cached_tokens"],
        Meter.CACHE_WRITE_TEXT: kept["ttl_30m_tokens"],
        Meter.CACHE_WRITE_12H_TEXT: kept["ttl_12h_tokens"],
        Meter.OUTPUT_TEXT: usage["output_tokens"],
    } == {meter: drawn.get(meter, 0) for meter in RESPONSE_METERS}
    assert usage["total_tokens"] == sum(drawn.values())


@given(
    seed=st.integers(0, 1000),
    name=st.sampled_from(CHAT_MODELS),
    text=st.integers(0, 5000),
    cap=st.none() | st.integers(1, 2000),
    n=st.integers(1, 4),
    spoken=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_a_draw_keeps_the_prompt_and_the_cap(seed, name, text, cap, n, spoken):
    model = served(name, "chat")
    wish = Wish(tokens_max=cap, choices=n, spoken=spoken and model.audio)
    drawn = draw(Dice(seed, text), model, "default", Prompt(text), wish)
    priced = set(PRICES[model.row].standard)
    assert sum(n for meter, n in drawn.quantities.items() if not meter.startswith("output")) == text
    assert {meter for meter in drawn.quantities if not meter.startswith("output_audio")} <= priced
    assert drawn.output_text + drawn.output_audio <= (cap or 10**9) * n
    assert drawn.details.get("reasoning_tokens", 0) <= drawn.output_text
    assert drawn.hidden_tokens == drawn.details.get("reasoning_tokens", 0)
    for choice in drawn.choices:
        assert choice.text_tokens >= 0 and choice.audio_tokens >= 0  # noqa: PT018


def test_a_cap_of_one_under_and_exactly_what_would_come():
    model, dice, prompt = served("gpt-4o", "chat"), Dice(0, "x"), Prompt(10)
    free = draw(dice, model, "default", prompt, Wish()).output_text
    assert draw(dice, model, "default", prompt, Wish(tokens_max=free)).choices[0].finish == "stop"
    cut = draw(dice, model, "default", prompt, Wish(tokens_max=free - 1))
    assert cut.choices == (Choice(free - 1, 0, "length"),)


def test_a_cap_can_leave_nothing_but_reasoning():
    drawn = draw(Dice(0, "x"), served("gpt-5", "chat"), "default", Prompt(10), Wish(tokens_max=16))
    assert drawn.quantities[Meter.OUTPUT_TEXT] == 16
    assert drawn.details == {"reasoning_tokens": 16}
    assert drawn.choices == (Choice(0, 0, "length"),)


def test_seed_and_content_decide():
    model = served("gpt-6-sol", "chat")

    def drawn(seed, content):
        return draw(Dice(seed, content), model, "default", Prompt(5000), Wish())

    assert drawn(1, "a") == drawn(1, "a")
    assert len({str(drawn(seed, "a")) for seed in range(20)}) > 10
    assert len({str(drawn(1, content)) for content in range(20)}) > 10


def test_some_prompts_are_cached_and_some_written_and_some_neither():
    model = served("gpt-6-sol", "chat")
    kinds = set()
    for seed in range(40):
        drawn = draw(Dice(seed), model, "default", Prompt(5000), Wish()).quantities
        kinds.add((Meter.CACHED_TEXT in drawn, Meter.CACHE_WRITE_TEXT in drawn))
        assert drawn.get(Meter.CACHED_TEXT, 0) % 128 == 0
    assert kinds == {(False, False), (True, False), (False, True), (True, True)}


@pytest.mark.parametrize(
    "parts, prompt",
    [
        pytest.param([], Prompt(0), id="nothing"),
        pytest.param(["abcd"], Prompt(1), id="four characters are a token"),
        pytest.param(["abcde"], Prompt(2), id="five are two"),
        pytest.param([[1, 2, 3]], Prompt(3), id="token ids are counted"),
        pytest.param([{"role": "user", "content": "abcd"}], Prompt(4), id="a message has three of its own"),
        pytest.param(
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:" + "x" * 9999}}]}],
            Prompt(768), id="a picture is not text",
        ),
        pytest.param(
            [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": base64.b64encode(bytes(48_000)).decode()}}]}],
            Prompt(3, 10), id="a second of sound is ten tokens",
        ),
    ],
)  # fmt: skip
def test_a_prompt_is_measured_by_what_it_holds(parts, prompt):
    assert prompt_of(parts) == prompt


def test_a_cut_keeps_the_input_and_what_was_generated():
    whole = Draw("m", "default", {Meter.CACHED_TEXT: 128, Meter.INPUT_TEXT: 7, Meter.OUTPUT_TEXT: 90, Meter.WEB_SEARCH_CALLS: 2},
                 {"reasoning_tokens": 64}, (Choice(26),))  # fmt: skip
    assert whole.cut(0, 0, {}).quantities == {Meter.CACHED_TEXT: 128, Meter.INPUT_TEXT: 7}
    partial = whole.cut(50, 0, {Meter.WEB_SEARCH_CALLS: 1})
    assert partial.quantities == {Meter.CACHED_TEXT: 128, Meter.INPUT_TEXT: 7, Meter.OUTPUT_TEXT: 50, Meter.WEB_SEARCH_CALLS: 1}
    assert partial.details == {"reasoning_tokens": 50}
    assert whole.cut(10**6, 0, {Meter.WEB_SEARCH_CALLS: 2}).quantities == whole.quantities
