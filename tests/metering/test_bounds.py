"""Bursts of any size and form: work in proportion to the bytes, the same outcome as in small pieces, and nothing raised."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from gateway.metering.answers import Observed, read_response_answer
from gateway.metering.observers import AnswerObserver, ChatStreamObserver, ResponsesStreamObserver
from gateway.metering.sse import StreamObserver

LOOKED_AT_MOST = 12  # times that a byte is looked at: growing fourfold, what refusals waste is at most that of the last success
CALLS_FREE = 40  # for the first steps, from the first reach down to one event


def chat(text: str, finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return b"data: " + json.dumps({"id": "c", "choices": [choice], "usage": None} | more, separators=(",", ":")).encode() + b"\n\n"


def event(kind: str, **more: Any) -> bytes:
    return f"event: {kind}\n".encode() + b"data: " + json.dumps({"type": kind} | more, separators=(",", ":")).encode() + b"\n\n"


def response(text: str, deltas: int) -> bytes:
    """Created, deltas, and the end that is as large as all of them."""
    usage = {"input_tokens": 1, "output_tokens": deltas, "total_tokens": 1 + deltas}
    delta = event("response.output_text.delta", delta=text)
    end = event("response.completed", response={"status": "completed", "output": [{"text": "x" * len(delta * deltas)}], "usage": usage})
    return event("response.created", response={"status": "in_progress"}) + delta * deltas + end


PING = b": p\n\n"
SMALL = chat("a")
BURSTS = {
    "deltas": (ChatStreamObserver, SMALL * 5_000),
    "a response whose end is as large as all before": (ResponsesStreamObserver, response("word ", 4_000)),
    "one huge event behind small ones": (ChatStreamObserver, SMALL * 300 + chat("x" * 300_000) + SMALL * 300),
    "one huge event behind pings": (ResponsesStreamObserver, PING * 5_000 + response("x" * 300_000, 1)),
    "pings": (ChatStreamObserver, SMALL + PING * 10_000),
    "pings before anything": (ChatStreamObserver, PING * 10_000),
    "every other event a ping": (ChatStreamObserver, (SMALL + PING) * 3_000),
    "events that each matter": (ChatStreamObserver, chat("a", "stop") * 3_000),
    "a few that matter among many": (ChatStreamObserver, (SMALL * 500 + chat("a", "stop")) * 8),
    "ever larger events": (ChatStreamObserver, b"".join(chat("x" * length) for length in range(0, 3_000, 5))),
    "CRLF": (ChatStreamObserver, (SMALL * 3_000).replace(b"\n", b"\r\n")),
    "both line ends in turn": (ChatStreamObserver, (SMALL + SMALL.replace(b"\n", b"\r\n")) * 2_000),
    "nothing but line ends": (ChatStreamObserver, SMALL + b"\n" * 20_001),
    "one line end too many behind each": (ChatStreamObserver, (SMALL + b"\n") * 3_000),
    "two too many behind each": (ResponsesStreamObserver, (event("response.output_text.delta", delta="a") + b"\n\n") * 3_000),
}


class Looks:
    """Counts what an observer hands to its readers."""

    def __init__(self, observer: StreamObserver) -> None:
        self.calls = self.bytes = 0
        for name in ("_bulk", "_event"):
            setattr(observer, name, self._counted(getattr(observer, name)))

    def _counted(self, read: Callable[[bytes], bytes | None]) -> Callable[[bytes], bytes | None]:
        def counted(events: bytes) -> bytes | None:
            self.calls += 1
            self.bytes += len(events)
            return read(events)

        return counted


def made(kind: type[Any], edits: bool) -> StreamObserver:
    observer: StreamObserver = ChatStreamObserver(usage_asked=not edits) if kind is ChatStreamObserver else kind()
    return observer


def run(observer: StreamObserver, pieces: Iterable[bytes]) -> tuple[bytes, Observed]:
    passed = b"".join([observer.feed(piece) for piece in pieces])
    seen = observer.finish()
    return passed + observer.release(), seen


@pytest.mark.parametrize("edits", [False, True], ids=["as it is", "edited"])
@pytest.mark.parametrize("kind, burst", BURSTS.values(), ids=BURSTS.keys())
def test_a_burst_is_read_in_proportion_to_its_bytes(kind: type[Any], burst: bytes, edits: bool) -> None:
    observer = made(kind, edits)
    looks = Looks(observer)
    at_once = run(observer, [burst])
    assert looks.bytes <= LOOKED_AT_MOST * len(burst)
    assert looks.calls <= 3 * (burst.count(b"\n\n") + burst.count(b"\n\r\n")) + CALLS_FREE
    assert at_once == run(made(kind, edits), [burst[at : at + 997] for at in range(0, len(burst), 997)])


def test_a_burst_of_deltas_is_looked_at_a_few_times_in_all() -> None:
    usage = chat("", choices=[], usage={"prompt_tokens": 1, "completion_tokens": 500, "total_tokens": 501})
    for deltas, calls in ((50, 20), (500, 30), (50_000, 45)):
        observer = ChatStreamObserver(usage_asked=True)
        looks = Looks(observer)
        observer.feed(chat("") + SMALL * deltas + chat("", "stop") + usage + b"data: [DONE]\n\n")
        assert looks.calls <= calls
        assert (observer.ended, observer.finish().emitted_tokens) == (True, deltas)


def test_what_is_held_behind_the_end_is_kept_whole() -> None:
    observer = ChatStreamObserver(usage_asked=True)
    end = b"data: [DONE]\n\n"
    assert observer.feed(SMALL + end + PING) == SMALL
    assert [observer.feed(PING) for _ in range(1_000)] == [b""] * 1_000
    assert observer.release() == end + PING * 1_001


# Total, whatever happens inside


@pytest.mark.parametrize("broken", [RecursionError, MemoryError])
@pytest.mark.parametrize("method", ["_bulk", "_event", "_observed"])
@pytest.mark.parametrize("kind", [ChatStreamObserver, ResponsesStreamObserver])
def test_reading_that_fails_inside_stops_no_byte(kind: type[Any], method: str, broken: type[BaseException]) -> None:
    stream = SMALL * 3 if kind is ChatStreamObserver else response("a", 3)
    expected = run(made(kind, False), [stream])[1]

    def fails(*_: object) -> bytes:
        raise broken

    for pieces in ([stream], [stream[:50], stream[50:]], [stream[at : at + 1] for at in range(len(stream))], [stream, b"data: cut"]):
        observer = made(kind, False)
        setattr(observer, method, fails)
        passed, seen = run(observer, pieces)
        assert passed == b"".join(pieces)
        if method == "_bulk":
            assert seen == expected, "what cannot be read at once is read one by one"
        else:
            assert (seen.usage, bool(seen.lost)) == (None, True)


@pytest.mark.parametrize("broken", [RecursionError, MemoryError])
def test_a_whole_answer_that_fails_inside_is_lost(broken: type[BaseException]) -> None:
    def fails(_answer: bytes) -> Observed:
        raise broken

    observer = AnswerObserver(fails)
    assert observer.feed(b"{}") == b"{}"
    assert observer.finish().lost


@pytest.mark.parametrize("frames_left", range(20, 60, 5))
def test_no_stack_is_too_short_for_deep_answers(frames_left: int) -> None:
    """What the parser can read depends on the stack above it."""
    deep = b"[" * 100_000
    for make in (lambda: ChatStreamObserver(False), ResponsesStreamObserver, lambda: AnswerObserver(read_response_answer)):
        for answer in (b'data: {"choices":' + deep + b"\n\n", b'{"usage":' + deep, b'data: {"type":"error","error":' + deep + b"\n\n"):
            assert _near_the_end(frames_left, lambda make=make, answer=answer: run(make(), [answer]))[0] == answer


def _near_the_end(frames_left: int, work: Callable[[], tuple[bytes, Observed]]) -> tuple[bytes, Observed]:
    """Does some work where the stack has hardly more room than that."""

    def down(frames: int) -> tuple[bytes, Observed]:
        return down(frames - 1) if frames else work()

    return down(sys.getrecursionlimit() - len(inspect.stack(0)) - frames_left)
