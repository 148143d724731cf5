"""Connections kept and used again, bounded, and never handed out dead."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gateway.config.snapshot import Account, Secret
from gateway.relay.connect import AllInUse, NoConnection
from gateway.relay.pool import WAITING_MAX, Pool

REQUEST = b"GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


async def exchange(room: Any, relay: Any, loopback: Any) -> Any:
    """One whole exchange; gives the connection that carried it, released."""
    upstream, taken = await room.acquire(loopback.until), relay.taken()
    upstream.send(REQUEST, b"", taken)
    await loopback.until(lambda: taken.complete or taken.why)
    room.pool.release(upstream)
    return upstream


def test_a_connection_is_used_again_the_newest_first(relay: Any, loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, relay.room(origin.url) as room:
            pool, until = room.pool, loopback.until
            first, second = await room.acquire(until), await room.acquire(until)
            assert (pool.idle, pool.busy) == (0, 2)
            pool.release(first)
            pool.release(second)
            assert (pool.idle, pool.busy) == (2, 0)
            assert await room.acquire(until) is second
            assert await room.acquire(until) is first
            await until(lambda: len(origin.connections) == 2)

    loopback.run(test)


NOT_KEPT = {
    "that says close": b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
    "of HTTP/1.0": b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
    "that is not valid": b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\nok",
}


@pytest.mark.parametrize(("answer", "kept"), [(OK, True), *((raw, False) for raw in NOT_KEPT.values())], ids=["whole", *NOT_KEPT])
def test_a_connection_is_kept_only_behind_an_answer(answer: bytes, kept: bool, relay: Any, loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, relay.room(origin.url) as room:
            origin.answers.append(answer)
            upstream = await exchange(room, relay, loopback)
            assert (room.pool.idle, room.pool.busy) == (int(kept), 0)
            if not kept:
                await loopback.until(lambda: origin.connections[0].closed)
                assert upstream.closed

    loopback.run(test)


def test_a_connection_whose_answer_is_not_over_is_not_kept(relay: Any, loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, relay.room(origin.url) as room:
            upstream, taken = await room.acquire(loopback.until), relay.taken()
            upstream.send(REQUEST, b"", taken)
            await loopback.until(lambda: origin.asked)
            origin.connections[0].send(OK[:-1])
            await loopback.until(lambda: taken.payload == b"o")
            room.pool.release(upstream)
            assert (room.pool.idle, room.pool.busy) == (0, 0)
            await loopback.until(lambda: origin.connections[0].closed)

    loopback.run(test)


@pytest.mark.parametrize("way", ["asked for", "looked over"])
@pytest.mark.parametrize(("short_ms", "kept"), [(100, True), (-1, False)], ids=["just before its idle time", "just behind it"])
def test_a_connection_that_idled_too_long_is_closed(short_ms: int, kept: bool, way: str, relay: Any, loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, relay.room(origin.url, idle_timeout_ms=30_000) as room:
            origin.answers.append(OK)
            old = await exchange(room, relay, loopback)
            old.idle_since_s -= (30_000 - short_ms) / 1000
            if way == "asked for":
                assert (await room.acquire(loopback.until) is old) is kept
                assert room.pool.busy == 1
            else:
                room.pool.close_idle()
                assert (room.pool.idle, room.pool.busy) == (int(kept), 0)
            assert old.closed is not kept

    loopback.run(test)


def test_a_connection_that_openai_closed_meanwhile_is_not_handed_out(relay: Any, loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, relay.room(origin.url) as room:
            origin.answers.append(OK)
            old = await exchange(room, relay, loopback)
            origin.connections[0].close()
            await loopback.until(lambda: old.closed)
            new = await room.acquire(loopback.until)
            assert new is not old
            assert (room.pool.idle, room.pool.busy) == (0, 1)

    loopback.run(test)


def test_bytes_nobody_asked_for_close_an_idle_connection(relay: Any, loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, relay.room(origin.url) as room:
            origin.answers.append(OK)
            old = await exchange(room, relay, loopback)
            origin.connections[0].send(OK)
            await loopback.until(lambda: old.closed)
            room.pool.close_idle()
            assert (room.pool.idle, room.pool.busy) == (0, 0)

    loopback.run(test)


def test_beyond_the_maximum_calls_wait_in_their_order(relay: Any, loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, relay.room(origin.url, connections_max=2) as room:
            pool = room.pool
            had = [await room.acquire(loopback.until) for _ in range(2)]
            waiting = [relay.stepped(pool.acquire()) for _ in range(3)]
            assert [one.over for one in waiting] == [False, False, False]
            pool.release(had[0])
            await loopback.until(lambda: waiting[0].over)
            assert [one.over for one in waiting] == [True, False, False]
            assert waiting[0].value is had[0]
            had[1].close()  # lost, so that the next one needs a new connection
            pool.release(had[1])
            await loopback.until(lambda: waiting[1].over)
            room.had.append(waiting[1].value)
            assert not waiting[2].over
            pool.release(waiting[1].value)
            await loopback.until(lambda: waiting[2].over)
            assert waiting[2].value is waiting[1].value
            assert (pool.idle, pool.busy) == (0, 2)

    loopback.run(test)


def test_a_call_that_comes_just_as_a_connection_is_freed_does_not_overtake_those_waiting(relay: Any, loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, relay.room(origin.url, connections_max=1) as room:
            upstream = await room.acquire(loopback.until)
            waiting = relay.stepped(room.pool.acquire())
            room.pool.release(upstream)
            late = relay.stepped(room.pool.acquire())  # in the same turn of the loop
            await loopback.until(lambda: waiting.over)
            assert not late.over
            room.pool.release(upstream)
            await loopback.until(lambda: late.over)
            assert late.value is upstream

    loopback.run(test)


def test_only_so_many_calls_may_wait(relay: Any, loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, relay.room(origin.url, connections_max=1) as room:
            upstream = await room.acquire(loopback.until)
            waiting = [relay.stepped(room.pool.acquire()) for _ in range(WAITING_MAX)]
            over = relay.stepped(room.pool.acquire())
            assert isinstance(over.error, NoConnection)
            assert not over.error.timed_out
            assert not any(one.over for one in waiting)
            for one in waiting:
                room.pool.release(upstream)
                await loopback.until(lambda one=one: one.over)
                assert one.value is upstream

    loopback.run(test)


def test_many_who_gave_up_waiting_do_not_keep_the_living_from_their_connection(relay: Any, loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, relay.room(origin.url, connections_max=1) as room:
            pool = room.pool

            async def gone() -> None:
                pool.release(await pool.acquire())  # as the path does when the client has left

            upstream = await room.acquire(loopback.until)
            left = [relay.stepped(gone()) for _ in range(WAITING_MAX - 1)]
            living = relay.stepped(pool.acquire())
            pool.release(upstream)
            await loopback.until(lambda: living.over)
            assert living.value is upstream
            assert all(one.over and one.error is None for one in left)

    loopback.run(test)


def test_who_waits_for_too_long_is_told_and_keeps_no_place(relay: Any, loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, relay.room(origin.url, connections_max=1) as room:
            upstream = await room.acquire(loopback.until)
            late, patient = relay.stepped(room.pool.acquire()), relay.stepped(room.pool.acquire())
            room.pool._waiting[0].expired()
            assert isinstance(late.error, AllInUse)
            room.pool.release(upstream)
            await loopback.until(lambda: patient.over)
            assert patient.value is upstream

    loopback.run(test)


def test_where_nobody_listens_there_is_no_connection_and_none_is_counted(relay: Any, loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin:
            url = origin.url
        async with relay.room(url, connections_max=1) as room:
            first, second = relay.stepped(room.pool.acquire()), relay.stepped(room.pool.acquire())
            await loopback.until(lambda: first.over and second.over)
            for one in (first, second):
                assert isinstance(one.error, NoConnection)
                assert not one.error.timed_out
            assert (room.pool.idle, room.pool.busy) == (0, 0)

    loopback.run(test)


def test_a_handshake_that_does_not_end_is_a_time_out(relay: Any, loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin:
            origin.deaf = True
            async with relay.room(origin.url.replace("http:", "https:"), connect_timeout_ms=20) as room:
                asked = relay.stepped(room.pool.acquire())
                await loopback.until(lambda: asked.over)
                assert isinstance(asked.error, NoConnection)
                assert asked.error.timed_out
                assert room.pool.busy == 0

    loopback.run(test)


def test_a_pool_that_is_replaced_keeps_nothing(relay: Any, loopback: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, relay.room(origin.url) as room:
            idle, busy = await room.acquire(loopback.until), await room.acquire(loopback.until)
            room.pool.release(idle)
            room.pool.retire()
            assert idle.closed
            assert not busy.closed
            room.pool.release(busy)
            assert busy.closed
            assert (room.pool.idle, room.pool.busy) == (0, 0)

    loopback.run(test)


def test_the_account_speaks_in_every_request(loopback: Any) -> None:
    async def test() -> None:
        account = Account(
            name="eu", base_url="http://eu.example:8443/prefix/v1", api_key=Secret("sk-1"), organization="org-1", project="proj-1"
        )
        pool = Pool(account, asyncio.get_running_loop(), deadlines=None)  # type: ignore[arg-type]  # nothing is opened
        assert pool.account_lines == (
            b"host: eu.example:8443\r\nauthorization: Bearer sk-1\r\nopenai-organization: org-1\r\nopenai-project: proj-1\r\n"
        )
        assert pool.path_prefix == b"/prefix/v1"

    loopback.run(test)


# TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two self-signed certificates: `here` for 127.0.0.1, and `elsewhere` for another name."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make certificates with")
    folder = tmp_path_factory.mktemp("certificates")
    for name, subject in (("here", "IP:127.0.0.1"), ("elsewhere", "DNS:elsewhere.example")):
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        command += ["-days", "2", "-subj", "/CN=x"]
        command += ["-addext", f"subjectAltName={subject}", "-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.pem"]
        subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.mark.parametrize(
    ("served", "trusted", "connects"),
    [("here", "here", True), ("here", None, False), ("here", "elsewhere", False), ("elsewhere", "elsewhere", False)],
    ids=["its authority is trusted", "nobody vouches for it", "another authority is trusted", "it is of another host"],
)
def test_a_certificate_is_verified(served: str, trusted: str | None, connects: bool, certificates: Path, relay: Any, loopback: Any) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / f"{served}.pem", certificates / f"{served}.key")
    ca_file = None if trusted is None else str(certificates / f"{trusted}.pem")

    async def test() -> None:
        async with loopback.origin(tls=context) as origin, relay.room(origin.url, ca_file=ca_file) as room:
            if connects:
                origin.answers.append(OK)
                await exchange(room, relay, loopback)
                assert room.pool.idle == 1
            else:
                asked = relay.stepped(room.pool.acquire())
                await loopback.until(lambda: asked.over)
                assert isinstance(asked.error, NoConnection)
                assert "certificate" in str(asked.error)
                assert room.pool.busy == 0

    loopback.run(test)
