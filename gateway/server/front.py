"""A worker's hold on the listening sockets: lets clients in, and at the end lets them go."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress

from gateway.config.snapshot import ProxySettings
from gateway.relay.deadlines import Deadlines
from gateway.server.answer import Answer, MakeAnswer
from gateway.server.connection import Bounds, ClientConnection, ServeCall
from gateway.server.cors import Cors
from gateway.server.open_connections import OpenConnections
from gateway.server.tls import RenewableTls, listener_context

QUEUE_MAX = 2_048  # connections that wait to be let in
TURNS_OF_ARRIVAL = 3  # of the loop: one in which the queue is read, one in which connections are made, and one to be sure


class Front:
    """All clients of one worker. `configure` before `listen`; `drain` is the end."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, serve_call: ServeCall, deadlines: Deadlines, broke: Callable[[BaseException], None]
    ) -> None:
        self.connections = OpenConnections()
        self._loop, self._deadlines, self._broke = loop, deadlines, broke
        self._serve_call = self._serve_all_calls = serve_call
        self._make_answer: MakeAnswer = Answer
        self._bounds: Bounds | None = None
        self._tls: RenewableTls | None = None
        self._servers: list[asyncio.Server] = []

    def configure(self, settings: ProxySettings, connections_max: int) -> None:
        """For connections made from now on. OSError when the certificate cannot be read: then nothing has changed."""
        certificate = listener_context(settings.tls) if settings.tls is not None else None
        if certificate is not None and self._tls is not None:
            self._tls.renew(certificate)
        elif not self._servers:  # whether it speaks TLS is decided when it begins to listen
            self._tls = RenewableTls(certificate) if certificate is not None else None
        self._bounds = Bounds(
            head_bytes_max=settings.head_bytes_max,
            body_bytes_max=settings.body_bytes_max,
            head_timeout_ms=settings.head_timeout_ms,
            body_timeout_ms=settings.body_timeout_ms,
            idle_timeout_ms=settings.idle_timeout_ms,
            write_timeout_ms=settings.write_timeout_ms,
            connections_max=connections_max,
        )
        self._serve_call, self._make_answer = self._serve_all_calls, Answer
        if settings.cors_origins:  # otherwise no call pays for it
            cors = Cors(settings.cors_origins)
            self._serve_call, self._make_answer = cors.serving(self._serve_all_calls), cors.make_answer

    async def listen(self, fds: Sequence[int]) -> None:
        """Let clients in at these sockets, which listen already."""
        assert self._bounds is not None
        tls = self._tls.listening if self._tls is not None else None
        handshake_timeout_s = self._bounds.head_timeout_ms / 1000 if tls is not None else None
        for fd in fds:
            listening = socket.socket(fileno=fd)
            if listening.family == socket.AF_UNIX:
                server = await self._loop.create_unix_server(self._accept, sock=listening, backlog=QUEUE_MAX)
            else:
                server = await self._loop.create_server(
                    self._accept, sock=listening, backlog=QUEUE_MAX, ssl=tls, ssl_handshake_timeout=handshake_timeout_s
                )
            self._servers.append(server)

    async def drain(self, deadline_s: float) -> None:
        """Let in who waits in the queue, and then nobody; what is asked by then is answered, until the deadline (loop time)."""
        handshakes = [asyncio.ensure_future(server.wait_closed()) for server in self._servers if self._tls is not None]
        for _ in range(TURNS_OF_ARRIVAL):
            await asyncio.sleep(0)
        for server in self._servers:
            server.close()
        for _ in range(TURNS_OF_ARRIVAL):
            await asyncio.sleep(0)
        await self.connections.drain(deadline_s)
        if handshakes:  # they come to be connections
            with suppress(TimeoutError):
                async with asyncio.timeout_at(deadline_s):
                    await asyncio.gather(*handshakes)
            await self.connections.drain(deadline_s)

    def _accept(self) -> ClientConnection:
        assert self._bounds is not None
        return ClientConnection(
            self._loop, self._bounds, self._serve_call, self._deadlines, self.connections, self._broke, self._make_answer
        )
