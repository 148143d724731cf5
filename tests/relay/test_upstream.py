"""One connection to OpenAI: what is told of an answer however it ends, its time-outs, and bodies sent from disk."""

from __future__ import annotations

import tempfile
from typing import IO, Any

import pytest

from gateway.relay.deadlines import NEVER, SWEEP_MS, Deadlines
from gateway.relay.upstream import PIECE_BYTES

REQUEST = b"POST /v1/x HTTP/1.1\r\nhost: a\r\n"
GET = REQUEST + b"\r\n"
HEAD = b"HTTP/1.1 200 OK\r\n"


async def asked(room: Any, relay: Any, loopback: Any, origin: Any, head: bytes = GET) -> tuple[Any, Any]:
    """A request that OpenAI has, and its taker."""
    upstream, taken = await room.acquire(loopback.until), relay.taken()
    upstream.send(head, b"", taken)
    await loopback.until(lambda: any(request.whole for request in origin.asked))
    return upstream, taken


def test_an_answer_is_told_piece_by_piece(relay: Any, loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, relay.room(origin.url) as room:
            _, taken = await asked(room, relay, loopback, origin)
            for sent, payload in ((HEAD + b"content-length: 4\r\n\r\n", b""), (b"ab", b"ab"), (b"cd", b"abcd")):
                origin.connections[0].send(sent)
                await loopback.until(lambda payload=payload: taken.status == 200 and taken.payload == payload)
            assert taken.complete
            assert taken.why == []

    loopback.run(test)


ENDS = {
    "before the head": (b"", ["closed"], False),
    "inside the head": (HEAD, ["closed"], False),
    "inside a counted body": (HEAD + b"content-length: 3\r\n\r\nab", ["closed"], False),
    "inside a chunk": (HEAD + b"transfer-encoding: chunked\r\n\r\n3\r\nab", ["closed"], False),
    "between chunks": (HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\nab\r\n", ["closed"], False),
    "at the end of a body that only the close ends": (HEAD + b"\r\nab", [], True),
    "behind a whole answer": (HEAD + b"content-length: 2\r\n\r\nab", [], True),
}


@pytest.mark.parametrize(("sent", "why", "complete"), ENDS.values(), ids=ENDS.keys())
def test_openai_closes(sent: bytes, why: list[str], complete: bool, relay: Any, loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, relay.room(origin.url) as room:
            upstream, taken = await asked(room, relay, loopback, origin)
            origin.connections[0].send(sent)
            origin.connections[0].close()
            await loopback.until(lambda: upstream.closed)
            assert (taken.why, taken.complete) == (why, complete)
            assert upstream.deadline_s == NEVER or complete

    loopback.run(test)


def test_a_reset_is_a_loss_even_where_only_the_close_ends_the_body(relay: Any, loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, relay.room(origin.url) as room:
            upstream, taken = await asked(room, relay, loopback, origin)
            origin.connections[0].send(HEAD + b"\r\nab")
            await loopback.until(lambda: taken.payload == b"ab")
            upstream.connection_lost(ConnectionResetError("reset by peer"))
            assert (taken.why, taken.complete) == (["closed"], False)

    loopback.run(test)


@pytest.mark.parametrize("sent", [b"HTTP/1.1 200 OK\r\nx\r\n\r\n", HEAD + b"content-length: 1\r\n\r\nab", b"\x16\x03\x01\r\n\r\n"])
def test_an_answer_that_is_not_valid_is_lost_once_and_closes(sent: bytes, relay: Any, loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, relay.room(origin.url) as room:
            upstream, taken = await asked(room, relay, loopback, origin)
            origin.connections[0].send(sent)
            await loopback.until(lambda: upstream.closed and origin.connections[0].closed)
            assert taken.why == ["bad_answer"]

    loopback.run(test)


def test_time_outs_follow_the_answer(relay: Any, loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, relay.room(origin.url, first_byte_timeout_ms=900_000, stall_timeout_ms=60_000) as room:
            upstream, taken = await asked(room, relay, loopback, origin)
            loop = room.pool._loop

            def left_s() -> float:
                return round(float(upstream.deadline_s - loop.time()), 0) if upstream.deadline_s != NEVER else NEVER

            assert left_s() == 900
            origin.connections[0].send(HEAD + b"content-length: 9\r\n\r\na")
            await loopback.until(lambda: taken.payload == b"a")
            assert left_s() == 60
            upstream.pause()
            upstream.pause()
            assert left_s() == NEVER, "it is the client who keeps us waiting"
            upstream.resume()
            assert left_s() == 60
            upstream.end_within(5_000)
            origin.connections[0].send(b"b")
            await loopback.until(lambda: taken.payload == b"ab")
            assert left_s() == 5, "more bytes do not put off the end that was set"
            upstream.pause()
            upstream.resume()
            assert left_s() == 5
            upstream.expired()
            assert taken.why == ["stalled"]
            assert upstream.closed

    loopback.run(test)


@pytest.mark.parametrize(
    ("sent", "why"),
    [(b"", "head_timeout"), (HEAD, "head_timeout"), (HEAD + b"content-length: 2\r\n\r\na", "stalled")],
    ids=["before the head", "inside the head", "behind it"],
)
def test_openai_says_nothing_for_too_long(sent: bytes, why: str, relay: Any, loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, relay.room(origin.url) as room:
            upstream, taken = await asked(room, relay, loopback, origin)
            origin.connections[0].send(sent)
            await loopback.until(lambda: not sent or upstream._reader._buffer or taken.payload)
            upstream.expired()
            assert taken.why == [why]
            room.pool.release(upstream)
            assert (room.pool.idle, room.pool.busy) == (0, 0)
            await loopback.until(lambda: origin.connections[0].closed)

    loopback.run(test)


def test_a_paused_connection_leaves_bytes_in_the_socket(relay: Any, loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, relay.room(origin.url) as room:
            upstream, taken = await asked(room, relay, loopback, origin)
            size = 20_000_000
            upstream.pause()
            origin.connections[0].send(HEAD + b"content-length: %d\r\n\r\n" % size)
            for _ in range(size // 1_000_000):
                origin.connections[0].send(b"a" * 1_000_000)
            transport = origin.connections[0].transport
            assert transport.get_write_buffer_size() > 0
            assert taken.payload == b""
            upstream.resume()
            await loopback.until(lambda: taken.complete)
            assert len(taken.payload) == size
            assert max(map(len, taken.pieces)) < 1_000_000

    loopback.run(test)


# Bodies from disk


@pytest.fixture
def spooled() -> Any:
    with tempfile.TemporaryFile() as file:
        for number in range(400):
            file.write(b"%019d\n" % number * 1_000)  # 8 MB, each piece its own
        file.seek(0)
        yield file


def test_a_body_from_disk_is_sent_in_pieces_as_openai_takes_it(spooled: IO[bytes], relay: Any, loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, relay.room(origin.url) as room:
            upstream, taken = await room.acquire(loopback.until), relay.taken()
            await loopback.until(lambda: bool(origin.connections))
            origin.connections[0].transport.pause_reading()
            upstream.send(REQUEST + b"content-length: 8000000\r\n\r\n", spooled, taken)
            assert spooled.tell() < 8_000_000, "not all of it at once"
            assert upstream._transport.get_write_buffer_size() <= 2 * PIECE_BYTES
            origin.connections[0].transport.resume_reading()
            await loopback.until(lambda: origin.asked and origin.asked[0].whole)
            spooled.seek(0)
            assert origin.asked[0].body == spooled.read()
            origin.connections[0].send(HEAD + b"content-length: 0\r\n\r\n")
            await loopback.until(lambda: taken.complete)
            room.pool.release(upstream)
            assert room.pool.idle == 1

    loopback.run(test)


def test_a_connection_whose_request_was_not_sent_whole_is_not_kept(spooled: IO[bytes], relay: Any, loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, relay.room(origin.url) as room:
            upstream, taken = await room.acquire(loopback.until), relay.taken()
            await loopback.until(lambda: bool(origin.connections))
            origin.connections[0].transport.pause_reading()
            upstream.send(REQUEST + b"content-length: 8000000\r\n\r\n", spooled, taken)
            origin.connections[0].send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
            await loopback.until(lambda: taken.complete)
            room.pool.release(upstream)
            assert (room.pool.idle, room.pool.busy) == (0, 0)
            assert upstream.closed

    loopback.run(test)


# The sweep


class Clock:
    """A loop's clock and timers, moved by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.timers: list[tuple[float, Any]] = []
        self.soon: list[tuple[Any, tuple[Any, ...]]] = []

    def time(self) -> float:
        return self.now_s

    def call_later(self, delay_s: float, callback: Any) -> Clock:
        self.timers.append((self.now_s + delay_s, callback))
        return self

    def cancel(self) -> None:
        self.timers.clear()

    def forward(self, seconds: float) -> None:
        self.now_s += seconds
        due, self.timers = [timer for timer in self.timers if timer[0] <= self.now_s], [t for t in self.timers if t[0] > self.now_s]
        for _, callback in due:
            callback()
        while self.soon:
            callback, arguments = self.soon.pop(0)
            callback(*arguments)

    def call_soon(self, callback: Any, *arguments: Any) -> None:
        self.soon.append((callback, arguments))


class Timed:
    def __init__(self, deadline_s: float, others: list[Timed] | None = None) -> None:
        self.deadline_s = deadline_s
        self.expired_times = 0
        self._others = others or []

    def expired(self) -> None:
        self.expired_times += 1
        self.deadline_s = NEVER
        for other in self._others:
            other.deadline_s = NEVER


def test_what_is_due_expires_once_and_what_is_not_does_not() -> None:
    clock, deadlines = Clock(), Deadlines()
    due, exactly, later, never, forgotten = Timed(100.1), Timed(100.25), Timed(100.26), Timed(NEVER), Timed(100.1)
    for timed in (due, exactly, later, never, forgotten):
        deadlines.add(timed)
    deadlines.remove(forgotten)
    deadlines.remove(forgotten)
    deadlines.start(clock)  # type: ignore[arg-type]
    clock.forward(SWEEP_MS / 1000)
    assert [timed.expired_times for timed in (due, exactly, later, never, forgotten)] == [1, 1, 0, 0, 0]
    clock.forward(SWEEP_MS / 1000)
    assert [timed.expired_times for timed in (due, exactly, later, never, forgotten)] == [1, 1, 1, 0, 0]
    deadlines.stop()
    late = Timed(0.0)
    deadlines.add(late)
    clock.forward(10)
    assert late.expired_times == 0


def test_one_that_ends_another_in_the_same_sweep_spares_it() -> None:
    clock, deadlines = Clock(), Deadlines()
    first = Timed(100.0)
    second = Timed(100.0, [first])
    first._others.append(second)
    for timed in (first, second):
        deadlines.add(timed)
    deadlines.start(clock)  # type: ignore[arg-type]
    clock.forward(SWEEP_MS / 1000)
    assert first.expired_times + second.expired_times == 1
