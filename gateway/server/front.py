"""A worker's hold on the listening sockets: lets clients in, and at the end lets them go."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from gateway.config.snapshot import ProxySettings
from gateway.relay.deadlines import Deadlines
from gateway.server.answer import Answer, MakeAnswer
from gateway.server.connection import Bounds, ClientConnection, ServeCall
from gateway.server.cors import Cors
from gateway.server.open_connections import OpenConnections
from gateway.server.tls import RenewableTls, listener_context

QUEUE_MAX = 2_048  # connections that wait to be let in
TURNS_OF_ARRIVAL = 3  # of the loop, until who has been let in is a connection


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
        self._queues: list[socket.socket] = []  # the same sockets as the servers'

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
        for fd in fds:
            listening = socket.socket(fileno=fd)
            self._queues.append(listening.dup())
            options = self._tls_options(listening)
            if listening.family == socket.AF_UNIX:
                server = await self._loop.create_unix_server(self._accept, sock=listening, backlog=QUEUE_MAX, **options)
            else:
                server = await self._loop.create_server(self._accept, sock=listening, backlog=QUEUE_MAX, **options)
            self._servers.append(server)

    async def drain(self, deadline_s: float) -> None:
        """Let in who waits in a queue, and then nobody; what is asked by then is answered, until the deadline (loop time)."""
        handshakes: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(server.wait_closed()) for server in self._servers if self._tls is not None
        ]
        await asyncio.sleep(0)  # they wait for what the servers have let in
        self.connections.let_go()
        for server in self._servers:
            server.close()
        while self._queues:
            handshakes += self._let_in_the_rest(self._queues.pop())
        for _ in range(TURNS_OF_ARRIVAL):
            await asyncio.sleep(0)
        await self.connections.drain(deadline_s)
        if handshakes:  # they come to be connections
            _, late = await asyncio.wait(handshakes, timeout=max(0, deadline_s - self._loop.time()))
            for handshake in late:
                handshake.cancel()
            await asyncio.gather(*handshakes, return_exceptions=True)
            await self.connections.drain(deadline_s)

    def _let_in_the_rest(self, queue: socket.socket) -> list[asyncio.Future[Any]]:
        """The system resets whoever is still in the queue when nobody listens any more: so it is emptied, and closed at once."""
        let_in: list[asyncio.Future[Any]] = []
        options = self._tls_options(queue)
        with queue, suppress(OSError):  # BlockingIOError: it is empty
            while True:
                client, _ = queue.accept()
                client.setblocking(False)
                let_in.append(asyncio.ensure_future(self._loop.connect_accepted_socket(self._accept, client, **options)))
        return let_in

    def _tls_options(self, listening: socket.socket) -> dict[str, Any]:
        """Unix sockets speak plain HTTP always."""
        if self._tls is None or self._bounds is None or listening.family == socket.AF_UNIX:
            return {}
        return {"ssl": self._tls.listening, "ssl_handshake_timeout": self._bounds.head_timeout_ms / 1000}

    def _accept(self) -> ClientConnection:
        assert self._bounds is not None
        return ClientConnection(
            self._loop, self._bounds, self._serve_call, self._deadlines, self.connections, self._broke, self._make_answer
        )
