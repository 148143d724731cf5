"""Chat completions by the official client: what it sees is what OpenAI sent, and what is booked is what it was told."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from typing import Any

import pytest

CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "What is on my bill?"}]}
PCM = base64.b64encode(bytes(48_000)).decode()
SPOKEN = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "pcm16"}}
ASKED_FOR: list[Any] = [
    pytest.param({"model": "gpt-4o"}, id="text"),
    pytest.param({"model": "gpt-4o", "n": 3, "max_completion_tokens": 5}, id="three choices, cut off by their cap"),
    pytest.param({"model": "o3"}, id="a model that reasons"),
    pytest.param({"model": "gpt-5-mini", "service_tier": "flex"}, id="at the flex tier"),
    pytest.param({"model": "gpt-4o", "service_tier": "priority"}, id="at the priority tier"),
    pytest.param({"model": "gpt-4o-audio-preview", **SPOKEN}, id="speech in the answer"),
    pytest.param({"model": "gpt-4o-search-preview"}, id="a search in every answer"),
    pytest.param({"model": "gpt-4o", "prediction": {"type": "content", "content": "the call"}}, id="a predicted output"),
    pytest.param({"model": "gpt-4o", "messages": [{"role": "user", "content": "Read me my bill. " * 600}]}, id="a long prompt"),
    pytest.param(
        {
            "model": "gpt-4o-audio-preview",
            "messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": PCM, "format": "wav"}}]}],
        },
        id="speech in the prompt",
    ),
]
STREAM_OPTIONS: list[Any] = [
    pytest.param({}, id="no options"),
    pytest.param({"stream_options": None}, id="null options"),
    pytest.param({"stream_options": {}}, id="empty options"),
    pytest.param({"stream_options": {"include_usage": False}}, id="usage declined"),
    pytest.param({"stream_options": {"include_usage": True}}, id="usage asked for"),
    pytest.param({"stream_options": {"include_obfuscation": False}}, id="no padding"),
    pytest.param({"stream_options": {"include_usage": True, "include_obfuscation": False}}, id="usage and no padding"),
]


def masked(body: bytes) -> bytes:
    """Without what no two answers share: ids and the time."""
    return re.sub(rb'"(id|created|created_at|expires_at|object_id)":("[^"]*"|\d+)', rb'"\1":0', body)


def chunks_of(body: bytes) -> list[Any]:
    return [json.loads(line[6:]) for line in body.split(b"\n") if line.startswith(b"data: {")]


def tokens_in(entry: dict[str, Any]) -> tuple[int, int]:
    usage = entry["usage"]
    output = sum(usage.get(f"output_{kind}", 0) for kind in ("text", "audio"))
    return sum(count for meter, count in usage.items() if meter.startswith(("input_", "cached_"))), output


@pytest.mark.parametrize("asked", ASKED_FOR)
def test_a_call_is_answered_and_booked_as_reported(journey: Any, asked: dict[str, Any]) -> None:
    completion = journey.client().chat.completions.create(**CHAT | asked)
    entry = journey.entry()
    assert entry["usage_source"] == "reported"
    assert (entry["model_asked"], entry["model_served"]) == (asked["model"], completion.model)
    assert (entry["endpoint"], entry["team"], entry["key"], entry["outcome"]) == ("chat/completions", "voice", "voice-1", "ok")
    assert tokens_in(entry) == (completion.usage.prompt_tokens, completion.usage.completion_tokens)
    assert (entry["answer_id"], entry["service_tier"]) == (completion.id, completion.service_tier)
    assert len(completion.choices) == asked.get("n", 1)
    (line,) = journey.lines()
    assert entry["upstream_request_id"] == line.request_id == completion._request_id


@pytest.mark.parametrize("asked", ASKED_FOR)
def test_a_stream_is_booked_like_the_whole_answer(journey: Any, asked: dict[str, Any]) -> None:
    client = journey.client()
    whole = client.chat.completions.create(**CHAT | asked)
    with client.chat.completions.create(**CHAT | asked, stream=True) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices[0].index == 0) == (
        whole.choices[0].message.content or ""
    )
    assert all(chunk.usage is None for chunk in chunks)
    first, second = journey.entries()
    assert (first["streamed"], second["streamed"]) == (False, True)
    assert [second[name] for name in ("usage", "cost_picousd", "usage_source", "service_tier", "model_served")] == [
        first[name] for name in ("usage", "cost_picousd", "usage_source", "service_tier", "model_served")
    ]
    assert second["cost_picousd"] > 0


def test_the_cost_is_the_price_list_times_the_tokens(journey: Any) -> None:
    usage = {"X-Simulator-Usage": "input_text=86;cached_text=1920;output_text=300"}
    journey.client().chat.completions.create(**CHAT, extra_headers=usage)
    entry = journey.entry()
    assert entry["usage"] == {"input_text": 86, "cached_text": 1920, "output_text": 300}
    assert entry["cost_picousd"] == 86 * 2_500_000 + 1920 * 1_250_000 + 300 * 10_000_000
    assert entry["price_version"] == "gpt-4o@2024-10-02"


@pytest.mark.parametrize("options", STREAM_OPTIONS)
@pytest.mark.parametrize(
    "asked",
    [
        pytest.param({}, id="text"),
        pytest.param({"n": 2, "max_completion_tokens": 4}, id="two choices"),
        pytest.param({"model": "gpt-4o-audio-preview", **SPOKEN, "max_completion_tokens": 20}, id="speech"),
    ],
)
def test_a_stream_is_byte_for_byte_what_openai_sends_to_who_asks_the_same(journey: Any, asked: Any, options: Any) -> None:
    body = CHAT | asked | options | {"stream": True}
    ours, theirs = journey.send("POST", "/chat/completions", body), journey.send("POST", "/chat/completions", body, direct=True)
    assert masked(ours.body) == masked(theirs.body)
    assert (ours.status, ours.headers["content-type"]) == (200, theirs.headers["content-type"])
    wanted = (options.get("stream_options") or {}).get("include_usage", False)
    told = [chunk for chunk in chunks_of(ours.body) if "usage" in chunk]
    assert bool(told) == wanted
    assert ours.body.endswith(b"data: [DONE]\n\n")
    assert journey.entry()["usage_source"] == "reported"


def test_a_whole_answer_is_byte_for_byte_what_openai_sends(journey: Any) -> None:
    ours, theirs = (journey.send("POST", "/chat/completions", CHAT, direct=direct) for direct in (False, True))
    assert masked(ours.body) == masked(theirs.body)
    assert len(ours.body) == int(ours.headers["content-length"])


def test_the_usage_chunk_comes_to_who_asks_for_it(journey: Any) -> None:
    with journey.client().chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True}) as stream:
        *chunks, last = stream
    assert (last.choices, [chunk.usage for chunk in chunks]) == ([], [None] * len(chunks))
    assert tokens_in(journey.entry()) == (last.usage.prompt_tokens, last.usage.completion_tokens)


def test_headers_are_the_teams_own(journey: Any) -> None:
    journey.team("headers", limits={"gpt-4o": {"rpm": 77, "tpm": 6000}})
    usage = {"X-Simulator-Usage": "input_text=100;output_text=20"}
    for number in (1, 2):
        raw = journey.client("headers").chat.completions.with_raw_response.create(**CHAT, max_completion_tokens=50, extra_headers=usage)
        headers, (line,) = raw.headers, journey.lines(number)[-1:]
        assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-limit-tokens"]) == ("77", "6000")
        assert int(headers["x-ratelimit-remaining-requests"]) in (77 - number, 78 - number)  # it refills while we look
        assert 5_700 < int(headers["x-ratelimit-remaining-tokens"]) < 5_960
        assert re.fullmatch(r"\d+ms|\d\.\d+s", headers["x-ratelimit-reset-requests"])
        assert headers["x-request-id"] == line.request_id
        assert headers["x-gateway-request-id"] == line.client_request_id
        assert (headers["openai-version"], headers.get("openai-organization")) == ("2020-10-01", None)
    assert [entry["exchange_id"] for entry in journey.entries()] == [line.client_request_id for line in journey.lines()]


@pytest.mark.parametrize("ending", ["/v1", "/v1/", "", "/"])
def test_the_base_url_may_lack_its_version_and_have_a_slash(journey: Any, ending: str) -> None:
    base_url = journey.base_url.removesuffix("/v1") + ending
    assert journey.client(base_url=base_url).chat.completions.create(**CHAT).choices
    (line,) = journey.lines()
    assert (line.path, journey.entry()["usage_source"]) == ("/v1/chat/completions", "reported")


def test_a_body_beyond_what_is_held_in_memory_goes_through(journey: Any) -> None:
    picture = "data:image/png;base64," + base64.b64encode(bytes(3_000_000)).decode()
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": picture}}]
    client = journey.client()
    asked = {"model": "gpt-4o", "messages": [{"role": "user", "content": parts}]}
    assert client.chat.completions.create(**asked).choices
    with client.chat.completions.create(**asked, stream=True) as stream:
        assert len(list(stream)) > 2
    first, second = journey.entries()
    assert first["usage"] == second["usage"]
    assert first["usage_source"] == second["usage_source"] == "reported"


def test_asynchronous_clients_all_at_once(journey: Any) -> None:
    async def ask(client: Any, number: int) -> int:
        messages = [{"role": "user", "content": f"Question {number}: what is on my bill?"}]
        if number % 3 == 0:
            return int((await client.chat.completions.create(model="gpt-4o", messages=messages)).usage.total_tokens)
        asked = {"stream_options": {"include_usage": True}} if number % 3 == 1 else {}
        stream = await client.chat.completions.create(model="gpt-4o", messages=messages, stream=True, **asked)
        chunks = [chunk async for chunk in stream]
        assert (chunks[-1].usage is not None) == (number % 3 == 1)
        return int(chunks[-1].usage.total_tokens) if chunks[-1].usage else 0

    async def story() -> list[int]:
        async with journey.async_client() as client:
            return await asyncio.gather(*(ask(client, number) for number in range(120)))

    totals = asyncio.run(story())
    entries = journey.entries()
    assert len(entries) == len(totals) == 120
    assert {entry["usage_source"] for entry in entries} == {"reported"}
    booked = sorted(sum(tokens_in(entry)) for entry in entries)
    assert all(booked.count(total) >= totals.count(total) for total in totals if total)
    assert len({entry["exchange_id"] for entry in entries}) == 120


def test_the_sdk_parses_what_comes_through(journey: Any) -> None:
    """The SDK's own stream helper, which assembles events and is strict about their order."""
    with journey.client().chat.completions.stream(**CHAT) as stream:
        text = "".join(event.delta for event in stream if event.type == "content.delta")
        assert stream.get_final_completion().choices[0].message.content == text
    assert journey.entry()["streamed"]
