"""How answers go out: framing, cuts, backpressure, faults of ours, bodies on disk."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from gateway.errors import ApiError
from gateway.relay.call import SPOOL_BYTES, Call, Client
from gateway.relay.gate import Gate

HOST = b"Host: a\r\n"
GET = b"GET /x HTTP/1.1\r\n" + HOST + b"\r\n"
GET_10 = b"GET /x HTTP/1.0\r\n\r\n"
POST = b"POST /x HTTP/1.1\r\n" + HOST


class Fed:
    """A call that the test answers itself; it is the source too, and notes whether it may flow."""

    def __init__(self) -> None:
        self.client: Client | None = None
        self.call: Call | None = None
        self.end: Gate[None] = Gate()
        self.flows = True
        self.gone = 0

    async def serve(self, call: Call, client: Client) -> None:
        self.call, self.client = call, client
        client.fed_by(self, self)
        await self.end

    def pause(self) -> None:
        self.flows = False

    def resume(self) -> None:
        self.flows = True

    def client_gone(self) -> None:
        self.gone += 1

    @property
    def out(self) -> Client:
        assert self.client is not None
        return self.client


# Framing


@pytest.mark.parametrize("raw", [GET, GET_10], ids=["to 1.1", "to 1.0"])
def test_an_answer_of_unknown_length_is_chunked_or_ends_with_the_connection(raw: bytes, house: Any) -> None:
    fed = Fed()

    async def test() -> None:
        async with house.door(fed.serve) as door:
            line = await door.line()
            line.send(raw)
            await house.until(lambda: fed.client is not None)
            fed.out.begin(200, b"\r\nx-a: b", None, has_body=True)
            fed.out.write(b"")  # the head alone
            head = await line.reader.readuntil(b"\r\n\r\n")
            assert (b"transfer-encoding: chunked" in head) == (raw is GET)
            assert (b"connection: close" in head) == (raw is GET_10)
            assert b"x-a: b" in head
            fed.out.write(b"hello ")
            assert b"hello " in await line.reader.read(100)
            fed.out.finish(b"world")
            rest = await line.reader.read(100)
            assert rest == (b"5\r\nworld\r\n0\r\n\r\n" if raw is GET else b"world")
            assert (await line.closed()) if raw is GET_10 else len(door.open) == 1

    house.run(test)


def test_a_keep_alive_client_of_1_0_is_closed_when_only_the_close_can_end_the_answer(house: Any) -> None:
    fed = Fed()

    async def test() -> None:
        async with house.door(fed.serve) as door:
            line = await door.line()
            line.send(b"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            await house.until(lambda: fed.client is not None)
            fed.out.begin(200, b"", None, has_body=True)
            fed.out.finish(b"hi")
            got = await line.answer()
            assert (got.body, got.headers["connection"]) == (b"hi", "close")

    house.run(test)


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_a_body_has_no_framing(status: int, house: Any) -> None:
    fed = Fed()

    async def test() -> None:
        async with house.door(fed.serve) as door:
            line = await door.line()
            line.send(GET)
            await house.until(lambda: fed.client is not None)
            fed.out.begin(status, b"", None, has_body=False)
            fed.out.finish()
            got = await line.answer()
            assert (got.status, "transfer-encoding" in got.headers, "content-length" in got.headers) == (status, False, False)
            assert len(door.open) == 1

    house.run(test)


def test_an_error_carries_its_retry_hints_and_extra_lines(house: Any, assert_openai_error: Any) -> None:
    async def serve(_call: Call, client: Client) -> None:
        error = ApiError(429, "requests", "Wait a little.", code="rate_limit_exceeded", retry_after_ms=60_001, should_retry=False)
        client.refuse(error, b"\r\nx-ratelimit-limit-requests: 3")

    async def test() -> None:
        async with house.door(serve) as door:
            line = await door.line()
            line.send(GET)
            got = await line.answer()
            assert_openai_error(got.status, got.headers, got.body, 429, "rate_limit_exceeded", "requests")
            hints = {name: got.headers[name] for name in ("retry-after", "retry-after-ms", "x-should-retry", "x-ratelimit-limit-requests")}
            assert hints == {
                "retry-after": "61", "retry-after-ms": "60001", "x-should-retry": "false", "x-ratelimit-limit-requests": "3"
            }  # fmt: skip
            line.send(GET)
            assert (await line.answer()).status == 429, "the connection stays usable"

    house.run(test)


# Answers that cannot be whole


@pytest.mark.parametrize(("raw", "length"), [(GET, None), (GET, 10), (GET_10, 10)], ids=["chunked", "counted", "counted, to 1.0"])
@pytest.mark.parametrize("way", ["aborted", "finished short", "broken by a fault of ours"])
def test_a_client_sees_that_its_answer_is_cut(way: str, raw: bytes, length: int | None, house: Any) -> None:
    fed = Fed()

    async def test() -> None:
        async with house.door(fed.serve) as door:
            line = await door.line()
            line.send(raw)
            await house.until(lambda: fed.client is not None)
            fed.out.begin(200, b"", length, has_body=True)
            fed.out.write(b"half")
            if way == "aborted":
                fed.out.abort()
            elif way == "finished short" and length is not None:
                fed.out.finish()
            else:
                fed.end.fail(RuntimeError("a fault of ours"))
            got = await line.answer()
            assert got.cut
            assert got.body in (b"half", b"")
            assert len(door.broke) == (way.startswith("broken") or (length is None and way != "aborted"))

    house.run(test)


@pytest.mark.parametrize("way", ["aborted", "broken by a fault of ours"])
def test_an_answer_that_ends_with_the_connection_is_cut_by_a_reset(way: str, house: Any) -> None:
    fed = Fed()

    async def test() -> None:
        async with house.door(fed.serve) as door:
            line = await door.line()
            line.send(GET_10)
            await house.until(lambda: fed.client is not None)
            fed.out.begin(200, b"", None, has_body=True)
            fed.out.write(b"half")
            assert b"half" in await line.reader.readuntil(b"half")
            if way == "aborted":
                fed.out.abort()
            else:
                fed.end.fail(RuntimeError("a fault of ours"))
            await house.until(lambda: len(door.open) == 0)
            assert b"HTTP/1.1 500" not in await _all(line), "no second head inside the body"

    house.run(test)


async def _all(line: Any) -> bytes:
    try:
        return bytes(await line.reader.read())
    except ConnectionError:
        return b""


def test_a_fault_before_the_answer_is_a_500_in_openais_shape(house: Any, assert_openai_error: Any) -> None:
    fed = Fed()

    async def test() -> None:
        async with house.door(fed.serve) as door:
            line = await door.line()
            line.send(GET)
            await house.until(lambda: fed.client is not None)
            fed.end.fail(RuntimeError("a fault of ours"))
            got = await line.answer()
            error = assert_openai_error(got.status, got.headers, got.body, 500)
            assert "a fault of ours" not in error["message"]
            assert await line.closed()
            assert [str(error) for error in door.broke] == ["a fault of ours"]

    house.run(test)


def test_a_fault_behind_a_whole_answer_harms_no_later_one(house: Any) -> None:
    async def serve(_call: Call, client: Client) -> None:
        client.begin(200, b"", 2, has_body=True)
        client.finish(b"ok")
        raise RuntimeError("a fault of ours")

    async def test() -> None:
        async with house.door(serve) as door:
            line = await door.line()
            for _ in range(2):
                line.send(GET)
                assert (await line.answer()).body == b"ok"
            assert len(door.broke) == 2

    house.run(test)


# Backpressure


def test_a_client_that_does_not_read_stops_the_source_and_reading_starts_it_again(house: Any) -> None:
    fed = Fed()
    piece = b"a" * 100_000

    async def test() -> None:
        async with house.door(fed.serve) as door:
            line = await door.line()
            line.writer.transport.pause_reading()
            line.send(GET)
            await house.until(lambda: fed.client is not None)
            fed.out.begin(200, b"", None, has_body=True)
            written = 0
            while fed.flows:
                fed.out.write(piece)
                written += 1
                assert written < 1_000, "nothing ever stops the source"
            assert door.timeout_ms() == house.bounds.write_timeout_ms
            line.writer.transport.resume_reading()
            await line.reader.readuntil(b"\r\n\r\n")
            chunk = b"%x\r\n%b\r\n" % (len(piece), piece)
            assert await line.reader.readexactly(written * len(chunk)) == written * chunk
            await house.until(lambda: fed.flows)
            assert door.timeout_ms() is None
            fed.out.finish()
            await line.reader.readuntil(b"0\r\n\r\n")
            assert door.timeout_ms() == house.bounds.idle_timeout_ms

    house.run(test)


def _stuffed(fed: Fed) -> None:
    fed.out.begin(200, b"", None, has_body=True)
    for _ in range(1_000):
        if fed.flows:
            fed.out.write(b"a" * 100_000)


@pytest.mark.parametrize("finished", [False, True], ids=["inside an answer", "behind its end"])
def test_a_client_that_takes_nothing_for_too_long_is_broken_off(finished: bool, house: Any) -> None:
    fed = Fed()

    async def test() -> None:
        async with house.door(fed.serve) as door:
            line = await door.line()
            line.writer.transport.pause_reading()
            line.send(GET)
            await house.until(lambda: fed.client is not None)
            _stuffed(fed)
            if finished:
                fed.out.finish()
            assert door.timeout_ms() == house.bounds.write_timeout_ms
            door.expire()
            await house.until(lambda: len(door.open) == 0)
            assert fed.gone == (not finished)

    house.run(test)


def test_a_pipelined_request_does_not_buy_a_client_that_takes_nothing_more_time(house: Any) -> None:
    fed = Fed()

    async def test() -> None:
        async with house.door(fed.serve) as door:
            line = await door.line()
            line.writer.transport.pause_reading()
            line.send(GET)
            await house.until(lambda: fed.client is not None)
            _stuffed(fed)
            deadline_s = door.connections[0].deadline_s
            door.connections[0].data_received(GET + POST + b"Content-Length: 9\r\n\r\nab")
            assert door.connections[0].deadline_s == deadline_s
            door.expire()
            await house.until(lambda: len(door.open) == 0)

    house.run(test)


def test_a_source_that_comes_while_the_client_takes_nothing_waits_from_the_start(house: Any) -> None:
    fed = Fed()

    async def test() -> None:
        async with house.door(fed.serve) as door:
            line = await door.line()
            line.writer.transport.pause_reading()
            line.send(GET)
            await house.until(lambda: fed.client is not None)
            _stuffed(fed)
            late = Fed()
            fed.out.fed_by(late, late)
            assert not late.flows
            line.abort()
            await house.until(lambda: late.gone == 1)

    house.run(test)


# Bodies


@pytest.mark.parametrize(("size", "spooled"), [(SPOOL_BYTES - 1, False), (SPOOL_BYTES, False), (SPOOL_BYTES + 1, True)])
def test_a_large_body_waits_on_disk_and_its_file_is_closed_with_the_answer(size: int, spooled: bool, house: Any) -> None:
    seen: list[Any] = []

    async def serve(call: Call, client: Client) -> None:
        assert await call.received is None
        body = call.body_to_send()
        seen.append(body)
        read = body if isinstance(body, bytes) else body.read()
        assert read == call.body()
        client.begin(200, b"", None, has_body=True)
        client.finish(b"%d" % len(read))

    async def test() -> None:
        async with house.door(serve) as door:
            line = await door.line()
            await line.send_all(POST + b"Content-Length: %d\r\n\r\n" % size + b"a" * size)
            assert (await line.answer()).body == b"%d" % size
            assert isinstance(seen[0], bytes) is not spooled
            if spooled:
                assert seen[0].closed

    house.run(test)


@pytest.mark.parametrize("arrived", ["in part", "whole", "whole, behind a slow one"])
def test_the_file_of_a_large_body_is_closed_when_its_client_leaves(arrived: str, house: Any) -> None:
    ends: list[Gate[None]] = []
    calls: list[Call] = []

    async def serve(call: Call, client: Client) -> None:
        calls.append(call)
        ends.append(Gate())
        problem = await call.received
        if problem is not None:
            client.refuse(problem)
        else:
            await ends[-1]

    async def test() -> None:
        async with house.door(serve) as door:
            line = await door.line()
            size = SPOOL_BYTES + 100
            if arrived.endswith("slow one"):
                line.send(GET)
            body = b"a" * (size - 10 if arrived == "in part" else size)
            await line.send_all(POST + b"Content-Length: %d\r\n\r\n" % size + body)
            await house.until(lambda: calls and door.connections[0]._fed_bytes and _spooled(door, calls))
            spool = _spooled(door, calls)
            line.abort()
            await house.until(lambda: len(door.open) == 0)
            for end in ends:
                end.open(None)
            assert spool is not None
            assert spool.closed

    house.run(test)
    gc.collect()  # a file left open would be a ResourceWarning here


def _spooled(door: Any, calls: list[Call]) -> Any:
    waiting = list(door.connections[0]._waiting)
    return next((call._spool for call in [*calls, *waiting] if call._spool is not None), None)
