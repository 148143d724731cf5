"""A real listener on loopback whose calls a test serves, and raw clients of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Self

import pytest

from gateway.relay.call import Call, Client
from gateway.relay.deadlines import NEVER, Deadlines
from gateway.server.answer import Answer, MakeAnswer
from gateway.server.connection import Bounds, ClientConnection, ServeCall
from gateway.server.open_connections import OpenConnections

BOUNDS = Bounds(
    head_bytes_max=65_536, body_bytes_max=4_000_000, head_timeout_ms=11_000, body_timeout_ms=12_000, idle_timeout_ms=13_000,
    write_timeout_ms=14_000,
)  # fmt: skip


@dataclass
class Served:
    """A call whose body came whole."""

    method: str
    path: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes


@dataclass
class Got:
    """One answer as a client sees it. `cut`: the connection ended inside."""

    status: int
    headers: dict[str, str]
    body: bytes
    cut: bool = False


class Line:
    """A client's end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def send_all(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, *, to_head: bool = False) -> Got:
        """The next answer, whole or cut."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status_line, *lines = head[:-4].split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        assert len(headers) == len(lines), f"a header twice: {head}"
        got = Got(int(status_line.split(" ")[1]), headers, b"")
        try:
            if to_head or got.status < 200 or got.status in (204, 304):
                pass
            elif "content-length" in headers:
                assert "transfer-encoding" not in headers
                got.body = await self.reader.readexactly(int(headers["content-length"]))
            elif headers.get("transfer-encoding") == "chunked":
                while size := int(await self.reader.readuntil(b"\r\n"), 16):
                    got.body += (await self.reader.readexactly(size + 2))[:-2]
                assert await self.reader.readexactly(2) == b"\r\n"
            else:
                got.body = await self.reader.read()
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            got.body += error.partial if isinstance(error, asyncio.IncompleteReadError) else b""
            got.cut = True
        return got

    async def closed(self) -> bool:
        """Whether the server closed, with nothing more to read. Waits for it."""
        try:
            return await self.reader.read() == b""
        except ConnectionError:
            return True

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            pass

    def abort(self) -> None:
        self.writer.transport.abort()


@dataclass
class Door:
    """The listener. `served` fills as the default `echo` serves calls."""

    serve_call: ServeCall | None = None
    bounds: Bounds = BOUNDS
    make_answer: MakeAnswer = Answer
    served: list[Served] = field(default_factory=list)
    broke: list[BaseException] = field(default_factory=list)
    connections: list[ClientConnection] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        self.loop = asyncio.get_running_loop()
        self.deadlines, self.open = Deadlines(), OpenConnections()
        self.server = await self.loop.create_server(self._accept, "127.0.0.1", 0)
        self.port: int = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        for line in self.lines:
            await line.close()
        self.server.close()
        await self.open.drain(0)
        await self.server.wait_closed()

    async def line(self, limit: int = 2**20) -> Line:
        line = Line(*await asyncio.open_connection("127.0.0.1", self.port, limit=limit))
        self.lines.append(line)
        return line

    def expire(self) -> None:
        """As if every deadline that is set had passed."""
        for connection in self.connections:
            if connection.deadline_s != NEVER:
                connection.expired()

    def timeout_ms(self) -> int | None:
        """How long the newest connection has from now, to the second; None: for ever."""
        deadline_s = self.connections[-1].deadline_s
        return None if deadline_s == NEVER else round(deadline_s - self.loop.time()) * 1000

    def _accept(self) -> ClientConnection:
        serve_call = self.serve_call or self.echo
        connection = ClientConnection(self.loop, self.bounds, serve_call, self.deadlines, self.open, self.broke.append, self.make_answer)
        self.connections.append(connection)
        return connection

    async def echo(self, call: Call, client: Client) -> None:
        """Answers with the size of the body, and remembers the call."""
        problem = await call.received
        if problem is not None:
            client.refuse(problem)
            return
        body = call.body()
        self.served.append(Served(call.method, call.path, call.query, call.headers, body))
        shown = b"%b %b %d" % (call.method.encode(), call.path, len(body))
        client.begin(200, b"\r\nx-served: yes", len(shown), has_body=True)
        client.finish(shown)


@pytest.fixture(scope="session")
def house(loopback: Any) -> Any:
    """The names of this file: test modules do not import each other."""

    class Names:
        door = Door
        bounds = BOUNDS
        run = staticmethod(loopback.run)
        until = staticmethod(loopback.until)

    return Names
