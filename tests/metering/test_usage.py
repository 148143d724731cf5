"""What OpenAI reports, untangled: each token in exactly one meter, and nothing that contradicts itself is believed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.metering.answers import (
    Observed,
    read_chat_answer,
    read_compaction_answer,
    read_completion_answer,
    read_embedding_answer,
    read_plain_answer,
    read_response_answer,
)
from gateway.metering.tools import chat_search_usage, tool_usage
from gateway.metering.usage import (
    QUANTITY_MAX,
    Metered,
    MeteringLost,
    usage_from_chat,
    usage_from_duration,
    usage_from_embedding,
    usage_from_images,
    usage_from_realtime,
    usage_from_response,
    usage_from_speech,
    usage_from_transcription,
)
from gateway.units import Meter, Usage, tokens_of

CASES = Path(__file__).parent.parent / "cases"
FROM = (
    usage_from_chat, usage_from_response, usage_from_realtime, usage_from_embedding, usage_from_transcription,
    usage_from_duration, usage_from_speech, usage_from_images,
)  # fmt: skip
Read = Callable[[bytes], Metered]


def case(name: str) -> bytes:
    return (CASES / f"{name}.json").read_bytes()


def text(reported: Any) -> bytes:
    return json.dumps(reported).encode()


# Whole answers

RESPONSE_TOOLS = {
    Meter.INPUT_TEXT: 4_904, Meter.CACHED_TEXT: 4_096, Meter.OUTPUT_TEXT: 700, Meter.FILE_SEARCH_CALLS: 1, Meter.CONTAINER_SESSIONS: 1,
}  # fmt: skip
ANSWERS: list[Any] = [
    pytest.param(read_chat_answer, "chat", {Meter.INPUT_TEXT: 86, Meter.CACHED_TEXT: 1_920, Meter.OUTPUT_TEXT: 300},
                 {"total_tokens": 2_306}, id="E8 chat with cache"),
    pytest.param(read_chat_answer, "chat_audio",
                 {Meter.INPUT_TEXT: 120, Meter.INPUT_AUDIO: 80, Meter.OUTPUT_TEXT: 50, Meter.OUTPUT_AUDIO: 260}, {"total_tokens": 510},
                 id="E14 chat with audio"),
    pytest.param(read_chat_answer, "chat_search", {Meter.INPUT_TEXT: 20, Meter.OUTPUT_TEXT: 80, Meter.WEB_SEARCH_PREVIEW_CALLS: 1},
                 {"total_tokens": 100}, id="a chat model that searches"),
    pytest.param(read_chat_answer, "chat_predicted", {Meter.INPUT_TEXT: 100, Meter.OUTPUT_TEXT: 90},
                 {"total_tokens": 190, "prediction_accepted_tokens": 40, "prediction_rejected_tokens": 20}, id="predicted output"),
    pytest.param(read_completion_answer, "completion", {Meter.INPUT_TEXT: 5, Meter.OUTPUT_TEXT: 16}, {"total_tokens": 21}, id="completion"),
    pytest.param(read_embedding_answer, "embedding", {Meter.INPUT_TEXT: 8_191}, {"total_tokens": 8_191}, id="E17 embedding"),
    pytest.param(read_plain_answer, "moderation", {}, {}, id="moderation is free"),
    pytest.param(read_response_answer, "response", {Meter.INPUT_TEXT: 1_000, Meter.OUTPUT_TEXT: 1_800},
                 {"total_tokens": 2_800, "reasoning_tokens": 1_536}, id="E9 reasoning is inside output"),
    pytest.param(read_response_answer, "response_cache_write",
                 {Meter.INPUT_TEXT: 1_000, Meter.CACHED_TEXT: 8_000, Meter.CACHE_WRITE_TEXT: 3_000, Meter.OUTPUT_TEXT: 500},
                 {"total_tokens": 12_500, "reasoning_tokens": 320}, id="E10 cache write"),
    pytest.param(read_response_answer, "response_tools", RESPONSE_TOOLS | {Meter.WEB_SEARCH_CALLS: 2}, {"total_tokens": 9_700},
                 id="E16 tools, counted in the output"),
    pytest.param(read_response_answer, "response_tool_usage", RESPONSE_TOOLS | {Meter.WEB_SEARCH_CALLS: 1}, {"total_tokens": 9_700},
                 id="searches as tool_usage counts them"),
    pytest.param(read_response_answer, "response_search_preview",
                 {Meter.INPUT_TEXT: 300, Meter.OUTPUT_TEXT: 70, Meter.WEB_SEARCH_PREVIEW_CALLS: 1}, {"total_tokens": 370},
                 id="preview search"),
    pytest.param(read_compaction_answer, "compaction", {Meter.INPUT_TEXT: 139, Meter.OUTPUT_TEXT: 438},
                 {"total_tokens": 577, "reasoning_tokens": 64}, id="compaction"),
]  # fmt: skip


@pytest.mark.parametrize("read, name, usage, details", ANSWERS)
def test_answer(read: Callable[[bytes], Observed], name: str, usage: Usage, details: dict[str, int]) -> None:
    seen = read(case(name))
    assert (seen.usage, seen.details, seen.lost, seen.error_code) == (usage, details, None, None)


STATES = [
    pytest.param("response_queued", "queued", None, id="queued"),
    pytest.param("response_failed", "failed", "server_error", id="failed"),
    pytest.param("response_cancelled", "cancelled", None, id="cancelled"),
]


@pytest.mark.parametrize("name, status, error_code", STATES)
def test_a_response_without_usage_says_why(name: str, status: str, error_code: str | None) -> None:
    seen = read_response_answer(case(name))
    assert (seen.usage, seen.answer_status, seen.error_code, seen.answer_id, seen.lost) == (None, status, error_code, "resp_1", None)


def test_an_error_is_no_free_moderation() -> None:
    assert read_plain_answer(case("error")) == Observed(error_code="server_error")


# Usage objects

REALTIME_1 = {
    Meter.INPUT_TEXT: 88,
    Meter.CACHED_TEXT: 512,
    Meter.INPUT_AUDIO: 72,
    Meter.CACHED_AUDIO: 128,
    Meter.OUTPUT_TEXT: 60,
    Meter.OUTPUT_AUDIO: 400,
}


def test_recorded_events() -> None:
    realtime = json.loads(case("realtime_response_done"))["response"]["usage"]
    assert usage_from_realtime(text(realtime)) == (REALTIME_1, {"total_tokens": 1_260})
    tokens = json.loads(case("transcription_tokens"))["usage"]
    assert usage_from_transcription(text(tokens)) == ({Meter.INPUT_AUDIO: 17, Meter.OUTPUT_TEXT: 9}, {"total_tokens": 26})
    assert usage_from_transcription(b'{"type":"duration","seconds":83.4}') == ({Meter.DURATION_IN_MS: 83_400}, {})
    images = json.loads(case("images"))["usage"]
    assert usage_from_images(text(images))[0] == {Meter.INPUT_TEXT: 50, Meter.INPUT_IMAGE: 1_000, Meter.OUTPUT_IMAGE: 4_160}
    speech = json.loads(case("speech_done"))["usage"]
    assert usage_from_speech(text(speech)) == ({Meter.INPUT_TEXT: 14, Meter.OUTPUT_AUDIO: 101}, {"total_tokens": 115})


def realtime(texts: int, audios: int, cached: Any, out: tuple[int, int], images: int = 0) -> dict[str, Any]:
    return {
        "input_tokens": texts + audios + images,
        "output_tokens": sum(out),
        "total_tokens": texts + audios + images + sum(out),
        "input_token_details": {"text_tokens": texts, "audio_tokens": audios, "image_tokens": images} | cached,
        "output_token_details": {"text_tokens": out[0], "audio_tokens": out[1]},
    }


def cached_of(texts: int, audios: int, images: int = 0) -> dict[str, Any]:
    parts = {"text_tokens": texts, "audio_tokens": audios, "image_tokens": images}
    return {"cached_tokens": texts + audios + images, "cached_tokens_details": parts}


REALTIMES = [
    pytest.param(realtime(119, 13, cached_of(64, 0), (30, 91)),
                 {Meter.INPUT_TEXT: 55, Meter.CACHED_TEXT: 64, Meter.INPUT_AUDIO: 13, Meter.OUTPUT_TEXT: 30, Meter.OUTPUT_AUDIO: 91},
                 id="E2"),
    pytest.param(realtime(110, 64, cached_of(96, 32), (0, 0)),
                 {Meter.INPUT_TEXT: 14, Meter.CACHED_TEXT: 96, Meter.INPUT_AUDIO: 32, Meter.CACHED_AUDIO: 32}, id="E3, second turn"),
    pytest.param(realtime(1_000, 600, cached_of(900, 500), (50, 240), images=765),
                 {Meter.INPUT_TEXT: 100, Meter.CACHED_TEXT: 900, Meter.INPUT_AUDIO: 100, Meter.CACHED_AUDIO: 500, Meter.INPUT_IMAGE: 765,
                  Meter.OUTPUT_TEXT: 50, Meter.OUTPUT_AUDIO: 240}, id="E7"),
    pytest.param(realtime(100, 50, {"cached_tokens": 120}, (0, 0)), {Meter.CACHED_TEXT: 100, Meter.CACHED_AUDIO: 20, Meter.INPUT_AUDIO: 30},
                 id="cached without a split is text first"),
    pytest.param(realtime(10, 5, {"cached_tokens": 17}, (0, 0), images=3),
                 {Meter.CACHED_TEXT: 10, Meter.CACHED_AUDIO: 5, Meter.CACHED_IMAGE: 2, Meter.INPUT_IMAGE: 1}, id="then audio, then image"),
    pytest.param(realtime(10, 0, {"cached_tokens_details": {"text_tokens": 4}}, (0, 0)), {Meter.INPUT_TEXT: 6, Meter.CACHED_TEXT: 4},
                 id="a split without its sum"),
    pytest.param({"input_tokens": 0, "output_tokens": 0}, {}, id="nothing"),
]  # fmt: skip


@pytest.mark.parametrize("reported, usage", REALTIMES)
def test_realtime(reported: Any, usage: Usage) -> None:
    assert usage_from_realtime(text(reported))[0] == usage


def chat(prompt: int, completion: int, given_details: Any = None, made: Any = None) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "prompt_tokens_details": given_details,
        "completion_tokens_details": made,
    }


CHATS = [
    pytest.param(chat(10, 5), {Meter.INPUT_TEXT: 10, Meter.OUTPUT_TEXT: 5}, id="no details"),
    pytest.param(chat(10, 0), {Meter.INPUT_TEXT: 10}, id="no output"),
    pytest.param(chat(10, 5, {"cached_tokens": 10}), {Meter.CACHED_TEXT: 10, Meter.OUTPUT_TEXT: 5}, id="all cached"),
    pytest.param(chat(10, 5, {"cached_tokens": None, "audio_tokens": None}), {Meter.INPUT_TEXT: 10, Meter.OUTPUT_TEXT: 5},
                 id="null details"),
    pytest.param(chat(10, 5, {"audio_tokens": 8, "cached_tokens": 4}),
                 {Meter.CACHED_TEXT: 2, Meter.CACHED_AUDIO: 2, Meter.INPUT_AUDIO: 6, Meter.OUTPUT_TEXT: 5},
                 id="cached beyond text is audio"),
    pytest.param(chat(10, 5, {"text_tokens": 0}), {Meter.INPUT_TEXT: 10, Meter.OUTPUT_TEXT: 5}, id="what is not split is text"),
    pytest.param(chat(12, 5, {"cached_tokens": 8, "cache_write_tokens": 3}),
                 {Meter.INPUT_TEXT: 1, Meter.CACHED_TEXT: 8, Meter.CACHE_WRITE_TEXT: 3, Meter.OUTPUT_TEXT: 5}, id="written to cache"),
    pytest.param(chat(12, 5, {"image_tokens": 9, "cache_write_tokens": 11}),
                 {Meter.INPUT_IMAGE: 1, Meter.CACHE_WRITE_TEXT: 11, Meter.OUTPUT_TEXT: 5}, id="written images count with the text"),
    pytest.param(chat(10, 5, {"cache_write_tokens": 6, "cache_write_tokens_details": {"ttl_12h_tokens": 4}}),
                 {Meter.INPUT_TEXT: 4, Meter.CACHE_WRITE_TEXT: 2, Meter.CACHE_WRITE_12H_TEXT: 4, Meter.OUTPUT_TEXT: 5},
                 id="what is not said to stay 12 hours stays 30 minutes"),
    pytest.param(chat(10, 5, {"cache_write_tokens_details": {"ttl_12h_tokens": 4, "ttl_30m_tokens": 1}}),
                 {Meter.INPUT_TEXT: 5, Meter.CACHE_WRITE_TEXT: 1, Meter.CACHE_WRITE_12H_TEXT: 4, Meter.OUTPUT_TEXT: 5},
                 id="writes without their sum"),
    pytest.param(chat(QUANTITY_MAX, 0), {Meter.INPUT_TEXT: QUANTITY_MAX}, id="the largest"),
]  # fmt: skip


@pytest.mark.parametrize("reported, usage", CHATS)
def test_chat(reported: Any, usage: Usage) -> None:
    assert usage_from_chat(text(reported))[0] == usage


def test_whole_numbers_may_be_written_as_floats() -> None:
    assert usage_from_chat(b'{"prompt_tokens":12.0,"completion_tokens":1e1}')[0] == {Meter.INPUT_TEXT: 12, Meter.OUTPUT_TEXT: 10}


LOST = [
    pytest.param(usage_from_chat, b'{"prompt_tokens":10,"completion_tokens":5,"total_tokens":16}', id="total is not the sum"),
    pytest.param(usage_from_chat, b'{"completion_tokens":5,"total_tokens":16}', id="no prompt_tokens"),
    pytest.param(usage_from_chat, b'{"prompt_tokens":5,"total_tokens":16}', id="no completion_tokens"),
    pytest.param(usage_from_chat, b'{"prompt_tokens":null,"completion_tokens":5}', id="null"),
    pytest.param(usage_from_chat, b'{"prompt_tokens":-1,"completion_tokens":5}', id="negative"),
    pytest.param(usage_from_chat, b'{"prompt_tokens":true,"completion_tokens":5}', id="boolean"),
    pytest.param(usage_from_chat, b'{"prompt_tokens":"5","completion_tokens":5}', id="string"),
    pytest.param(usage_from_chat, b'{"prompt_tokens":5.5,"completion_tokens":5}', id="fraction"),
    pytest.param(usage_from_chat, b'{"prompt_tokens":1e999999999,"completion_tokens":5}', id="enormous exponent"),
    pytest.param(usage_from_chat, b'{"prompt_tokens":1e-999999999,"completion_tokens":5}', id="enormous negative exponent"),
    pytest.param(usage_from_chat, b'{"prompt_tokens":%d,"completion_tokens":5}' % (QUANTITY_MAX + 1), id="one beyond the largest"),
    pytest.param(usage_from_chat, b'{"prompt_tokens":' + b"9" * 5_000 + b',"completion_tokens":5}', id="5,000 digits"),
    pytest.param(usage_from_chat, text(chat(10, 5, {"cached_tokens": 11})), id="more cached than there was"),
    pytest.param(usage_from_chat, text(chat(10, 5, {"audio_tokens": 11})), id="more audio than there was"),
    pytest.param(usage_from_chat, text(chat(10, 5, {"text_tokens": 6, "audio_tokens": 5})), id="parts exceed the whole"),
    pytest.param(usage_from_chat, text(chat(10, 5, {"cached_tokens": 5, "cache_write_tokens": 6})),
                 id="more read and written than there was"),
    pytest.param(usage_from_chat, text(chat(10, 5, {"audio_tokens": 5, "cache_write_tokens": 6})), id="audio written to cache"),
    pytest.param(usage_from_chat, text(chat(10, 5, {"cache_write_tokens": 2, "cache_write_tokens_details": {"ttl_12h_tokens": 3}})),
                 id="parts written exceed what was written"),
    pytest.param(usage_from_chat, text(chat(10, 5, None, {"audio_tokens": 6})), id="more audio out than output"),
    pytest.param(usage_from_chat, text(chat(10, 5, None, {"reasoning_tokens": 6})), id="more reasoning than output"),
    pytest.param(usage_from_chat, text(chat(10, 5, 7)), id="details that are a number"),
    pytest.param(usage_from_realtime, text(realtime(10, 5, cached_of(11, 0), (0, 0))), id="more text cached than text"),
    pytest.param(usage_from_realtime, text(realtime(10, 5, cached_of(5, 0) | {"cached_tokens": 6}, (0, 0))), id="cached is not its sum"),
    pytest.param(usage_from_realtime, b'{"input_tokens":5,"output_tokens":0}', id="realtime input without a split"),
    pytest.param(usage_from_realtime, b'{"input_tokens":0,"output_tokens":5}', id="realtime output without a split"),
    pytest.param(usage_from_realtime, b'{"input_tokens":5,"output_tokens":0,"input_token_details":{"text_tokens":4}}',
                 id="realtime split too small"),
    pytest.param(usage_from_transcription, b'{"seconds":5}', id="transcription without a type"),
    pytest.param(usage_from_transcription, b'{"type":"words","seconds":5}', id="transcription of another type"),
    pytest.param(usage_from_transcription, b'{"type":"tokens","input_tokens":1,"output_tokens":0,"input_token_details":{"text_tokens":2}}',
                 id="more text than input"),
    pytest.param(usage_from_transcription, b'{"type":"duration"}', id="no seconds"),
    pytest.param(usage_from_images, b'{"input_tokens":1,"output_tokens":5,"output_tokens_details":{"text_tokens":3,"image_tokens":3}}',
                 id="image parts exceed the whole"),
    pytest.param(usage_from_embedding, b'{"prompt_tokens":5,"total_tokens":6}', id="embedding total"),
]  # fmt: skip


@pytest.mark.parametrize("read, reported", LOST)
def test_what_contradicts_itself_is_lost(read: Read, reported: bytes) -> None:
    with pytest.raises(MeteringLost) as lost:
        read(reported)
    assert 0 < len(lost.value.reason) <= 200


@given(st.binary(max_size=40) | st.text(alphabet='{}[]",:\\ 019e.-', max_size=30).map(str.encode))
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_usage_or_metering_lost(reported: bytes) -> None:
    for read in FROM:
        with pytest.raises(MeteringLost):
            read(reported)


def test_depth_is_metering_lost() -> None:
    for read in FROM:
        with pytest.raises(MeteringLost):
            read(b'{"x":' + b"[" * 100_000)


SPLITS = st.fixed_dictionaries(
    {}, optional={name: st.none() | st.integers(0, 30) for name in ("text_tokens", "audio_tokens", "image_tokens", "cached_tokens",
                                                                    "cache_write_tokens", "reasoning_tokens")}
)  # fmt: skip


@given(st.integers(0, 60), st.integers(0, 60), st.none() | SPLITS, st.none() | SPLITS)
@settings(max_examples=300, deadline=None)
def test_every_token_is_in_exactly_one_meter(prompt: int, completion: int, given_details: Any, made: Any) -> None:
    try:
        usage, details = usage_from_chat(text(chat(prompt, completion, given_details, made)))
    except MeteringLost:
        return
    assert tokens_of(usage) == prompt + completion == details["total_tokens"]
    assert all(quantity > 0 for quantity in usage.values())
    out = [meter for meter in usage if meter.startswith("output")]
    assert sum(usage[meter] for meter in out) == completion


# Durations

DURATIONS = [
    pytest.param("83.4", 83_400, id="E17 whisper"),
    pytest.param("3.2", 3_200, id="E6"),
    pytest.param("90", 90_000, id="E17 live"),
    pytest.param("0", 0, id="none"),
    pytest.param("0.0", 0, id="none with a point"),
    pytest.param("0.001", 1, id="a millisecond"),
    pytest.param("0.0010000001", 2, id="a little more rounds up"),
    pytest.param("0.29", 290, id="what a float would make 289 or 291"),
    pytest.param("1e-9", 1, id="a nanosecond"),
    pytest.param("1e-999999", 1, id="next to nothing"),
    pytest.param("8.34E+1", 83_400, id="with an exponent"),
]


@pytest.mark.parametrize("seconds, milliseconds", DURATIONS)
def test_durations_are_exact(seconds: str, milliseconds: int) -> None:
    usage, _ = usage_from_duration(f'{{"seconds":{seconds}}}'.encode())
    assert usage == ({Meter.DURATION_IN_MS: milliseconds} if milliseconds else {})


@pytest.mark.parametrize("seconds", ["-1", '"5"', "null", "true", "NaN", "1e99", "1e999999999", "9" * 29, "[]"])
def test_durations_that_cannot_be(seconds: str) -> None:
    with pytest.raises(MeteringLost):
        usage_from_duration(f'{{"seconds":{seconds}}}'.encode())


@given(st.integers(0, QUANTITY_MAX // 1_000), st.integers(0, 9))
def test_durations_round_up(digits: int, places: int) -> None:
    seconds = f"{digits:011d}"
    written = f"{int(seconds[: 11 - places] or '0')}.{seconds[11 - places :] or '0'}"
    usage, _ = usage_from_duration(f'{{"seconds":{written}}}'.encode())
    assert usage.get(Meter.DURATION_IN_MS, 0) == -(-digits * 1_000 // 10**places)


# Tools

SEARCHERS = [
    ("gpt-4o-search-preview", {Meter.WEB_SEARCH_PREVIEW_CALLS: 1}),
    ("gpt-4o-mini-search-preview-2025-03-11", {Meter.WEB_SEARCH_PREVIEW_CALLS: 1}),
    ("gpt-5-search-api", {Meter.WEB_SEARCH_CALLS: 1}),
    ("gpt-5-search-api-2025-10-14", {Meter.WEB_SEARCH_CALLS: 1}),
    ("gpt-4o", {}),
    ("my-search-preview", {}),
    ("gpt-4o-search-previewer", {}),
    (None, {}),
]


@pytest.mark.parametrize("model, usage", SEARCHERS)
def test_chat_models_that_search(model: str | None, usage: Usage) -> None:
    assert chat_search_usage(model) == usage


SIZES = [("1g", Meter.CONTAINER_SESSIONS), ("4g", Meter.CONTAINER_4G_SESSIONS), ("16g", Meter.CONTAINER_16G_SESSIONS),
         ("64g", Meter.CONTAINER_64G_SESSIONS), (None, Meter.CONTAINER_SESSIONS)]  # fmt: skip


@pytest.mark.parametrize("memory_limit, meter", SIZES)
def test_containers_are_sessions_by_size_and_id(memory_limit: str | None, meter: Meter) -> None:
    items: list[dict[str, Any]] = [{"type": "code_interpreter_call", "container_id": name} for name in ("a", "b", "a")]
    items.append({"type": "shell_call", "environment": {"type": "container_reference", "container_id": "c"}})
    items.append({"type": "shell_call", "environment": {"type": "local"}})
    tools = [{"type": "code_interpreter", "container": {"type": "auto", "memory_limit": memory_limit}}]
    assert tool_usage(text(items), text(tools), b"null") == ({meter: 3}, {})


def test_a_container_of_unknown_size_is_lost() -> None:
    tools = [{"type": "code_interpreter", "container": {"memory_limit": "3g"}}]
    with pytest.raises(MeteringLost):
        tool_usage(b'[{"type":"code_interpreter_call","container_id":"a"}]', text(tools), b"")


def test_images_drawn_by_another_model_make_the_entry_unpriced() -> None:
    split = {"text_tokens": 50, "image_tokens": 10}
    drawn = {"input_tokens": 60, "input_tokens_details": split, "output_tokens": 4_160, "total_tokens": 4_220}
    usage, details = tool_usage(b"[]", b"[]", text({"web_search": {"num_requests": 0}, "image_gen": drawn}))
    assert usage == {Meter.INPUT_IMAGE: 10, Meter.OUTPUT_IMAGE: 4_160}
    assert details == {"image_gen_input_text_tokens": 50, "image_gen_input_image_tokens": 10, "image_gen_output_image_tokens": 4_160}


MALFORMED = [b'{"web_search":{"num_requests":-1}}', b'{"web_search":5}', b'{"image_gen":{"input_tokens":-1}}', b"{"]


@pytest.mark.parametrize("reported", MALFORMED)
def test_malformed_tool_usage_is_lost(reported: bytes) -> None:
    with pytest.raises(MeteringLost):
        tool_usage(b"", b"", reported)
    answer = case("response").replace(b'"usage"', b'"tool_usage":%b,"usage"' % (reported if reported != b"{" else b"[{}]"))
    seen = read_response_answer(answer)
    assert (seen.usage, bool(seen.lost)) == (None, True)
