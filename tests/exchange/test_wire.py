"""The path between two sockets: what only shows when a real client and a real connection to OpenAI meet."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.exchange import exchange
from gateway.relay.call import SPOOL_BYTES
from gateway.relay.deadlines import Deadlines
from gateway.server.connection import Bounds, ClientConnection
from gateway.server.open_connections import OpenConnections
from gateway.units import Meter

CHAT = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 50}).encode()
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
ANSWER = json.dumps({"id": "chatcmpl-1", "model": "gpt-4o", "usage": USAGE}).encode()
BOUNDS = Bounds(65_536, 64_000_000, 10_000, 10_000, 10_000, 10_000)


@asynccontextmanager
async def served(worker: Any) -> Any:
    """A listener whose calls walk the path; gives its port."""
    loop, clients = asyncio.get_running_loop(), OpenConnections()
    broke: list[BaseException] = []

    def accept() -> ClientConnection:
        return ClientConnection(loop, BOUNDS, lambda call, client: exchange(call, client, worker.house), Deadlines(), clients, broke.append)

    server = await loop.create_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await clients.drain(0)
        await server.wait_closed()
    assert broke == []


@asynccontextmanager
async def connected(port: int) -> Any:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def request(rooms: Any, body: bytes, path: str = "/v1/chat/completions", lines: str = "") -> bytes:
    key = rooms.keys["voice"].decode()
    head = f"POST {path} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {key}\r\n{lines}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def counted(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    (length,) = [int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
    return int(head.split(b" ")[1]), await reader.readexactly(length)


def test_calls_on_one_connection_are_carried_and_recorded_in_turn(rooms: Any, loopback: Any, tmp_path: Path) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, rooms.worker(origin.url, tmp_path) as worker, served(worker) as port:
            origin.answers.extend([counted(ANSWER)] * 3)
            async with connected(port) as (reader, writer):
                writer.write(request(rooms, CHAT) * 3)
                for _ in range(3):
                    assert await answer(reader) == (200, ANSWER)
            assert len(origin.connections) == 1, "the connection to OpenAI is used again"
            _, entries = worker.records()
            assert [entry.usage_source for entry in entries] == ["reported"] * 3
            assert len({entry.exchange_id for entry in entries}) == 3

    loopback.run(test)


@pytest.mark.parametrize("how", ["closes", "resets"])
def test_a_client_that_leaves_while_openai_thinks_ends_the_call_there(how: str, rooms: Any, loopback: Any, tmp_path: Path) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, rooms.worker(origin.url, tmp_path) as worker, served(worker) as port:
            async with connected(port) as (_, writer):
                writer.write(request(rooms, CHAT))
                await loopback.until(lambda: origin.asked and origin.asked[0].whole)
                writer.close() if how == "closes" else writer.transport.abort()
                await loopback.until(lambda: origin.connections[0].closed)
            _, (entry,) = worker.records()
            assert (entry.outcome, entry.usage_source) == ("client_gone", "unknown")
            assert worker.pool.busy == 0

    loopback.run(test)


def test_a_large_upload_goes_through_disk_to_openai_unchanged(rooms: Any, loopback: Any, tmp_path: Path) -> None:
    body = b"".join(b"%07d\n" % number for number in range(SPOOL_BYTES // 2))  # four times what is held in memory

    async def test() -> None:
        async with loopback.origin() as origin, rooms.worker(origin.url, tmp_path) as worker, served(worker) as port:
            origin.answers.append(counted(b'{"id":"file-1"}'))
            async with connected(port) as (reader, writer):
                writer.write(request(rooms, body, "/v1/files", "Content-Type: multipart/form-data; boundary=x\r\n"))
                assert await answer(reader) == (200, b'{"id":"file-1"}')
            assert origin.asked[0].body == body
            assert origin.asked[0].header("content-type") == "multipart/form-data; boundary=x"
            _, (entry,) = worker.records()
            assert (entry.body_bytes, entry.usage_source) == (len(body), "not_billed")

    loopback.run(test)


def test_openai_refuses_a_large_upload_before_it_is_sent(rooms: Any, loopback: Any, tmp_path: Path) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, rooms.worker(origin.url, tmp_path) as worker, served(worker) as port:
            origin.deaf = True
            async with connected(port) as (reader, writer):
                writer.write(request(rooms, b"a" * 20_000_000, "/v1/files"))
                await loopback.until(lambda: bool(origin.connections))
                origin.connections[0].transport.pause_reading()
                await loopback.until(lambda: worker.records()[0])
                refusal = b'{"error":{"message":"too large","type":"server_error","param":null,"code":null}}'
                origin.connections[0].send(counted(refusal).replace(b"200 OK", b"413 Too Large"))
                assert await answer(reader) == (413, refusal)
            _, (entry,) = worker.records()
            assert (entry.status, entry.outcome) == (413, "client_error")
            assert worker.pool.busy == 0

    loopback.run(test)


def test_a_client_that_does_not_read_holds_openai_back_and_memory_stays_small(rooms: Any, loopback: Any, tmp_path: Path) -> None:
    size = 50_000_000

    async def test() -> None:
        async with loopback.origin() as origin, rooms.worker(origin.url, tmp_path) as worker, served(worker) as port:
            async with connected(port) as (reader, writer):
                writer.transport.pause_reading()
                writer.write(request(rooms, CHAT, "/v1/files"))
                await loopback.until(lambda: origin.asked and origin.asked[0].whole)
                origin.connections[0].send(counted(b"")[:-5].replace(b"length: ", b"length: %d" % size) + b"\r\n\r\n")
                for _ in range(50):
                    origin.connections[0].send(b"a" * 1_000_000)
                upstream = next(iter(worker.pool._deadlines._timed))
                await loopback.until(lambda: upstream._paused)
                assert origin.connections[0].transport.get_write_buffer_size() > size // 2, "most of it is still at OpenAI"
                writer.transport.resume_reading()
                await reader.readuntil(b"\r\n\r\n")
                for _ in range(50):
                    assert await reader.readexactly(1_000_000) == b"a" * 1_000_000
            await loopback.until(lambda: worker.records()[1])

    loopback.run(test)


def test_a_stream_reaches_its_client_as_it_comes_and_ends_behind_its_entry(rooms: Any, loopback: Any, tmp_path: Path) -> None:
    content = b'data: {"id":"chatcmpl-1","model":"gpt-4o","choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}]}\n\n'
    usage = b"data: " + json.dumps({"id": "chatcmpl-1", "model": "gpt-4o", "choices": [], "usage": USAGE}).encode() + b"\n\n"
    body = CHAT[:-1] + b',"stream":true}'

    async def test() -> None:
        async with loopback.origin() as origin, rooms.worker(origin.url, tmp_path) as worker, served(worker) as port:
            async with connected(port) as (reader, writer):
                writer.write(request(rooms, body))
                await loopback.until(lambda: origin.asked and origin.asked[0].whole)
                head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                origin.connections[0].send(head + b"%x\r\n%b\r\n" % (len(content), content))
                seen = await reader.readuntil(b"\n\n\r\n")
                assert seen.endswith(content + b"\r\n")
                assert worker.records()[1] == []
                end = usage + b"data: [DONE]\n\n"
                origin.connections[0].send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(end), end))
                assert await reader.readuntil(b"0\r\n\r\n") == b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
            _, (entry,) = worker.records()
            assert entry.usage == {Meter.INPUT_TEXT: 7, Meter.OUTPUT_TEXT: 3}

    loopback.run(test)
