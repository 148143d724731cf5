"""One answer on its way: the entry before the last bytes, and every way either side can leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.metering.answers import Observed, read_chat_answer
from gateway.metering.observers import AnswerObserver, ChatStreamObserver, ResponsesStreamObserver
from gateway.relay.answer import AnswerHead
from gateway.relay.carry import USAGE_WAIT_MS, Begun, Carry, Tap
from gateway.relay.deadlines import NEVER

CASES = Path(__file__).parent.parent / "cases"
REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
CHAT = (CASES / "chat_stream.sse").read_bytes()
PLAIN = (CASES / "chat.json").read_bytes()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Way:
    """One exchange between a scripted OpenAI and a client in memory, as the path drives it; `events` in their order."""

    def __init__(self, room: Any, client: Any, tap: Tap, *, drain_ms: int | None = None, has_length: bool = False) -> None:
        self.client = client
        self.tap = tap
        self.ends: list[str] = []
        self.observed: Observed | None = None
        self._room, self._drain_ms, self._has_length = room, drain_ms, has_length
        self._now_ns = 0

    async def go(self, until: Any, relay: Any) -> None:
        self.upstream = await self._room.acquire(until)
        self.carry = Carry(self.client, self._room.pool, self.upstream, self._begin, self._clock_ns, drain_ms=self._drain_ms)
        self.path = relay.stepped(self._walk())

    async def _walk(self) -> None:
        self.carry.send(REQUEST, b"")
        self.ends.append(await self.carry.done)
        if self.carry.tap is not None:
            self.observed = self.carry.tap.finish()
        self.client.events.append("entry")
        self.carry.release()

    def _begin(self, head: AnswerHead) -> Begun:
        return Begun(self.tap, head.status, b"\r\nx-a: b", head.content_length if self._has_length else None)

    def _clock_ns(self) -> int:
        self._now_ns += 1
        return self._now_ns


def parts(stream: bytes) -> tuple[bytes, bytes, bytes]:
    """A chat stream up to its finish_reason, from there to the usage included, and its terminal event."""
    events = stream.split(b"\n\n")[:-1]
    finished = next(at for at, event in enumerate(events) if b'"finish_reason":"' in event)
    done = next(at for at, event in enumerate(events) if event.strip() == b"data: [DONE]")
    content, usage, end = events[: finished + 1], events[finished + 1 : done], events[done:]
    return whole(content), whole(usage), whole(end)


def whole(events: list[bytes]) -> bytes:
    return b"".join(event + b"\n\n" for event in events)


def without_usage(stream: bytes) -> bytes:
    """As OpenAI sends it to who has not asked."""
    return stream.replace(b',"usage":null', b"")


# Order


def test_a_whole_answer_passes_but_for_its_last_bytes_until_the_entry_is_there(relay: Any, loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, relay.room(origin.url) as room:
            way = Way(room, loopback.client(), AnswerObserver(read_chat_answer), has_length=True)
            await way.go(loopback.until, relay)
            await loopback.until(lambda: origin.asked)
            origin.connections[0].send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(PLAIN) + PLAIN[:100])
            await loopback.until(lambda: way.client.body == PLAIN[:100])
            assert way.client.events == ["begin", "write"]
            origin.connections[0].send(PLAIN[100:])
            await loopback.until(lambda: way.path.over)
            assert way.client.events == ["begin", "write", "entry", "finish"]
            assert (way.client.body, way.client.content_length, way.ends) == (PLAIN, len(PLAIN), ["complete"])
            assert way.observed is not None
            assert way.observed.usage
            assert (room.pool.idle, room.pool.busy) == (1, 0)
            moments = way.carry.moments
            assert 0 < moments.sent_ns < moments.head_ns < moments.first_token_ns < moments.last_ns

    loopback.run(test)


@pytest.mark.parametrize("usage_asked", [True, False], ids=["usage was asked for", "usage was not asked for"])
def test_the_terminal_event_of_a_stream_waits_for_the_entry_and_nothing_else_does(usage_asked: bool, relay: Any, loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, relay.room(origin.url) as room:
            way = Way(room, loopback.client(), ChatStreamObserver(usage_asked))
            await way.go(loopback.until, relay)
            await loopback.until(lambda: origin.asked)
            content, usage, done = parts(CHAT)
            origin.connections[0].send(CHUNKED + chunk(content) + chunk(usage))
            shown = content + usage if usage_asked else without_usage(content)
            await loopback.until(lambda: len(way.client.body) >= len(shown))
            assert way.client.body == shown
            origin.connections[0].send(chunk(done))
            await loopback.until(lambda: way.path.over)
            assert way.client.events[-2:] == ["entry", "write"]
            assert way.client.body.endswith(b"data: [DONE]\n\n")
            assert (way.ends, way.client.over) == (["ended"], False)
            origin.connections[0].send(b"0\r\n\r\n")
            await loopback.until(lambda: way.client.over)
            assert way.client.events[-1] == "finish"
            assert way.client.body == shown + done
            assert room.pool.idle == 1

    loopback.run(test)


def test_the_end_of_a_stream_that_comes_at_once_is_one_end(relay: Any, loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, relay.room(origin.url) as room:
            way = Way(room, loopback.client(), ChatStreamObserver(usage_asked=True))
            await way.go(loopback.until, relay)
            origin.answers.append(b"")
            await loopback.until(lambda: origin.asked)
            origin.connections[0].send(CHUNKED + chunk(CHAT) + b"0\r\n\r\n")
            await loopback.until(lambda: way.path.over)
            assert way.ends == ["complete"]
            assert way.client.events == ["begin", "entry", "finish"]
            assert way.client.body == CHAT

    loopback.run(test)


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_a_body_ends_with_its_head(status: int, relay: Any, loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, relay.room(origin.url) as room:
            way = Way(room, loopback.client(), AnswerObserver(read_chat_answer))
            await way.go(loopback.until, relay)
            await loopback.until(lambda: origin.asked)
            origin.connections[0].send(b"HTTP/1.1 %d x\r\n\r\n" % status)
            await loopback.until(lambda: way.path.over)
            assert (way.client.events, way.client.status) == (["begin", "entry", "finish"], status)

    loopback.run(test)


# OpenAI is lost


LOSSES = {
    "before the head": (b"", ["entry"], None),
    "inside the head": (CHUNKED[:30], ["entry"], None),
    "behind the head": (CHUNKED, ["begin", "write", "entry", "abort"], 200),
    "inside the stream": (CHUNKED + chunk(parts(CHAT)[0]), ["begin", "write", "entry", "abort"], 200),
}


@pytest.mark.parametrize(("sent", "events", "status"), LOSSES.values(), ids=LOSSES.keys())
def test_openai_closes(sent: bytes, events: list[str], status: int | None, relay: Any, loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, relay.room(origin.url) as room:
            way = Way(room, loopback.client(), ChatStreamObserver(usage_asked=True))
            await way.go(loopback.until, relay)
            await loopback.until(lambda: origin.asked)
            origin.connections[0].send(sent)
            await loopback.until(lambda: not status or "write" in way.client.events)
            origin.connections[0].close()
            await loopback.until(lambda: way.path.over)
            assert (way.ends, way.client.events, way.client.status) == (["closed"], events, status)
            assert (room.pool.idle, room.pool.busy) == (0, 0)

    loopback.run(test)


def test_openai_closes_behind_the_terminal_event(relay: Any, loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, relay.room(origin.url) as room:
            way = Way(room, loopback.client(), ChatStreamObserver(usage_asked=True))
            await way.go(loopback.until, relay)
            await loopback.until(lambda: origin.asked)
            origin.connections[0].send(CHUNKED + chunk(CHAT))
            await loopback.until(lambda: way.path.over)
            origin.connections[0].close()
            await loopback.until(lambda: way.client.over)
            assert way.ends == ["ended"], "one end, and what was seen was seen"
            assert way.client.events[-1] == "abort", "the client's framing has no end"
            assert way.observed is not None
            assert way.observed.usage
            assert room.pool.busy == 0

    loopback.run(test)


@pytest.mark.parametrize(("sent", "end"), [(b"", "head_timeout"), (CHUNKED, "stalled")], ids=["before the head", "behind it"])
def test_openai_stalls(sent: bytes, end: str, relay: Any, loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, relay.room(origin.url) as room:
            way = Way(room, loopback.client(), ChatStreamObserver(usage_asked=True))
            await way.go(loopback.until, relay)
            await loopback.until(lambda: origin.asked)
            origin.connections[0].send(sent)
            await loopback.until(lambda: not sent or way.carry.head is not None)
            way.upstream.expired()
            assert way.ends == [end]
            assert room.pool.busy == 0

    loopback.run(test)


# The client leaves


async def leaving(way: Way, origin: Any, loopback: Any, relay: Any, sent: bytes) -> None:
    await way.go(loopback.until, relay)
    await loopback.until(lambda: origin.asked)
    origin.connections[0].send(sent)
    await loopback.until(lambda: not sent or "write" in way.client.events)
    way.client.leave()


@pytest.mark.parametrize("sent", [b"", CHUNKED, CHUNKED + chunk(CHAT[:200])], ids=["before the head", "behind it", "inside the stream"])
def test_a_client_that_leaves_ends_the_call_at_openai_too(sent: bytes, relay: Any, loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, relay.room(origin.url) as room:
            way = Way(room, loopback.client(), ChatStreamObserver(usage_asked=True))
            await leaving(way, origin, loopback, relay, sent)
            assert way.ends == ["client_gone"]
            assert way.carry.client_left
            await loopback.until(lambda: origin.connections[0].closed)
            assert (room.pool.idle, room.pool.busy) == (0, 0)

    loopback.run(test)


def test_a_client_that_leaves_just_before_the_usage_does_not_get_away(relay: Any, loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, relay.room(origin.url) as room:
            way = Way(room, loopback.client(), ChatStreamObserver(usage_asked=False))
            content, usage, done = parts(CHAT)
            await leaving(way, origin, loopback, relay, CHUNKED + chunk(content))
            assert way.ends == [], "finish_reason has passed: its usage is read"
            left_ms = (way.upstream.deadline_s - room.pool._loop.time()) * 1000
            assert USAGE_WAIT_MS - 1_000 < left_ms <= USAGE_WAIT_MS
            origin.connections[0].send(chunk(usage) + chunk(done))
            await loopback.until(lambda: way.path.over)
            assert way.ends == ["ended"]
            assert way.observed is not None
            assert way.observed.usage
            await loopback.until(lambda: origin.connections[0].closed)
            assert room.pool.busy == 0

    loopback.run(test)


def test_a_usage_that_does_not_come_is_not_waited_for_longer(relay: Any, loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, relay.room(origin.url) as room:
            way = Way(room, loopback.client(), ChatStreamObserver(usage_asked=False))
            await leaving(way, origin, loopback, relay, CHUNKED + chunk(parts(CHAT)[0]))
            way.upstream.expired()
            assert way.ends == ["client_gone"]
            assert way.observed is not None
            assert way.observed.usage is None
            assert room.pool.busy == 0

    loopback.run(test)


@pytest.mark.parametrize("ends_in_time", [True, False], ids=["ends in time", "does not end in time"])
def test_draining_reads_on_for_a_client_that_left(ends_in_time: bool, relay: Any, loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, relay.room(origin.url) as room:
            way = Way(room, loopback.client(), ChatStreamObserver(usage_asked=True), drain_ms=60_000)
            await leaving(way, origin, loopback, relay, CHUNKED + chunk(CHAT[:200]))
            assert way.ends == []
            assert 59 < way.upstream.deadline_s - room.pool._loop.time() <= 60
            shown = way.client.body
            if ends_in_time:
                origin.connections[0].send(chunk(CHAT[200:]) + b"0\r\n\r\n")
                await loopback.until(lambda: way.path.over)
                assert way.ends[0] in ("complete", "ended")
                assert way.observed is not None
                assert way.observed.usage
                await loopback.until(lambda: room.pool.busy == 0)
            else:
                way.upstream.expired()
                assert way.ends == ["client_gone"]
                assert room.pool.busy == 0
            assert way.client.body == shown
            assert way.carry.client_left

    loopback.run(test)


def test_a_client_that_does_not_read_when_it_leaves_is_drained_all_the_same(relay: Any, loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, relay.room(origin.url) as room:
            way = Way(room, loopback.client(), ChatStreamObserver(usage_asked=True), drain_ms=60_000)
            await way.go(loopback.until, relay)
            await loopback.until(lambda: origin.asked)
            way.client.source.pause()
            origin.connections[0].send(CHUNKED + chunk(CHAT) + b"0\r\n\r\n")
            way.client.leave()
            await loopback.until(lambda: way.path.over)
            assert way.observed is not None
            assert way.observed.usage

    loopback.run(test)


def test_a_client_that_leaves_behind_the_terminal_event_changes_nothing(relay: Any, loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, relay.room(origin.url) as room:
            way = Way(room, loopback.client(), ChatStreamObserver(usage_asked=True))
            await way.go(loopback.until, relay)
            await loopback.until(lambda: origin.asked)
            origin.connections[0].send(CHUNKED + chunk(CHAT))
            await loopback.until(lambda: way.path.over)
            way.client.leave()
            assert way.ends == ["ended"]
            assert way.client.events.count("entry") == 1
            await loopback.until(lambda: origin.connections[0].closed)
            assert room.pool.busy == 0

    loopback.run(test)


# Backpressure


def test_the_client_is_fed_by_the_connection_and_by_nobody_behind_it(relay: Any, loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, relay.room(origin.url) as room:
            way = Way(room, loopback.client(), AnswerObserver(read_chat_answer))
            await way.go(loopback.until, relay)
            await loopback.until(lambda: origin.asked)
            assert way.client.source is way.upstream
            way.client.source.pause()
            assert way.upstream.deadline_s == NEVER
            origin.connections[0].send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
            way.client.source.resume()
            await loopback.until(lambda: way.path.over)
            assert way.client.source is None

    loopback.run(test)


def test_a_responses_stream_waits_with_the_event_that_bills(relay: Any, loopback: Any) -> None:
    stream = (CASES / "responses_stream.sse").read_bytes()
    at = stream.index(b"event: response.completed")

    async def test() -> None:
        async with loopback.origin() as origin, relay.room(origin.url) as room:
            way = Way(room, loopback.client(), ResponsesStreamObserver())
            await way.go(loopback.until, relay)
            await loopback.until(lambda: origin.asked)
            origin.connections[0].send(CHUNKED + chunk(stream[:at]) + chunk(stream[at : at + 200]))
            await loopback.until(lambda: way.client.body == stream[:at])
            origin.connections[0].send(chunk(stream[at + 200 :]) + b"0\r\n\r\n")
            await loopback.until(lambda: way.client.over)
            assert way.client.body == stream
            assert way.client.events.index("entry") == len(way.client.events) - 1 - way.client.events[::-1].index("entry")
            assert way.observed is not None
            assert way.observed.usage

    loopback.run(test)
