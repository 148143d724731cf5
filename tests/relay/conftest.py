"""Pools and connections to a scripted OpenAI."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from gateway.config.snapshot import Account, Secret
from gateway.relay.answer import AnswerReader
from gateway.relay.deadlines import Deadlines
from gateway.relay.gate import Steps
from gateway.relay.pool import Pool
from gateway.relay.upstream import Lost, Upstream


def account(base_url: str, **changes: Any) -> Account:
    return Account(name="openai", base_url=base_url, api_key=Secret("sk-account"), **changes)


class Stepped:
    """A coroutine run as an exchange is. `value` and `error` are what became of it."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.over = False
        self.value: Any = None
        self.error: BaseException | None = None

        async def walk() -> None:
            self.value = await coroutine

        def ended(error: BaseException | None) -> None:
            self.over, self.error = True, error

        Steps(walk(), ended).step()


class Taken:
    """A taker that keeps all it is given."""

    def __init__(self) -> None:
        self.payload = b""
        self.pieces: list[bytes] = []
        self.complete = False
        self.status: int | None = None
        self.why: list[Lost] = []

    def take(self, reader: AnswerReader, payload: bytes) -> None:
        self.payload += payload
        self.pieces.append(payload)
        self.complete = reader.complete
        self.status = reader.head.status if reader.head is not None else None

    def lost(self, why: Lost) -> None:
        self.why.append(why)


class Room:
    """A pool on the running loop, and connections of it. Closes what it opened."""

    def __init__(self, base_url: str, **changes: Any) -> None:
        self.deadlines = Deadlines()
        self.pool = Pool(account(base_url, **changes), asyncio.get_running_loop(), self.deadlines)
        self.had: list[Upstream] = []

    async def __aenter__(self) -> Room:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.pool.retire()
        for upstream in self.had:
            upstream.close()
        await asyncio.get_running_loop().run_in_executor(None, lambda: None)

    async def acquire(self, until: Any) -> Upstream:
        asked = Stepped(self.pool.acquire())
        await until(lambda: asked.over)
        if asked.error is not None:
            raise asked.error
        self.had.append(asked.value)
        upstream: Upstream = asked.value
        return upstream


@pytest.fixture(scope="session")
def relay() -> Any:
    """The names of this file: test modules do not import each other."""

    class Names:
        room = Room
        stepped = Stepped
        taken = Taken

    return Names
