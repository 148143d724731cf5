"""Streams, cut anywhere: what the client gets, what waits for the entry, what is observed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.metering.answers import Observed, read_chat_answer, read_plain_answer, read_response_answer
from gateway.metering.observers import AnswerObserver, ChatStreamObserver, Observer, ResponsesStreamObserver
from gateway.units import Meter

CASES = Path(__file__).parent.parent / "cases"
GPT_4O_MINI: dict[str, Any] = {"model_served": "gpt-4o-mini-2024-07-18", "service_tier": "default", "answer_id": "chatcmpl-S1"}
GPT_6: dict[str, Any] = {"model_served": "gpt-6-sol", "service_tier": "default", "answer_id": "resp_1"}
ALL_CACHED = {Meter.INPUT_TEXT: 1_000, Meter.CACHED_TEXT: 8_000, Meter.CACHE_WRITE_TEXT: 3_000, Meter.OUTPUT_TEXT: 500}

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

STREAMS = {
    "chat_stream": Observed(
        usage={Meter.INPUT_TEXT: 120, Meter.OUTPUT_TEXT: 9}, details={"total_tokens": 129}, emitted_tokens=9, **GPT_4O_MINI
    ),
    "chat_stream_plain": Observed(
        usage={Meter.INPUT_TEXT: 56, Meter.CACHED_TEXT: 64, Meter.OUTPUT_TEXT: 9},
        details={"total_tokens": 129},
        emitted_tokens=9,
        **GPT_4O_MINI,
    ),
    "chat_stream_tools": Observed(
        usage={Meter.INPUT_TEXT: 80, Meter.OUTPUT_TEXT: 14}, details={"total_tokens": 94}, emitted_tokens=5, **GPT_4O_MINI
    ),
    "chat_stream_azure": Observed(
        usage={Meter.INPUT_TEXT: 60, Meter.OUTPUT_TEXT: 4}, details={"total_tokens": 64}, emitted_tokens=4, **GPT_4O_MINI
    ),
    "chat_stream_error": Observed(error_code="server_error", emitted_tokens=3, **GPT_4O_MINI),
    "completion_stream": Observed(
        usage={Meter.INPUT_TEXT: 5, Meter.OUTPUT_TEXT: 5},
        details={"total_tokens": 10},
        model_served="gpt-3.5-turbo-instruct",
        answer_id="cmpl-S1",
        emitted_tokens=5,
    ),
    "responses_stream": Observed(
        usage=ALL_CACHED,
        details={"total_tokens": 12_500, "reasoning_tokens": 320},
        answer_status="completed",
        emitted_tokens=9,
        **GPT_6,
    ),
    "responses_stream_incomplete": Observed(
        usage={Meter.INPUT_TEXT: 50, Meter.OUTPUT_TEXT: 16},
        details={"total_tokens": 66},
        answer_status="incomplete",
        emitted_tokens=9,
        **GPT_6,
    ),
    "responses_stream_failed": Observed(error_code="server_error", answer_status="failed", emitted_tokens=9, **GPT_6),
    "responses_stream_error": Observed(
        error_code="server_error", answer_status="in_progress", emitted_tokens=9, **(GPT_6 | {"service_tier": "auto"})
    ),
}
CHAT_STREAMS = [name for name in STREAMS if not name.startswith("responses")]


def sent(name: str) -> bytes:
    return (CASES / f"{name}.sse").read_bytes()


def observer_of(name: str, usage_asked: bool = True) -> Observer:
    return ResponsesStreamObserver() if name.startswith("responses") else ChatStreamObserver(usage_asked)


def run(observer: Observer, pieces: Iterable[bytes]) -> tuple[bytes, bytes, Observed]:
    """What went at once, what was held, what was seen."""
    passed = b"".join([observer.feed(piece) for piece in pieces])
    seen = observer.finish()
    return passed, observer.release(), seen


def moment(observer: Observer) -> tuple[bool, bool, bool]:
    return observer.started, observer.usage_due, observer.ended


# What a client gets who has not asked for usage: a second opinion, built on a parser


def events_of(stream: bytes) -> list[bytes]:
    """The data of each event."""
    found: list[list[bytes]] = [[]]
    for line in stream.replace(b"\r\n", b"\n").split(b"\n"):
        if line.startswith(b"data:"):
            found[-1].append(line[5:].removeprefix(b" "))
        elif not line:
            found.append([])
    return [b"\n".join(lines) for lines in found if lines]


def parsed(data: bytes) -> Any:
    return data if data.strip() == b"[DONE]" else json.loads(data)


def unasked(stream: bytes) -> list[Any]:
    """Events as OpenAI would have sent them without `include_usage`."""
    kept = []
    for event in map(parsed, events_of(stream)):
        if isinstance(event, dict):
            if event.get("usage") is not None and not event.get("choices"):
                continue
            event = {name: value for name, value in event.items() if name != "usage"}
        kept.append(event)
    return kept


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", STREAMS)
def test_usage_is_read_and_all_bytes_pass_however_they_are_cut(name: str, cut: Cut) -> None:
    passed, held, seen = run(observer_of(name), cut(sent(name)))
    assert passed + held == sent(name)
    assert seen == STREAMS[name]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", CHAT_STREAMS)
def test_who_has_not_asked_sees_no_usage_however_it_is_cut(name: str, cut: Cut) -> None:
    passed, held, seen = run(observer_of(name, usage_asked=False), cut(sent(name)))
    assert [parsed(event) for event in events_of(passed + held)] == unasked(sent(name))
    assert b'"usage"' not in passed + held
    assert seen == STREAMS[name]


def test_everything_but_usage_stays_byte_for_byte() -> None:
    stream = sent("chat_stream")
    *chunks, _usage, done = by_event(stream)
    assert all(chunk.count(b',"usage":null') == 1 for chunk in chunks)
    passed, held, _ = run(ChatStreamObserver(False), in_sevens(stream))
    assert passed == b"".join(chunks).replace(b',"usage":null', b"")
    assert held == done


@pytest.mark.parametrize("usage_asked", [True, False], ids=["asked", "not asked"])
@pytest.mark.parametrize("name", ["chat_stream_azure", "chat_stream_error", "responses_stream_incomplete"])
def test_every_single_cut_gives_the_same(name: str, usage_asked: bool) -> None:
    stream = sent(name)
    as_a_whole = run(observer_of(name, usage_asked), [stream])
    for at in range(1, len(stream)):
        assert run(observer_of(name, usage_asked), [stream[:at], stream[at:]]) == as_a_whole


@pytest.mark.parametrize("usage_asked", [True, False], ids=["asked", "not asked"])
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", STREAMS)
def test_the_terminal_event_waits_for_release(name: str, cut: Cut, usage_asked: bool) -> None:
    observer = observer_of(name, usage_asked)
    stream = sent(name)
    end = stream.rindex(b'data: {"error"') if name == "chat_stream_error" else stream.rstrip(b"\n").rindex(b"\n\n") + 2
    passed = b"".join([observer.feed(piece) for piece in cut(stream[:end])])
    assert moment(observer)[2] is False
    held_until_whole = b"".join([observer.feed(piece) for piece in cut(stream[end:])])
    assert moment(observer)[2] is True
    assert (passed + held_until_whole).count(b"\n\n") == passed.count(b"\n\n")  # no client has seen an end
    seen = observer.finish()
    assert stream.endswith(observer.release())
    assert seen == STREAMS[name]
    assert observer.feed(b"later") == b"later"


@pytest.mark.parametrize("name", STREAMS)
def test_only_the_end_is_held_back_when_nothing_is_edited(name: str) -> None:
    observer = observer_of(name)
    stream = sent(name)
    passed = b""
    for at in range(len(stream)):
        passed += observer.feed(stream[at : at + 1])
        if observer.ended:
            break
        assert at + 1 - len(passed) <= 40 or name != "chat_stream"  # what may become `data: [DONE]`, or another end
    assert stream.startswith(passed)


@pytest.mark.parametrize("usage_asked", [True, False], ids=["asked", "not asked"])
@pytest.mark.parametrize("name", STREAMS)
def test_line_ends_may_be_crlf(name: str, usage_asked: bool) -> None:
    stream = sent(name).replace(b"\n", b"\r\n")
    for cut in (whole, byte_by_byte, in_sevens):
        passed, held, seen = run(observer_of(name, usage_asked), cut(stream))
        assert seen == STREAMS[name]
        if usage_asked or name.startswith("responses"):
            assert passed + held == stream
        else:
            assert [parsed(event) for event in events_of(passed + held)] == unasked(stream)
            assert b"\n" not in (passed + held).replace(b"\r\n", b"")


def test_moments_of_a_chat_stream() -> None:
    *pieces, usage, done = by_event(sent("chat_stream"))
    role, *words, stop = pieces
    observer = ChatStreamObserver(False)
    observer.feed(role)
    assert moment(observer) == (False, False, False)
    observer.feed(words[0])
    assert moment(observer) == (True, False, False)
    for word in words[1:]:
        observer.feed(word)
    assert moment(observer) == (True, False, False)
    observer.feed(stop)
    assert moment(observer) == (True, True, False)
    assert observer.feed(usage) == b""
    assert moment(observer) == (True, False, False)
    assert observer.feed(done) == b""
    assert moment(observer) == (True, False, True)


def test_moments_of_a_responses_stream() -> None:
    observer = ResponsesStreamObserver()
    moments = []
    for event in by_event(sent("responses_stream")):
        observer.feed(event)
        moments.append((event.split(b"\n")[0].removeprefix(b"event: response."), observer.started, observer.usage_due, observer.ended))
    kinds = {kind: rest for kind, *rest in moments}
    assert kinds[b"content_part.added"] == [False, False, False]
    assert kinds[b"output_text.delta"] == [True, False, False]
    assert kinds[b"output_item.done"] == [True, True, False]
    assert kinds[b"completed"] == [True, False, True]


def test_a_stream_that_breaks_keeps_what_was_seen() -> None:
    stream = sent("chat_stream")
    cut = stream[: stream.index(b'"finish_reason":"stop"')]
    for usage_asked in (True, False):
        passed, held, seen = run(ChatStreamObserver(usage_asked), in_sevens(cut))
        assert (seen.usage, seen.lost, seen.emitted_tokens) == (None, None, 9)
        if usage_asked:
            assert passed + held == cut
        else:
            assert (passed + held).endswith(cut.rpartition(b"\n\n")[2])


def test_a_last_event_without_its_empty_line_counts() -> None:
    for name in STREAMS:
        stream = sent(name).rstrip(b"\n")
        passed, held, seen = run(observer_of(name), in_sevens(stream))
        assert (passed + held, seen) == (stream, STREAMS[name])
    usage_last = sent("chat_stream").removesuffix(b"\n\ndata: [DONE]\n\n")
    for ending in (b"", b"\n", b"\r\n"):
        passed, held, seen = run(ChatStreamObserver(False), in_sevens(usage_last + ending))
        assert seen == STREAMS["chat_stream"]
        assert b'"usage"' not in passed + held
    unfinished = usage_last.rpartition(b"\n\n")[0]
    passed, held, _ = run(ChatStreamObserver(False), in_sevens(unfinished))
    assert [parsed(event) for event in events_of(passed + held)] == unasked(unfinished)


# Properties

TEXTS = st.sampled_from(
    ["a", "\n\n", ' "usage":null}', ',"usage":null}\n\n', "data: [DONE]", '"choices":[{', '"finish_reason":"', "\\", "ü😀", "", ".delta"]
)
COUNTS = st.integers(0, 50)


@st.composite
def chunks(draw: st.DrawFn) -> dict[str, Any]:
    usage = {"prompt_tokens": draw(COUNTS), "completion_tokens": draw(COUNTS)}
    delta = {draw(st.sampled_from(["content", "refusal", "usage", "choices"])): draw(TEXTS), "extra": {"usage": None, "a": [1]}}
    choice = {"index": 0, "delta": delta, "finish_reason": draw(st.sampled_from([None, None, "stop"]))}
    members: list[tuple[str, Any]] = [
        ("id", "c"),
        ("choices", draw(st.sampled_from([[], [choice], [choice, choice]]))),
        ("obfuscation", draw(TEXTS)),
        ("x", {"usage": None}),
    ]
    if draw(st.integers(0, 4)):
        members.append(("usage", draw(st.sampled_from([None, None, None, usage]))))
    return dict(draw(st.permutations(members)) if draw(st.booleans()) else members)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    end = draw(st.sampled_from([b"\n", b"\n", b"\r\n"]))
    out = b""
    for chunk in draw(st.lists(chunks(), max_size=6)):
        separators = draw(st.sampled_from([(",", ":"), (",", ":"), (", ", ": "), (" ,", " : ")]))
        indent = draw(st.sampled_from([None, None, 1]))
        data = json.dumps(chunk, separators=separators, ensure_ascii=draw(st.booleans()), indent=indent).encode()
        prefix = draw(st.sampled_from([b"data: ", b"data: ", b"data:"]))
        out += draw(st.sampled_from([b"", b"", b": ping" + end, b": ping" + end + end, b"id: 5" + end, end]))
        out += b"".join(prefix + line + end for line in data.split(b"\n")) + end
    return out + draw(st.sampled_from([b"", b"data: [DONE]" + end + end]))


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    points = [0, *sorted({cut % (len(stream) + 1) for cut in cuts}), len(stream)]
    return [stream[start:stop] for start, stop in pairwise(points)]


CUT_POINTS = st.lists(st.integers(0, 5_000), max_size=12)


@given(streams(), CUT_POINTS)
@settings(max_examples=250, deadline=None)
def test_stripping_is_what_a_parser_would_do(stream: bytes, cuts: list[int]) -> None:
    passed, held, seen = run(ChatStreamObserver(False), pieces(stream, cuts))
    assert [parsed(event) for event in events_of(passed + held)] == unasked(stream)
    assert (passed + held, seen) == run_whole(ChatStreamObserver(False), stream)


@given(streams(), CUT_POINTS)
@settings(max_examples=150, deadline=None)
def test_nothing_is_lost_when_nothing_is_stripped(stream: bytes, cuts: list[int]) -> None:
    for make in (lambda: ChatStreamObserver(True), ResponsesStreamObserver):
        passed, held, seen = run(make(), pieces(stream, cuts))
        assert passed + held == stream
        assert (passed + held, seen) == run_whole(make(), stream)
    assert seen_alike(stream)


def run_whole(observer: Observer, stream: bytes) -> tuple[bytes, Observed]:
    passed, held, seen = run(observer, [stream])
    return passed + held, seen


def seen_alike(stream: bytes) -> bool:
    """Stripping does not change what is observed."""
    return run(ChatStreamObserver(True), [stream])[2] == run(ChatStreamObserver(False), [stream])[2]


GARBAGE = st.lists(
    st.binary(max_size=12)
    | st.sampled_from(
        [
            b"\n",
            b"\n\n",
            b"\r\n\r\n",
            b"data:",
            b"data: {",
            b'"usage":',
            b"{",
            b"}",
            b"[DONE]",
            b"event: error",
            b'{"type":"response.completed"',
        ]
    )
    | streams(),
    max_size=8,
)


@given(GARBAGE, st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_bytes_pass_and_nothing_is_raised(fed: list[bytes], usage_asked: bool) -> None:
    for observer in (ChatStreamObserver(usage_asked, event_bytes_max=200), ResponsesStreamObserver(event_bytes_max=200)):
        passed, held, seen = run(observer, fed)
        assert isinstance(seen, Observed)
        if usage_asked or isinstance(observer, ResponsesStreamObserver):
            assert passed + held == b"".join(fed)
    for read in (read_chat_answer, read_response_answer, read_plain_answer):
        assert run(AnswerObserver(read, answer_bytes_max=100), fed)[0] == b"".join(fed)
