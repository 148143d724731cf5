"""A drain from the client's side: what is asked is answered, who was told to go is let go, and nobody is cut without a word."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.relay.call import Call, Client
from gateway.relay.gate import Gate
from gateway.server.connection import DRAIN_FIRST_MS, DRAIN_IDLE_MS
from gateway.server.open_connections import OpenConnections


def request(path: str) -> bytes:
    return f"GET /{path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


class Held:
    """Answers in two parts: the head and some body at once, the rest when the test opens the gate; `/later` as a whole then."""

    def __init__(self) -> None:
        self.gates: list[Gate[None]] = []
        self.told = 0

    async def serve(self, call: Call, client: Client) -> None:
        gate = Gate[None]()
        self.gates.append(gate)
        client.fed_by(None, self)
        if call.path != b"/later":
            client.begin(200, b"", None, has_body=True)
            client.write(b"some ")
        await gate
        if call.path == b"/later":
            client.begin(200, b"", None, has_body=True)
        client.finish(b"more")

    def client_gone(self) -> None:
        self.told += 1


def drain(door: Any) -> asyncio.Task[None]:
    """Begin one that nobody hurries."""
    return asyncio.ensure_future(door.open.drain(door.loop.time() + 5))


def test_an_answer_that_has_not_begun_says_that_it_is_the_last(house: Any) -> None:
    held = Held()

    async def test() -> None:
        async with house.door(held.serve) as door:
            line = await door.line()
            line.send(request("later") + request("behind"))
            await house.until(lambda: len(held.gates) == 1)
            drained = drain(door)
            await asyncio.sleep(0)
            held.gates[0].open(None)
            got = await line.answer()
            assert (got.body, got.headers["connection"]) == (b"more", "close")
            assert await line.closed()
            await drained
            assert len(held.gates) == 1, "no further request is begun"

    house.run(test)


def test_a_client_that_was_promised_another_answer_gets_it(house: Any) -> None:
    """Its head went out before the drain, without `Connection: close`: a client may send its next request at the last byte."""
    held = Held()

    async def test() -> None:
        async with house.door(held.serve) as door:
            line = await door.line()
            line.send(request("stream"))
            await house.until(lambda: len(held.gates) == 1)
            first = await line.answer(to_head=True)
            assert "connection" not in first.headers
            drained = drain(door)
            await asyncio.sleep(0)
            held.gates[0].open(None)
            line.send(request("next"))
            assert await line.reader.readuntil(b"0\r\n\r\n")
            await house.until(lambda: len(held.gates) == 2)
            held.gates[1].open(None)
            got = await line.answer()
            assert (got.body, got.headers["connection"]) == (b"some more", "close")
            assert await line.closed()
            await drained

    house.run(test)


@pytest.mark.parametrize("used", [False, True], ids=["never used", "idle behind an answer"])
def test_a_silent_connection_is_closed_soon_and_not_at_once(house: Any, used: bool) -> None:
    async def test() -> None:
        async with house.door() as door:
            line = await door.line()
            if used:
                line.send(request("a"))
                await line.answer()
            await house.until(lambda: len(door.connections) == 1)
            drained = drain(door)
            await house.until(lambda: door.timeout_ms() == (DRAIN_IDLE_MS if used else DRAIN_FIRST_MS))
            door.expire()
            assert await line.closed()
            await drained

    house.run(test)


@pytest.mark.parametrize("sent", [b"", request("a")[:20]], ids=["nothing yet", "half a head"])
def test_a_request_that_was_on_its_way_is_answered(house: Any, sent: bytes) -> None:
    async def test() -> None:
        async with house.door() as door:
            line = await door.line()
            await house.until(lambda: len(door.connections) == 1)
            await line.send_all(sent)
            await house.until(lambda: not sent or door.timeout_ms() == house.bounds.head_timeout_ms)
            drained = drain(door)
            await asyncio.sleep(0)
            line.send(request("a")[len(sent) :])
            got = await line.answer()
            assert (got.status, got.headers["connection"]) == (200, "close")
            assert await line.closed()
            await drained

    house.run(test)


def test_a_request_that_waits_for_100_continue_is_answered_and_is_the_last(house: Any) -> None:
    async def test() -> None:
        async with house.door() as door:
            line = await door.line()
            await house.until(lambda: len(door.connections) == 1)
            drained = drain(door)
            await asyncio.sleep(0)
            line.send(b"POST /a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
            assert (await line.answer()).status == 100
            line.send(b"body")
            got = await line.answer()
            assert (got.status, got.headers["connection"]) == (200, "close")
            assert await line.closed()
            await drained

    house.run(test)


def test_a_connection_that_comes_out_of_the_queue_after_the_drain_began_is_served_once(house: Any) -> None:
    held = Held()

    async def test() -> None:
        async with house.door(held.serve) as door:
            busy = await door.line()
            busy.send(request("later"))
            await house.until(lambda: len(held.gates) == 1)
            drained = drain(door)
            await asyncio.sleep(0)
            late = await door.line()
            late.send(request("later"))
            await house.until(lambda: len(held.gates) == 2)
            for gate in held.gates:
                gate.open(None)
            assert [(await line.answer()).headers["connection"] for line in (busy, late)] == ["close", "close"]
            await drained

    house.run(test)


def test_what_has_not_ended_by_the_deadline_of_the_drain_is_broken_off(house: Any) -> None:
    held = Held()

    async def test() -> None:
        async with house.door(held.serve) as door:
            line = await door.line()
            line.send(request("later"))
            await house.until(lambda: len(held.gates) == 1)
            await door.open.drain(0)
            assert held.told == 1
            assert await line.closed()

    house.run(test)


def test_draining_nobody_takes_no_time(house: Any) -> None:
    async def test() -> None:
        await OpenConnections().drain(asyncio.get_running_loop().time() + 60)

    house.run(test)
