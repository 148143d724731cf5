"""Chat and completions through the official clients, and the account of what they saw."""

from __future__ import annotations

import asyncio
import json

import openai
import pytest
from openai import AsyncOpenAI

from gateway.simulator import Simulator
from gateway.units import Meter

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "What is on my bill?"}]}
LONG = [{"role": "user", "content": "Please read my bill to me. " * 400}]


def dollars_millionths(usage, given, cached, output):
    """What a CompletionUsage costs in 10^-6 USD, by hand: rates in USD per million tokens."""
    cached_tokens = usage.prompt_tokens_details.cached_tokens
    return (usage.prompt_tokens - cached_tokens) * given + cached_tokens * cached + usage.completion_tokens * output


@pytest.mark.parametrize(
    "model, tier, rates, tier_served",
    [
        pytest.param("gpt-4o", None, (2_500_000, 1_250_000, 10_000_000), "default", id="gpt-4o"),
        pytest.param("gpt-4o", "priority", (4_250_000, 2_125_000, 17_000_000), "priority", id="gpt-4o at priority"),
        pytest.param("gpt-4o", "fast", (4_250_000, 2_125_000, 17_000_000), "priority", id="fast is priority"),
        pytest.param("gpt-4o", "flex", (2_500_000, 1_250_000, 10_000_000), "default", id="a tier it has not is standard"),
        pytest.param("gpt-5-mini", "flex", (125_000, 12_500, 1_000_000), "flex", id="gpt-5-mini at flex"),
        pytest.param("o3", "auto", (2_000_000, 500_000, 8_000_000), "default", id="o3"),
        pytest.param("gpt-5-nano", None, (50_000, 5_000, 400_000), "default", id="gpt-5-nano"),
    ],
)
def test_the_account_costs_what_the_client_saw(simulator, client, model, tier, rates, tier_served, last_line):
    given = {"service_tier": tier} if tier else {}
    for question in range(12):  # some of them cached
        raw = client.chat.completions.with_raw_response.create(
            model=model,
            messages=[*LONG, {"role": "user", "content": str(question)}],
            extra_headers={"X-Client-Request-Id": f"gx-{question}"},
            **given,
        )
        answer, line = raw.parse(), last_line()
        assert line.cost_picousd == dollars_millionths(answer.usage, *rates)
        assert (line.kind, line.complete, line.streamed, line.status) == ("billed", True, False, 200)
        assert (line.request_id, line.client_request_id) == (raw.headers["x-request-id"], f"gx-{question}")
        assert (line.model, line.service_tier, line.answer_id) == (answer.model, tier_served, answer.id)
        assert answer.service_tier == tier_served
        assert line.details.get("reasoning_tokens", 0) == answer.usage.completion_tokens_details.reasoning_tokens
    assert any(Meter.CACHED_TEXT in line.quantities for line in simulator.account())


def test_cache_writes_are_told_and_billed(client, last_line):
    usage = client.chat.completions.create(
        **{**CHAT, "model": "gpt-6-sol"},
        extra_headers={"X-Simulator-Usage": "input_text=1000;cached_text=8000;cache_write_text=3000;output_text=500;reasoning_tokens=320"},
    ).usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (12_000, 500, 12_500)
    assert (usage.prompt_tokens_details.cached_tokens, usage.prompt_tokens_details.cache_write_tokens) == (8000, 3000)
    assert usage.completion_tokens_details.reasoning_tokens == 320
    assert last_line().cost_picousd == 16_100_000_000


@pytest.mark.parametrize("asked", [True, False, None], ids=["asked for usage", "asked for none", "did not say"])
def test_a_stream_says_usage_only_when_asked(client, asked, last_line):
    options = {} if asked is None else {"stream_options": {"include_usage": asked}}
    with client.chat.completions.create(**CHAT, stream=True, **options) as stream:
        chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    line = last_line()
    assert len(text.split()) == line.quantities[Meter.OUTPUT_TEXT]
    assert (line.streamed, line.complete) == (True, True)
    assert all(chunk.obfuscation for chunk in chunks)
    usages = [chunk.usage for chunk in chunks if "usage" in chunk.model_fields_set]
    if asked:
        assert len(usages) == len(chunks)
        assert usages[:-1] == [None] * (len(chunks) - 1)
        assert chunks[-1].choices == []
        assert dollars_millionths(usages[-1], 2_500_000, 1_250_000, 10_000_000) == line.cost_picousd
    else:
        assert usages == []


def test_a_stream_is_framed_as_openai_does(http_client):
    body = {**CHAT, "stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False}}
    status, headers, data = http_client.send("POST", "/v1/chat/completions", body)
    assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert headers["transfer-encoding"] == "chunked"
    *events, done, rest = data.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events]
    assert not any("obfuscation" in chunk for chunk in chunks)
    assert [chunk["choices"] == [] for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


def test_streamed_and_whole_draw_the_same(simulator, client):
    whole = client.chat.completions.create(**CHAT)
    with client.chat.completions.create(**CHAT, stream=True) as stream:
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    first, second = simulator.account()
    assert (first.quantities, first.cost_picousd) == (second.quantities, second.cost_picousd)
    assert text == whole.choices[0].message.content


def test_a_cap_ends_the_answer(client):
    answer = client.chat.completions.create(**CHAT, max_completion_tokens=3)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 3
    assert len(answer.choices[0].message.content.split()) == 3


def test_usage_is_the_sum_of_all_choices(client, last_line):
    answer = client.chat.completions.create(**CHAT, n=3)
    seen = sum(len(choice.message.content.split()) for choice in answer.choices)
    assert len(answer.choices) == 3
    assert seen == answer.usage.completion_tokens == last_line().quantities[Meter.OUTPUT_TEXT]
    with client.chat.completions.create(**CHAT, n=3, stream=True) as stream:
        finished = [choice.index for chunk in stream for choice in chunk.choices if choice.finish_reason]
    assert finished == [0, 1, 2]


def test_reasoning_is_inside_the_output_and_not_in_the_text(client):
    answer = client.chat.completions.create(**{**CHAT, "model": "gpt-5"})
    reasoning = answer.usage.completion_tokens_details.reasoning_tokens
    assert reasoning > 0
    assert len(answer.choices[0].message.content.split()) == answer.usage.completion_tokens - reasoning
    answer = client.chat.completions.create(**{**CHAT, "model": "gpt-5"}, reasoning_effort="minimal")
    assert answer.usage.completion_tokens_details.reasoning_tokens == 0


SPEAK = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}


def test_speech_over_chat_has_its_own_prices(client, last_line):
    answer = client.chat.completions.create(**{**CHAT, "model": "gpt-audio"}, **SPEAK)
    usage, message = answer.usage, answer.choices[0].message
    audio = usage.completion_tokens_details.audio_tokens
    assert audio > 0
    assert message.content is None
    assert len(message.audio.transcript.split()) == usage.completion_tokens - audio
    assert last_line().cost_picousd == (
        usage.prompt_tokens * 2_500_000 + (usage.completion_tokens - audio) * 10_000_000 + audio * 64_000_000
    )


def test_speech_can_be_streamed(client, last_line):
    with client.chat.completions.create(
        **{**CHAT, "model": "gpt-audio"}, **SPEAK, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    audio = [chunk.choices[0].delta.audio for chunk in chunks if chunk.choices and chunk.choices[0].delta.audio]
    line = last_line()
    assert len("".join(part.transcript or "" for part in audio).split()) == line.quantities[Meter.OUTPUT_TEXT]
    assert chunks[-1].usage.completion_tokens_details.audio_tokens == line.quantities[Meter.OUTPUT_AUDIO]
    assert audio[-1].expires_at


def test_predictions_are_billed_also_when_rejected(client):
    answer = client.chat.completions.create(**CHAT, prediction={"type": "content", "content": "the call was short"})
    details = answer.usage.completion_tokens_details
    assert details.rejected_prediction_tokens > 0
    assert len(answer.choices[0].message.content.split()) == answer.usage.completion_tokens - details.rejected_prediction_tokens


def test_a_search_model_searches_once_and_no_usage_tells_it(client, last_line):
    usage = client.chat.completions.create(**{**CHAT, "model": "gpt-4o-search-preview"}).usage
    line = last_line()
    assert line.quantities[Meter.WEB_SEARCH_PREVIEW_CALLS] == 1
    assert line.cost_picousd == usage.prompt_tokens * 2_500_000 + usage.completion_tokens * 10_000_000 + 25_000_000_000


@pytest.mark.parametrize(
    "change, status, code, param",
    [
        pytest.param({"model": None}, 400, None, "model", id="no model"),
        pytest.param({"model": "gpt-4"}, 404, "model_not_found", None, id="a model it does not serve"),
        pytest.param({"model": "text-embedding-3-small"}, 404, "model_not_found", None, id="a model of another endpoint"),
        pytest.param({"messages": None}, 400, None, "messages", id="no messages"),
        pytest.param({"messages": "hi"}, 400, None, "messages", id="messages that are none"),
        pytest.param({"stream_options": {"include_usage": True}}, 400, None, "stream_options", id="stream options without a stream"),
        pytest.param({"n": 0}, 400, None, "n", id="no choices"),
        pytest.param({"n": 129}, 400, None, "n", id="one choice too many"),
        pytest.param({"max_tokens": "5"}, 400, None, "max_tokens", id="a cap that is text"),
        pytest.param({"service_tier": "cheap"}, 400, None, "service_tier", id="no such tier"),
        pytest.param({"modalities": ["audio"]}, 400, None, "modalities", id="speech from a model that has none"),
        pytest.param({"model": "gpt-audio", "modalities": ["audio"]}, 400, None, "audio", id="speech without a voice"),
        pytest.param({"tools": {"type": "function"}}, 400, None, "tools", id="tools that are no array"),
    ],
)
def test_what_is_wrong_is_refused_and_costs_nothing(http_client, change, status, code, param, last_line, check_error):
    given_status, headers, body = http_client.send("POST", "/v1/chat/completions", {**CHAT, **change})
    assert check_error(given_status, body, status, code)["param"] == param
    line = last_line()
    assert (line.kind, line.quantities, line.cost_picousd, line.status) == ("refused", {}, 0, status)
    assert line.request_id == headers["x-request-id"]


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff"], ids=["half", "an array", "no text"])
def test_a_body_that_is_no_object_is_refused(http_client, body, check_error):
    status, _, data = http_client.send("POST", "/v1/chat/completions", body)
    check_error(status, data, 400)


@pytest.mark.parametrize("header", ["cached_audio=1", "output_text=-1", "output_text", "output_text=1;reasoning_tokens=2", "x=1"])
def test_a_dictated_usage_that_cannot_be_is_refused(http_client, header, check_error):
    status, _, data = http_client.send("POST", "/v1/chat/completions", CHAT, {"X-Simulator-Usage": header})
    check_error(status, data, 400)


def test_completions_bill_all_candidates(client, last_line):
    answer = client.completions.create(model="gpt-3.5-turbo-instruct", prompt=["Hello", "you"], n=1, best_of=3)
    usage, line = answer.usage, last_line()
    assert len(answer.choices) == 2
    assert usage.completion_tokens > sum(len(choice.text.split()) for choice in answer.choices)
    assert line.cost_picousd == usage.prompt_tokens * 1_500_000 + usage.completion_tokens * 2_000_000


def test_completions_count_token_ids_and_stream(client, last_line):
    with client.completions.create(
        model="davinci-002", prompt=[1, 2, 3], max_tokens=5, stream=True, stream_options={"include_usage": True}
    ) as stream:
        *chunks, last = list(stream)
    assert (last.choices, last.usage.prompt_tokens, last.usage.completion_tokens) == ([], 3, 5)
    assert len("".join(chunk.choices[0].text for chunk in chunks).split()) == 5
    assert last_line().quantities == {Meter.INPUT_TEXT: 3, Meter.OUTPUT_TEXT: 5}


def test_the_asynchronous_client_is_served_many_at_once(tmp_path):
    async def run() -> None:
        async with Simulator(journal=tmp_path / "account") as simulator:
            async with AsyncOpenAI(base_url=simulator.base_url, api_key="sk-test") as client:
                answers = await asyncio.gather(*(client.chat.completions.create(**CHAT, user=str(n)) for n in range(20)))
                with pytest.raises(openai.NotFoundError):
                    await client.chat.completions.create(**{**CHAT, "model": "gpt-x"})
            account = simulator.account()
        assert {line.answer_id for line in account if line.kind == "billed"} == {answer.id for answer in answers}
        assert len({line.request_id for line in account}) == 21

    asyncio.run(run())


def test_the_seed_decides_what_is_drawn(tmp_path):
    async def drawn(seed: int, name: str):
        async with Simulator(journal=tmp_path / name, seed=seed) as simulator:
            async with AsyncOpenAI(base_url=simulator.base_url, api_key="sk-test") as client:
                for model in ("gpt-4o", "gpt-5", "gpt-6-sol"):
                    await client.chat.completions.create(model=model, messages=LONG)
            return [(line.quantities, line.details, line.cost_picousd) for line in simulator.account()]

    first, again, other = asyncio.run(drawn(1, "a")), asyncio.run(drawn(1, "b")), asyncio.run(drawn(2, "c"))
    assert first == again
    assert first != other
