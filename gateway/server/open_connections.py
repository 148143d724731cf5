"""All clients that are connected now, for the drain at the end."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Protocol


class Connection(Protocol):
    """What draining asks of one."""

    def drain(self) -> None:
        """Take no further request."""

    def abort(self) -> None:
        """Break off whatever runs."""


class OpenConnections:
    """The clients that are connected now."""

    def __init__(self) -> None:
        self._open: set[Connection] = set()
        self._draining = False
        self._none_left = asyncio.Event()
        self._none_left.set()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: Connection) -> None:
        """It has connected."""
        self._open.add(connection)
        self._none_left.clear()
        if self._draining:  # it was in the listener's queue
            connection.drain()

    def remove(self, connection: Connection) -> None:
        """It has left."""
        self._open.discard(connection)
        if not self._open:
            self._none_left.set()

    def let_go(self) -> None:
        """Have each, and whoever comes now, take one request more at most."""
        self._draining = True
        for connection in list(self._open):
            connection.drain()

    async def drain(self, deadline_s: float) -> None:
        """Let what runs come to its end; break off what has not by then (loop time)."""
        self.let_go()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline_s):
                await self._none_left.wait()
        for connection in list(self._open):
            connection.abort()
        await self._none_left.wait()
