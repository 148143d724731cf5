"""A worker's hold on the listening sockets: who waits in the queue is served, and what is configured rules for who comes next."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.config.snapshot import Listen, ProxySettings
from gateway.relay.call import Call, Client
from gateway.relay.deadlines import Deadlines
from gateway.server.front import Front

REQUEST = b"GET /x HTTP/1.1\r\nHost: a\r\nOrigin: https://app.example.com\r\n\r\n"
SETTINGS = ProxySettings((Listen("127.0.0.1", 0),))


@pytest.fixture(params=["tcp", "unix"])
def listening(request: pytest.FixtureRequest, tmp_path: Path) -> socket.socket:
    """A socket as `serve` passes it on."""
    if request.param == "tcp":
        return socket.create_server(("127.0.0.1", 0))
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(tmp_path / "gw.sock"))
    made.listen()
    return made


def connected(to: Any, sent: bytes = b"") -> socket.socket:
    """A client's end, without a turn of the loop."""
    client = socket.socket(socket.AF_UNIX if isinstance(to, str) else socket.AF_INET)
    try:
        client.connect(to)
    except OSError:
        client.close()
        raise
    client.sendall(sent)
    client.setblocking(False)
    return client


async def all_of(client: socket.socket) -> bytes:
    """What comes until the other end closes."""
    reader, writer = await asyncio.open_connection(sock=client)
    seen = await reader.read()
    writer.close()
    await writer.wait_closed()
    return seen


async def serve(_call: Call, client: Client) -> None:
    client.begin(200, b"", 2, has_body=True)
    client.finish(b"ok")


def with_front(house: Any, act: Callable[[Front], Coroutine[Any, Any, None]]) -> None:
    broke: list[BaseException] = []

    async def test() -> None:
        await act(Front(asyncio.get_running_loop(), serve, Deadlines(), broke.append))

    house.run(test)
    assert broke == []


class Crowd:
    """Connects at the last moment: it is told of the drain as a connection is, and then nothing turns until nobody listens."""

    def __init__(self, to: Any) -> None:
        self.clients: list[socket.socket] = []
        self._to = to

    def drain(self) -> None:
        if not self.clients:
            self.clients = [connected(self._to, REQUEST) for _ in range(20)]

    def abort(self) -> None:
        raise AssertionError("it has left")


def test_a_drain_serves_all_who_wait_in_the_queue_and_then_nobody(house: Any, listening: socket.socket) -> None:
    to = listening.getsockname()

    async def act(front: Front) -> None:
        front.configure(SETTINGS, connections_max=100)
        await front.listen([listening.detach()])
        crowd = Crowd(to)
        front.connections.add(crowd)
        drained = asyncio.ensure_future(front.drain(asyncio.get_running_loop().time() + 5))
        await house.until(lambda: bool(crowd.clients))
        front.connections.remove(crowd)
        for client in crowd.clients:
            answer = await all_of(client)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b"\r\nconnection: close\r\n" in answer
        await drained
        with pytest.raises(ConnectionRefusedError):
            connected(to)

    with_front(house, act)


def test_a_drain_before_anybody_was_let_in_takes_no_time(house: Any) -> None:
    async def act(front: Front) -> None:
        await front.drain(asyncio.get_running_loop().time() + 60)

    with_front(house, act)


def test_what_is_configured_while_it_listens_rules_for_the_next_connection(house: Any, listening: socket.socket) -> None:
    to = listening.getsockname()

    async def act(front: Front) -> None:
        async def asked(sent: bytes) -> bytes:
            reader, writer = await asyncio.open_connection(sock=connected(to, sent))
            head = await reader.readuntil(b"\r\n\r\n")
            writer.close()
            await writer.wait_closed()
            return head

        front.configure(SETTINGS, connections_max=100)
        await front.listen([listening.detach()])
        assert b"access-control" not in await asked(REQUEST)
        front.configure(msgspec.structs.replace(SETTINGS, cors_origins=("*",), head_bytes_max=1_024), connections_max=100)
        assert b"access-control-allow-origin: *" in await asked(REQUEST)
        assert (await asked(REQUEST[:-2] + b"X: " + b"x" * 2_000 + b"\r\n\r\n")).startswith(b"HTTP/1.1 431 ")
        front.configure(SETTINGS, connections_max=100)
        assert b"access-control" not in await asked(REQUEST)
        await front.drain(0)

    with_front(house, act)
