"""Reading bodies: what is read, and what is refused before anything is reserved."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ApiError
from gateway.metering.body import (
    COUNT_MAX,
    MEMBERS_MAX,
    CallBody,
    read_chat,
    read_completion,
    read_embedding,
    read_moderation,
    read_response,
)
from gateway.metering.edit import with_include_usage

Reader = Callable[[bytes], CallBody | ApiError]
READERS = (read_chat, read_completion, read_response, read_embedding, read_moderation)
MESSAGES = [{"role": "user", "content": "Hi"}]


def read(reader: Reader, **body: Any) -> CallBody:
    found = reader(json.dumps(body).encode())
    assert isinstance(found, CallBody), found
    return found


def refused(reader: Reader, body: bytes, param: str | None = None) -> ApiError:
    error = reader(body)
    assert isinstance(error, ApiError), error
    assert (error.status, error.type, error.param) == (400, "invalid_request_error", param), error
    return error


# What is read


def test_chat_with_everything() -> None:
    found = read(
        read_chat,
        model="gpt-4o",
        messages=MESSAGES,
        stream=True,
        stream_options={"include_usage": True},
        service_tier="flex",
        max_completion_tokens=7,
        n=3,
        store=True,
        user="someone",
    )
    assert found == CallBody(
        model="gpt-4o",
        stream=True,
        service_tier="flex",
        output_tokens_max=7,
        choices=3,
        store=True,
        usage_asked=True,
        input_text_bytes=len(json.dumps(MESSAGES)),
    )


def test_chat_null_is_absent() -> None:
    found = read(read_chat, model="m", stream=None, stream_options=None, n=None, max_tokens=None, store=None, service_tier=None)
    assert found == CallBody(model="m")


CAPS = [
    pytest.param(read_chat, {"max_tokens": 1, "max_completion_tokens": 10_000}, 10_000, id="a small old cap does not hide a large new one"),
    pytest.param(read_chat, {"max_tokens": 10_000, "max_completion_tokens": 1}, 10_000, id="nor the other way round"),
    pytest.param(read_chat, {"max_tokens": 5}, 5, id="old cap alone"),
    pytest.param(read_chat, {"max_completion_tokens": None, "max_tokens": 5}, 5, id="null beside a cap"),
    pytest.param(read_chat, {"max_output_tokens": 5}, None, id="chat does not honour the cap of responses"),
    pytest.param(read_chat, {"max_tokens": COUNT_MAX}, COUNT_MAX, id="the largest"),
    pytest.param(read_response, {"max_output_tokens": 5, "max_tokens": 9}, 5, id="responses honour their own cap only"),
    pytest.param(read_response, {"max_tokens": 1}, None, id="which chat's is not"),
    pytest.param(read_completion, {"max_tokens": 0}, 0, id="completions may generate nothing"),
]


@pytest.mark.parametrize("reader, caps, largest", CAPS)
def test_output_cap(reader: Reader, caps: dict[str, Any], largest: int | None) -> None:
    assert read(reader, model="m", **caps).output_tokens_max == largest


def test_completion_counts_the_larger_of_n_and_best_of() -> None:
    assert read(read_completion, model="m", n=2, best_of=5).choices == 5
    assert read(read_completion, model="m", n=5, best_of=2).choices == 5
    assert read(read_completion, model="m").choices == 1


MODALITIES = [
    pytest.param(["text", "audio"], True, id="text and audio"),
    pytest.param(["audio"], True, id="audio"),
    pytest.param(["text"], False, id="text"),
    pytest.param(["audiobook"], False, id="a longer word"),
    pytest.param([], False, id="none"),
    pytest.param(None, False, id="null"),
]


@pytest.mark.parametrize("modalities, audio_out", MODALITIES)
def test_a_call_may_ask_for_audio(modalities: Any, audio_out: bool) -> None:
    assert read(read_chat, model="m", modalities=modalities).audio_out is audio_out


def test_audio_is_asked_for_whatever_the_spelling() -> None:
    found = read_chat(b'{"model":"m","modaliti\\u0065s":["\\u0061udio"]}')
    assert isinstance(found, CallBody)
    assert found.audio_out


CONVERSATIONS = [
    pytest.param("conv_1", "conv_1", id="text"),
    pytest.param({"id": "conv_1"}, "conv_1", id="an object"),
    pytest.param({"id": "conv_1", "metadata": {"id": "conv_2"}}, "conv_1", id="an object with more in it"),
    pytest.param("", "", id="empty, and still not absent"),
    pytest.param(None, None, id="null"),
]


@pytest.mark.parametrize("conversation, conversation_id", CONVERSATIONS)
def test_the_conversation_is_read(conversation: Any, conversation_id: str | None) -> None:
    found = read(read_response, model="m", conversation=conversation)
    assert (found.conversation_id, found.history) == (conversation_id, conversation is not None)


def test_a_conversation_must_be_clear() -> None:
    refused(read_response, b'{"model":"m","conversation":5}', "conversation")
    refused(read_response, b'{"model":"m","conversation":["conv_1"]}', "conversation")
    refused(read_response, b'{"model":"m","conversation":{}}', "conversation.id")
    refused(read_response, b'{"model":"m","conversation":{"id":null}}', "conversation.id")
    refused(read_response, b'{"model":"m","conversation":{"id":5}}', "conversation.id")
    refused(read_response, b'{"model":"m","conversation":{"id":"mine","\\u0069d":"yours"}}', "conversation.id")
    refused(read_response, b'{"model":"m","conversation":{"id":"%b"}}' % (b"c" * 201), "conversation.id")


HISTORIES = [
    pytest.param({"previous_response_id": "resp_1"}, True, id="previous response"),
    pytest.param({"conversation": "conv_1"}, True, id="conversation by id"),
    pytest.param({"conversation": {"id": "conv_1"}}, True, id="conversation as object"),
    pytest.param({"prompt": {"id": "pmpt_1"}}, True, id="stored prompt"),
    pytest.param({"previous_response_id": None, "conversation": None, "prompt": None}, False, id="all null"),
    pytest.param({}, False, id="none"),
]


@pytest.mark.parametrize("body, history", HISTORIES)
def test_history_is_noticed(body: dict[str, Any], history: bool) -> None:
    found = read(read_response, model="m", input="Hi", **body)
    assert found.history is history
    assert found.previous_response_id == body.get("previous_response_id")


def test_a_response_needs_no_model_when_a_stored_prompt_names_one() -> None:
    assert read(read_response, prompt={"id": "pmpt_1", "version": "2"}).model is None
    refused(read_response, b'{"input":"Hi"}', "model")
    refused(read_response, b'{"prompt":{"version":"2"}}', "prompt.id")
    refused(read_response, b'{"prompt":{"id":5}}', "prompt.id")
    refused(read_response, b'{"prompt":"pmpt_1"}', "prompt")
    refused(read_response, b'{"prompt":{"id":"a","\\u0069d":"b"}}', "prompt.id")


def test_background_and_store() -> None:
    found = read(read_response, model="m", background=True, store=False, stream=True)
    assert (found.background, found.store, found.stream) == (True, False, True)


def test_moderation_needs_no_model() -> None:
    assert read(read_moderation, input="Hi") == CallBody(model=None, choices=0, input_text_bytes=4)
    assert read(read_moderation, input="Hi", model="omni-moderation-latest").model == "omni-moderation-latest"


# What is refused

BROKEN = [
    pytest.param(b"", id="nothing"),
    pytest.param(b" ", id="white space"),
    pytest.param(b"[]", id="an array"),
    pytest.param(b"null", id="null"),
    pytest.param(b'"text"', id="a string"),
    pytest.param(b'{"model":"m"', id="cut"),
    pytest.param(b'{"model":"m"}x', id="more after the end"),
    pytest.param(b'{"model":"m",}', id="trailing comma"),
    pytest.param(b"{'model':'m'}", id="single quotes"),
    pytest.param(b'\xef\xbb\xbf{"model":"m"}', id="byte order mark"),
    pytest.param(b'{"model":"m","input":NaN}', id="NaN"),
    pytest.param(b'{"model":"m","n":-Infinity}', id="infinity"),
    pytest.param(b'{"model":"m","n":01}', id="octal"),
    pytest.param(b'{"model":"m\xff"}', id="not UTF-8 in the model"),
    pytest.param(b'{"model":"m","input":"\xff"}', id="not UTF-8 in a value"),
    pytest.param(b'{"model":"m","\xff":1}', id="not UTF-8 in a name"),
    pytest.param(b'{"model":"m","input":"\xed\xa0\x80"}', id="a surrogate in UTF-8"),
    pytest.param(b'{"model":"m","input":"' + b"x" * 1_048_600 + b'\xc3"}', id="not UTF-8 far inside"),
    pytest.param(b'{"model":"m","input":"' + b"\x80" * 2_000_000 + b'"}', id="nothing but continuation bytes"),
    pytest.param(b'{"model":"\\ud800"}', id="a lone surrogate in the model"),
    pytest.param(b'{"model":"m","input":"a\nb"}', id="a raw line feed in a string"),
    pytest.param(b'{"model":"m","input":' + b"[" * 100_000, id="100,000 brackets"),
    pytest.param(b'{"model":"m","input":' + b"[" * 100_000 + b"]" * 100_000 + b"}", id="100,000 brackets, closed"),
    pytest.param(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, id="100,000 objects"),
]


@pytest.mark.parametrize("body", BROKEN)
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_broken_bodies_are_refused(reader: Reader, body: bytes) -> None:
    refused(reader, body)


def test_text_beyond_ascii_is_read_whole_at_any_length() -> None:
    for at in range(4):
        found = read_chat(json.dumps({"model": "m", "messages": "x" * at + "😀" * 400_000}, ensure_ascii=False).encode())
        assert isinstance(found, CallBody)
        assert found.input_text_bytes == 1_600_002 + at


WRONG = [
    pytest.param(b'{"model":5}', "model", id="model is a number"),
    pytest.param(b'{"model":["m"]}', "model", id="model is an array"),
    pytest.param(b'{"model":""}', "model", id="model is empty"),
    pytest.param(b'{"model":null}', "model", id="model is null"),
    pytest.param(b"{}", "model", id="model is missing"),
    pytest.param(b'{"model":"%b"}' % (b"m" * 201), "model", id="model is one character too long"),
    pytest.param(b'{"model":"m","stream":"true"}', "stream", id="stream is a string"),
    pytest.param(b'{"model":"m","stream":1}', "stream", id="stream is a number"),
    pytest.param(b'{"model":"m","n":0}', "n", id="n is 0"),
    pytest.param(b'{"model":"m","n":-1}', "n", id="n is negative"),
    pytest.param(b'{"model":"m","n":1.0}', "n", id="n has a fraction"),
    pytest.param(b'{"model":"m","n":1e1}', "n", id="n has an exponent"),
    pytest.param(b'{"model":"m","n":true}', "n", id="n is a boolean"),
    pytest.param(b'{"model":"m","n":"1"}', "n", id="n is a string"),
    pytest.param(b'{"model":"m","n":%d}' % (COUNT_MAX + 1), "n", id="n is one too large"),
    pytest.param(b'{"model":"m","n":' + b"9" * 5_000 + b"}", "n", id="n has 5,000 digits"),
    pytest.param(b'{"model":"m","max_tokens":0}', "max_tokens", id="cap is 0"),
    pytest.param(b'{"model":"m","max_completion_tokens":-5}', "max_completion_tokens", id="cap is negative"),
    pytest.param(b'{"model":"m","service_tier":5}', "service_tier", id="service tier is a number"),
    pytest.param(b'{"model":"m","stream_options":true}', "stream_options", id="stream options are a boolean"),
    pytest.param(b'{"model":"m","stream_options":{"include_usage":1}}', "stream_options.include_usage", id="include_usage is a number"),
    pytest.param(
        b'{"model":"m","stream_options":{"include_usage":true,"include_usage":false}}',
        "stream_options.include_usage",
        id="include_usage twice",
    ),
    pytest.param(b'{"model":"m","model":"m"}', "model", id="model twice"),
    pytest.param(b'{"model":"cheap","\\u006dodel":"dear"}', "model", id="model twice, once escaped"),
    pytest.param(b'{"model":"m","max_tokens":1,"max_tokens":9}', "max_tokens", id="cap twice"),
    pytest.param(b'{"model":"m","messages":[],"messages":[]}', "messages", id="messages twice"),
    pytest.param(b'{"model":"m","stream_options":{},"stream_options":null}', "stream_options", id="stream options twice"),
    pytest.param(b'{"model":"m","modalities":"audio"}', "modalities", id="modalities are a string"),
    pytest.param(b'{"model":"m","modalities":["text",5]}', "modalities", id="a modality is a number"),
    pytest.param(b'{"model":"m","modalities":["text"],"modalities":["audio"]}', "modalities", id="modalities twice"),
]


@pytest.mark.parametrize("body, param", WRONG)
def test_wrong_members_are_named(body: bytes, param: str) -> None:
    assert param in refused(read_chat, body, param).message


def test_what_is_just_allowed() -> None:
    assert read(read_chat, model="m" * 200).model == "m" * 200
    assert read(read_chat, model="m", n=COUNT_MAX).choices == COUNT_MAX
    assert read(read_chat, model="m", n=1).choices == 1


def test_duplicates_that_are_not_read_pass() -> None:
    found = read_chat(b'{"seed":1,"model":"m","seed":2,"nested":{"model":"a","model":"b"}}')
    assert isinstance(found, CallBody)
    assert found.model == "m"


def test_a_large_body_may_not_have_any_number_of_members() -> None:
    pad = b'"pad":"' + b"x" * 70_000 + b'"'
    most = b",".join(b'"k%d":1' % index for index in range(MEMBERS_MAX - 2))
    assert isinstance(read_chat(b'{"model":"m",' + pad + b"," + most + b"}"), CallBody)
    refused(read_chat, b'{"model":"m",' + pad + b',"one":1,' + most + b"}")


def test_a_medium_body_may_not_either() -> None:
    body = b'{"model":"m",' + b",".join(b'"%d":"12345678"' % index for index in range(MEMBERS_MAX)) + b"}"
    assert len(body) > 16_384
    refused(read_chat, body)


@pytest.mark.parametrize("reader", [read_chat, read_completion], ids=lambda reader: reader.__name__)
def test_what_is_read_of_a_stream_can_be_edited_later_with_less_room_on_the_stack(reader: Reader) -> None:
    """The parser goes as deep as the stack above it leaves room, so a body may fit here and not there."""

    def body(levels: int, **members: Any) -> bytes:
        head = json.dumps({"model": "m", "stream": True, **members}).encode()[:-1]
        return head + b',"x":' + b"[" * levels + b"]" * levels + b"}"

    def deeper(frames: int, given_body: bytes) -> bytes:
        return deeper(frames - 1, given_body) if frames else with_include_usage(given_body)

    read_levels = [levels for levels in range(600, 1_000) if isinstance(reader(body(levels, stream_options={})), CallBody)]
    deepest = read_levels[-1]
    assert b'"include_usage":true' in deeper(40, body(deepest, stream_options={}))
    refused(reader, body(deepest + 1, stream_options={}))
    assert isinstance(reader(body(deepest + 10)), CallBody), "the edit does not read this one"
    assert isinstance(reader(body(deepest + 10, stream_options={"include_usage": True})), CallBody), "nor is this one edited"
    assert isinstance(reader(body(deepest + 10, stream=False, stream_options={})), CallBody), "nor this"


@given(st.binary(max_size=80) | st.text(alphabet='{}[]",:\\ mnode1.tu', max_size=60).map(str.encode))
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_a_value_or_a_refusal(body: bytes) -> None:
    for reader in READERS:
        assert isinstance(reader(body), CallBody | ApiError)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "content", "image_url", "x"]), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["model", "stream", "stream_options", "n", "max_tokens", "messages", "input", "prompt", "tools", "x"])


@given(st.dictionaries(NAMES, JSON, max_size=6))
@settings(max_examples=200, deadline=None)
def test_any_json_gives_a_value_or_a_refusal(body: dict[str, Any]) -> None:
    for reader in READERS:
        found = reader(json.dumps(body).encode())
        assert isinstance(found, CallBody | ApiError)
        if isinstance(found, CallBody):
            assert found.model == body.get("model") or (not body.get("model") and found.model is None)
            assert found.input_text_bytes >= 0


NAMES = st.sampled_from(["model", "stream", "n", "user", "", 'a"', "\\", '"', ", ", ": ", 'n": 1, "user', "\u00e9"])
VALUES = st.one_of(st.integers(1, 9), st.booleans(), st.sampled_from(["", "gpt-4o", '", "n": "', "\\", ": "]), st.just([1, {"n": 2}]))


@st.composite
def members_as_written(draw: st.DrawFn) -> bytes:
    """An object as serializers write it and as they do not: names escaped or not and given again, spaces or none."""
    comma, colon = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,", ":"), (",", " : ")]))
    written = []
    for name, value in draw(st.lists(st.tuples(NAMES, VALUES), max_size=5)):
        spelt = "".join(f"\\u{ord(c):04x}" for c in name) if draw(st.booleans()) else json.dumps(name)[1:-1]
        written.append(f'"{spelt}"{colon}{json.dumps(value, separators=draw(st.sampled_from([(",", ":"), (", ", ": ")])))}')
    return f"{{{comma.join(written)}}}".encode()


@pytest.mark.parametrize("reader", READERS)
@given(body=members_as_written())
@settings(max_examples=200, deadline=None)
def test_a_body_reads_the_same_by_the_quick_way_and_by_the_slow(reader: Reader, body: bytes) -> None:
    assert reader(body) == reader(body + b" " * 20_000), "too long for the quick way"


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","n":1,"d":3,"e":4,"model":"b"}',
        b'{"model": "a", "n": 1, "d": 3, "model": "b"}',
        b'{"model":"a","nn":1,"d":3,"stop":4,"model":1}',
        b'{"ab":1,"c":2,"d":3,"model":"a","ab":1,"model":"b"}',
        b'{"model":"a", "model":"b"}',
        b'{"mod\\u0065l":"a","model":"b"}',
        # a member of seven bytes, where a serializer's spaces in an object of four would be seven
        b'{"n":1,"model":"m","d":3,"e":4,"n": 12}',
        b'{"model":"m","c":2,"d":3,"n":4,"n": 40}',
    ],
)
def test_a_body_that_a_serializer_could_have_written_but_for_a_duplicate_is_refused(body: bytes) -> None:
    assert isinstance(read_chat(body), ApiError)
