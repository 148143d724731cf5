"""The way to an account, step by step: every address of a name, one time for all of it, and connections that die at once."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from gateway.config.snapshot import Account, Secret
from gateway.relay.connect import NoConnection, Route, dial

REQUEST = b"GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def address(host: str, port: int) -> Any:
    return (socket.AF_INET, socket.SOCK_STREAM, 0, "", (host, port))


@contextmanager
def silent(host: str, port: int) -> Iterator[None]:
    """An address that answers nothing: its queue of connections is full, so the kernel drops what knocks."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((host, port))
        listener.listen(0)
        for _ in range(4):
            knocking = stack.enter_context(socket.socket())
            knocking.setblocking(False)
            knocking.connect_ex((host, port))
        yield


@pytest.mark.parametrize("first", ["refuses", "is silent"])
def test_the_next_address_is_tried_when_the_first(first: str, loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin:
            with silent("127.0.0.2", origin.port) if first == "is silent" else ExitStack():
                found = await dial(asyncio.get_running_loop(), [address(host, origin.port) for host in ("127.0.0.2", "127.0.0.1")])
            with found:
                assert found.getpeername() == ("127.0.0.1", origin.port)

    loopback.run(test)


def test_when_every_address_refuses_there_is_no_connection(loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin:
            port = origin.port
        with pytest.raises(ConnectionRefusedError):
            await dial(asyncio.get_running_loop(), [address(host, port) for host in ("127.0.0.2", "127.0.0.3")])

    loopback.run(test)


def test_an_address_that_answers_nothing_is_a_time_out(relay: Any, loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin:
            port = origin.port
        with silent("127.0.0.2", port):
            async with relay.room(f"http://127.0.0.2:{port}/v1", connect_timeout_ms=50) as room:
                asked = relay.stepped(room.pool.acquire())
                await loopback.until(lambda: asked.over)
                assert isinstance(asked.error, NoConnection)
                assert (asked.error.timed_out, str(asked.error)) == (True, "it did not answer in time")
                assert room.pool.busy == 0

    loopback.run(test)


@pytest.mark.parametrize("name", ["x" * 64, ".".join(["x" * 63] * 5)], ids=["its label is too long", "it is too long"])
def test_a_name_that_is_none_is_told(name: str, relay: Any, loopback: Any) -> None:
    """No server is asked for either."""

    async def test() -> None:
        async with relay.room(f"http://{name}/v1") as room:
            asked = relay.stepped(room.pool.acquire())
            await loopback.until(lambda: asked.over)
            assert isinstance(asked.error, NoConnection)
            assert str(asked.error) == "it has a name that cannot be resolved"

    loopback.run(test)


def test_tls_is_verified_and_not_too_old(loopback: Any) -> None:
    async def test() -> None:
        tls = Route(Account(name="a", base_url="https://a.example/v1", api_key=Secret("")), asyncio.get_running_loop())._tls
        assert tls is not None
        assert (tls.check_hostname, tls.verify_mode, tls.minimum_version) == (True, ssl.CERT_REQUIRED, ssl.TLSVersion.TLSv1_2)

    loopback.run(test)


def test_a_connection_sends_what_it_has_at_once(relay: Any, loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, relay.room(origin.url) as room:
            upstream = await room.acquire(loopback.until)
            assert upstream._transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0

    loopback.run(test)


def test_a_connection_that_is_closed_at_once_is_made_again_and_then_told_of(relay: Any, loopback: Any) -> None:
    """As a load balancer does that has nobody behind it. Nothing was sent, so nothing can have been billed."""

    async def test() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        loop, accepted = asyncio.get_running_loop(), 0

        def accept() -> None:
            nonlocal accepted
            accepted += 1
            listener.accept()[0].close()

        loop.add_reader(listener, accept)
        async with relay.room(f"http://127.0.0.1:{listener.getsockname()[1]}/v1") as room:
            asked = relay.stepped(room.pool.acquire())
            await loopback.until(lambda: asked.over)
            assert (accepted, str(asked.error)) == (2, "it closes connections at once")
            assert (room.pool.idle, room.pool.busy) == (0, 0)
        loop.remove_reader(listener)
        listener.close()

    loopback.run(test)


@pytest.mark.parametrize("idle_s", [0.0, 2.0], ids=["used just now", "idle for two seconds"])
def test_an_idle_connection_whose_end_has_come_is_not_used_though_the_loop_has_not_read_it(
    idle_s: float, relay: Any, loopback: Any
) -> None:
    """The request would go to nobody, and might have been billed for all one can tell. What was used just now is trusted: a look costs."""

    async def test() -> None:
        async with loopback.origin() as origin, relay.room(origin.url) as room:
            origin.answers.append(OK)
            old, taken = await room.acquire(loopback.until), relay.taken()
            old.send(REQUEST, b"", taken)
            await loopback.until(lambda: taken.complete)
            room.pool.release(old)
            assert not old.unread()
            assert await room.acquire(loopback.until) is old
            room.pool.release(old)
            old.idle_since_s -= idle_s
            with socket.socket(fileno=os.dup(origin.connections[0].transport.get_extra_info("socket").fileno())) as theirs:
                theirs.shutdown(socket.SHUT_WR)  # in the kernel at once, and no turn of the loop
            assert not old.closed
            new = relay.stepped(room.pool.acquire())
            await loopback.until(lambda: new.over)
            room.had.append(new.value)
            assert (new.value is old) is (idle_s == 0)
            assert room.pool.busy == 1

    loopback.run(test)
