"""Two teams that call at the pace of people and programs: chat plain and streamed, responses, embeddings; two service tiers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec

from gateway.cli.demo.folder import TEAMS, DemoTeam

CALL_TIMEOUT_S = 60
RETRY_AFTER_MS = 1_000  # where a refusal names no time
INSTRUCTIONS = "You answer questions about our products. Be brief, name the source, and say so when you do not know. " * 12
QUESTIONS = (
    "How do I send a parcel back?", "Which plan has single sign-on?", "Why was my card declined?", "Compare the two cameras.",
    "Is the blue one in stock in Lyon?", "Summarise the last three tickets of this customer.", "Where is my invoice for May?",
)  # fmt: skip


@dataclass
class Seen:
    """What a team's clients saw."""

    answered: int = 0
    refused: int = 0
    failed: int = 0
    last_failure: str = ""


@dataclass
class Traffic:
    """What all clients saw, as far as it has come. `asked`: the team of each exchange, as its own client knows it."""

    seen: dict[str, Seen] = field(default_factory=lambda: {team.name: Seen() for team in TEAMS})
    asked: dict[str, str] = field(default_factory=dict)


@asynccontextmanager
async def calling(traffic: Traffic, base_url: str, keys: Mapping[str, str], stop: asyncio.Event) -> AsyncIterator[None]:
    """Both teams call until `stop` is set; on leaving, calls that run are finished."""
    timeout = aiohttp.ClientTimeout(total=CALL_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as group:
        for team in TEAMS:
            for number in range(team.callers):
                caller = Caller(team, number, f"{base_url}/v1", keys[team.name], traffic, session)
                group.create_task(caller.call_until(stop))
        try:
            yield
        finally:
            stop.set()


class Caller:
    """One client of a team: calls, waits a little, calls again; and waits longer when it is told to."""

    def __init__(self, team: DemoTeam, number: int, base_url: str, key: str, traffic: Traffic, session: aiohttp.ClientSession) -> None:
        self._team, self._base_url, self._session = team, base_url, session
        self._headers = {"Authorization": f"Bearer {key}"}
        self._seen, self._asked = traffic.seen[team.name], traffic.asked
        self._random = random.Random(f"{team.name} {number}")
        self._count = number  # so that callers begin with different calls

    async def call_until(self, stop: asyncio.Event) -> None:
        """Call until `stop` is set."""
        while not stop.is_set():
            path, body = CALLS[self._team.name][self._count % len(CALLS[self._team.name])](self._question())
            self._count += 1
            wait_ms = await self._call(path, body)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), (wait_ms or self._random.randint(*self._team.pause_ms)) / 1000)

    async def _call(self, path: str, body: dict[str, Any]) -> int | None:
        """One call, read to its end. How long the gateway wants the client to wait; None: it does not."""
        seen = self._seen
        try:
            async with self._session.post(
                self._base_url + path, data=msgspec.json.encode(body), headers={**self._headers, "Content-Type": "application/json"}
            ) as answer:
                if exchange_id := answer.headers.get("x-gateway-request-id"):
                    self._asked[exchange_id] = self._team.name
                async for _ in answer.content.iter_any():
                    pass
        except (aiohttp.ClientError, TimeoutError) as error:
            seen.failed += 1
            seen.last_failure = f"{path}: {type(error).__name__}"
            return None
        if answer.status == 200:
            seen.answered += 1
        elif answer.status == 429:
            seen.refused += 1
            return int(answer.headers.get("retry-after-ms", RETRY_AFTER_MS))
        else:
            seen.failed += 1
            seen.last_failure = f"{path}: status {answer.status}"
        return None

    def _question(self) -> str:
        return f"{self._random.choice(QUESTIONS)} ({self._random.randrange(10**6)})"


Called = tuple[str, dict[str, Any]]


def _messages(question: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": question}]


def _chat(question: str) -> Called:
    return "/chat/completions", {"model": "gpt-4o", "messages": _messages(question)}


def _chat_streamed(question: str) -> Called:
    return "/chat/completions", {"model": "gpt-4o", "messages": _messages(question), "stream": True}


def _mini(question: str) -> Called:
    return "/chat/completions", {"model": "gpt-4o-mini", "messages": _messages(question), "max_completion_tokens": 200}


def _mini_streamed(question: str) -> Called:
    return "/chat/completions", {**_mini(question)[1], "stream": True, "stream_options": {"include_usage": True}}


def _mini_priority(question: str) -> Called:
    return "/chat/completions", {**_mini(question)[1], "service_tier": "priority"}


def _response(question: str) -> Called:
    return "/responses", {"model": "gpt-5-mini", "instructions": INSTRUCTIONS, "input": question}


def _response_flex(question: str) -> Called:
    return "/responses", {**_response(question)[1], "service_tier": "flex"}


def _response_streamed(question: str) -> Called:
    return "/responses", {**_response(question)[1], "stream": True}


def _embedding(question: str) -> Called:
    return "/embeddings", {"model": "text-embedding-3-small", "input": [question, INSTRUCTIONS]}


CALLS = {
    "search": (_embedding, _chat, _response, _chat_streamed, _embedding, _response_flex, _response_streamed),
    "support": (_mini, _mini_streamed, _mini_priority),
}
