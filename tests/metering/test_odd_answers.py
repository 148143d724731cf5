"""Answers that are not what was expected: JSON for a stream, oversized, malformed, without event names; and whole answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.metering.answers import Observed, read_chat_answer, read_plain_answer, read_response_answer
from gateway.metering.observers import AnswerObserver, ChatStreamObserver, Observer, ResponsesStreamObserver
from gateway.units import Meter

CASES = Path(__file__).parent.parent / "cases"
Cut = Callable[[bytes], Iterable[bytes]]


def whole(data: bytes) -> Iterator[bytes]:
    yield data


def byte_by_byte(data: bytes) -> Iterator[bytes]:
    return (data[at : at + 1] for at in range(len(data)))


def in_sevens(data: bytes) -> Iterator[bytes]:
    return (data[at : at + 7] for at in range(0, len(data), 7))


def in_reads(data: bytes) -> Iterator[bytes]:
    return (data[at : at + 1_000] for at in range(0, len(data), 1_000))


def by_event(data: bytes) -> Iterator[bytes]:
    return (event + b"\n\n" for event in data.split(b"\n\n")[:-1])


CUTS = [whole, byte_by_byte, in_sevens, in_reads, by_event]


def sent(name: str) -> bytes:
    return (CASES / f"{name}.sse").read_bytes()


def run(observer: Observer, pieces: Iterable[bytes]) -> tuple[bytes, bytes, Observed]:
    """What went at once, what was held, what was seen."""
    passed = b"".join([observer.feed(piece) for piece in pieces])
    seen = observer.finish()
    return passed, observer.release(), seen


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("make", [lambda: ChatStreamObserver(False), lambda: ChatStreamObserver(True), ResponsesStreamObserver])
@pytest.mark.parametrize("lead", [b"", b" \r\n"], ids=["at once", "after white space"])
def test_an_answer_to_a_stream_call_may_be_json(make: Callable[[], Observer], cut: Cut, lead: bytes) -> None:
    answer = lead + (CASES / "error.json").read_bytes().strip() + b"\n\n"
    passed, held, seen = run(make(), cut(answer))
    assert (passed + held, seen) == (answer, Observed(error_code="server_error"))


def test_a_whole_completion_instead_of_a_stream_is_read() -> None:
    answer = (CASES / "chat.json").read_bytes()
    assert run(ChatStreamObserver(False), in_reads(answer))[2].usage == {
        Meter.INPUT_TEXT: 86,
        Meter.CACHED_TEXT: 1_920,
        Meter.OUTPUT_TEXT: 300,
    }


MALFORMED = [
    pytest.param({"prompt_tokens": 5, "completion_tokens": -1, "total_tokens": 4}, id="negative"),
    pytest.param({"prompt_tokens": 5, "completion_tokens": True}, id="boolean"),
    pytest.param({"completion_tokens": 5}, id="without a total"),
    pytest.param([], id="an array"),
    pytest.param("5", id="a string"),
]


@pytest.mark.parametrize("usage", MALFORMED)
def test_malformed_usage_is_lost_and_not_zero(usage: Any) -> None:
    stream = b'data: {"id":"c","choices":[],"usage":%b}\n\ndata: [DONE]\n\n' % json.dumps(usage).encode()
    for usage_asked in (True, False):
        passed, held, seen = run(ChatStreamObserver(usage_asked), in_sevens(stream))
        assert seen.usage is None
        assert seen.lost
        assert passed + held == (stream if usage_asked else b"data: [DONE]\n\n")


@pytest.mark.parametrize("cut", [whole, byte_by_byte, in_sevens, in_reads])
@pytest.mark.parametrize("usage_asked", [True, False], ids=["asked", "not asked"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_an_oversized_event_passes_unread_and_the_rest_is_read(cut: Cut, usage_asked: bool, end: bytes) -> None:
    def chunk(content: str, **more: Any) -> bytes:
        choices = [{"index": 0, "delta": {"content": content}, "finish_reason": None}] if content else []
        data = json.dumps({"id": "c", "choices": choices, "usage": None} | more, separators=(",", ":")).encode()
        return b"data: " + data + end + end

    small, big = chunk("a"), chunk("x" * 300)
    usage = chunk("", usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3})
    done = b"data: [DONE]" + end + end
    observer = ChatStreamObserver(usage_asked, event_bytes_max=300)
    passed, held, seen = run(observer, cut(small + big + small))
    assert seen.lost == "an event is larger than event_bytes_max"
    kept = small if usage_asked else small.replace(b',"usage":null', b"")
    assert passed + held == kept + big + kept

    observer = ChatStreamObserver(usage_asked, event_bytes_max=300)
    passed, held, seen = run(observer, cut(small + big + usage + done))
    assert (seen.usage, seen.lost) == ({Meter.INPUT_TEXT: 1, Meter.OUTPUT_TEXT: 2}, None)
    assert (passed, held) == (kept + big + (usage if usage_asked else b""), done)


def test_an_event_of_just_the_size_is_read() -> None:
    event = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'
    assert run(ChatStreamObserver(True, event_bytes_max=len(event)), in_sevens(event))[2].usage is not None
    assert run(ChatStreamObserver(True, event_bytes_max=len(event) - 1), in_sevens(event))[2].lost is not None


def test_what_comes_after_the_end_is_held_and_bounded() -> None:
    observer = ChatStreamObserver(True, event_bytes_max=100)
    observer.feed(b"data: [DONE]\n\n")
    assert observer.feed(b": more\n\n") == b""
    assert observer.feed(b"x" * 200) == b"data: [DONE]\n\n: more\n\n" + b"x" * 200
    assert observer.feed(b"y") == b"y"
    assert observer.release() == b""


def test_responses_without_event_lines_or_with_a_done_marker() -> None:
    stream = sent("responses_stream")
    as_sent = run(ResponsesStreamObserver(), [stream])[2]
    bare = b"".join(line + b"\n" for line in stream.split(b"\n")[:-1] if not line.startswith(b"event:")) + b"data: [DONE]\n\n"
    for cut in CUTS:
        passed, held, seen = run(ResponsesStreamObserver(), cut(bare))
        assert (passed + held, seen) == (bare, as_sent)


def test_a_resumed_stream_that_holds_only_its_end_is_read() -> None:
    end = sent("responses_stream").rstrip(b"\n").rpartition(b"\n\n")[2] + b"\n\n"
    assert run(ResponsesStreamObserver(), in_sevens(end))[2].usage == run(ResponsesStreamObserver(), [sent("responses_stream")])[2].usage


def test_a_search_model_is_charged_its_search_in_a_stream_too() -> None:
    stream = sent("chat_stream").replace(b"gpt-4o-mini-2024-07-18", b"gpt-4o-search-preview-2025-03-11")
    seen = run(ChatStreamObserver(False), in_reads(stream))[2]
    assert seen.usage == {Meter.INPUT_TEXT: 120, Meter.OUTPUT_TEXT: 9, Meter.WEB_SEARCH_PREVIEW_CALLS: 1}


def test_texts_are_clipped() -> None:
    chunk = {"id": "i" * 999, "model": "m" * 999, "service_tier": "s" * 999, "error": {"code": "c" * 999}}
    answer = json.dumps(chunk).encode()
    seen = run(AnswerObserver(read_chat_answer), [answer])[2]
    assert seen == Observed(model_served="m" * 200, service_tier="s" * 200, answer_id="i" * 200, error_code="c" * 200)


ERRORS = [
    pytest.param(b'{"code":"c","type":"t"}', "c", id="its code"),
    pytest.param(b'{"code":null,"type":"t"}', "t", id="else its type"),
    pytest.param(b'{"code":429}', "429", id="a code that is a number"),
    pytest.param(b"{}", "error", id="else that there was one"),
    pytest.param(b'"text"', "error", id="no object"),
]


@pytest.mark.parametrize("error, code", ERRORS)
def test_error_code(error: bytes, code: str) -> None:
    seen = run(ChatStreamObserver(True), [b'data: {"error":' + error + b"}\n\n"])[2]
    assert seen.error_code == code


# Whole answers


def test_a_whole_answer_passes_at_once_and_is_read() -> None:
    answer = (CASES / "chat.json").read_bytes()
    observer = AnswerObserver(read_chat_answer)
    assert (observer.started, observer.usage_due) == (False, True)  # it is generated, and billed, before its first byte
    assert b"".join(observer.feed(piece) for piece in in_sevens(answer)) == answer
    assert (observer.started, observer.ended, observer.release()) == (True, False, b"")
    assert observer.usage_due
    assert observer.finish().usage == {Meter.INPUT_TEXT: 86, Meter.CACHED_TEXT: 1_920, Meter.OUTPUT_TEXT: 300}


def test_a_whole_answer_is_kept_up_to_its_maximum() -> None:
    answer = (CASES / "chat.json").read_bytes()
    assert run(AnswerObserver(read_chat_answer, answer_bytes_max=len(answer)), in_sevens(answer))[2].usage
    passed, _, seen = run(AnswerObserver(read_chat_answer, answer_bytes_max=len(answer) - 1), in_sevens(answer))
    assert (passed, seen) == (answer, Observed(lost="answer is larger than answer_bytes_max"))


def test_of_an_answer_that_is_too_large_no_usage_is_due() -> None:
    observer = AnswerObserver(read_chat_answer, answer_bytes_max=5)
    observer.feed(b"{" * 5)
    assert observer.usage_due
    observer.feed(b"{")
    assert not observer.usage_due


def test_json_for_a_stream_is_as_due_as_any_json() -> None:
    for observer in (ChatStreamObserver(True), ResponsesStreamObserver()):
        assert not observer.usage_due
        observer.feed(b' {"id":')
        assert observer.usage_due


@pytest.mark.parametrize("answer", [b"", b"<html>", b'{"usage":', b"[" * 100_000, b'{"model":5}', b'{"id":"\xff"}'], ids=range(6))
def test_an_answer_that_cannot_be_read_is_lost(answer: bytes) -> None:
    for read in (read_chat_answer, read_response_answer, read_plain_answer):
        seen = run(AnswerObserver(read), [answer])[2]
        assert (seen.usage, bool(seen.lost)) == (None, True)


@pytest.mark.parametrize("cut", CUTS)
def test_an_end_in_another_spelling_is_held_as_far_as_it_has_not_gone(cut: Cut) -> None:
    stream = sent("chat_stream_plain")[:400].partition(b"\n\n")[0] + b'\n\ndata:  { "error" : {"code":"c"} }\n\n'
    observer = ChatStreamObserver(True)
    passed = b"".join([observer.feed(piece) for piece in cut(stream)])
    assert observer.ended
    assert passed.count(b"\n\n") == 1
    assert (passed + observer.release(), observer.finish().error_code) == (stream, "c")


def test_usage_in_every_chunk_is_read_to_the_last() -> None:
    def chunk(tokens: int, finish: bytes = b"null") -> bytes:
        usage = b'{"prompt_tokens":5,"completion_tokens":%d}' % tokens
        return b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":%b}],"usage":%b}\n\n' % (finish, usage)

    for usage_asked in (True, False):
        observer = ChatStreamObserver(usage_asked)
        passed = b"".join([observer.feed(chunk(tokens)) for tokens in (1, 2, 3)])
        assert observer.finish().usage == {Meter.INPUT_TEXT: 5, Meter.OUTPUT_TEXT: 3}
        assert passed == (b"".join(map(chunk, (1, 2, 3))) if usage_asked else passed.replace(b'"usage"', b"?"))


def test_an_event_on_several_lines_is_one_event() -> None:
    start = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
    several = b'data: {"choices":[{"delta":{"content":"b"}}],\ndata: "x":{"choices":[{}]},"usage":null}\n\n\n'
    by_bytes = run(ChatStreamObserver(True), byte_by_byte(start + several))[2]
    assert by_bytes == run(ChatStreamObserver(True), [start, several])[2] == Observed(emitted_tokens=2)
