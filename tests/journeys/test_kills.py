"""`kill -9` under load: the worker, the books, both. Afterwards there is one entry for every call, exact where it ended, marked where not.

Kills come at seeded moments of the load, counted in calls; what runs at that moment is left to chance, which is the point.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from random import Random
from typing import Any

import aiohttp
import pytest

from gateway.simulator import compare

ROUNDS = 3  # each makes `serve` wait longer before it starts a role again: 0.1 s, 0.5 s, 1 s, then 2 s and 5 s
CALLERS = 12
TOKENS_PER_SECOND = 400  # an answer of some 40 tokens takes 0.1 s: there is always one under way
READY_WITHIN_S = 10.0  # of a restart, on a machine that is busy with everything else
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "What is on my bill?"}]}
ASKED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/chat/completions", CHAT),
    ("/chat/completions", CHAT | {"stream": True}),
    ("/chat/completions", CHAT | {"stream": True, "model": "o3"}),
    ("/chat/completions", CHAT | {"stream": True, "stream_options": {"include_usage": True}}),
    ("/responses", {"model": "gpt-4o", "input": "What is on my bill?"}),
    ("/responses", {"model": "gpt-4o", "input": "What is on my bill?", "stream": True}),
    ("/embeddings", {"model": "text-embedding-3-small", "input": "bill"}),
)


class Load:
    """Callers that call again and again, and what each of them saw."""

    def __init__(self, journey: Any) -> None:
        self.whole: set[str] = set()  # exchange ids of answers that came to their last byte
        self.cut = 0
        self.ended = 0
        self._base_url, self._key = journey.base_url, journey.place.keys["voice"]
        self._stopping = False
        self._moved = asyncio.Condition()

    async def __aenter__(self) -> Load:
        self._session = aiohttp.ClientSession(headers={"Authorization": f"Bearer {self._key}"}, timeout=aiohttp.ClientTimeout(20))
        self._callers = [asyncio.create_task(self._call_on(number)) for number in range(CALLERS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        await asyncio.gather(*self._callers)
        await self._session.close()

    async def more(self, calls: int) -> None:
        """Wait until so many more calls have ended, well or not."""
        wanted = self.ended + calls
        async with self._moved:
            await asyncio.wait_for(self._moved.wait_for(lambda: self.ended >= wanted), 30)

    async def more_whole(self, calls: int) -> None:
        """Wait until so many more have ended well: it serves again."""
        wanted = len(self.whole) + calls
        async with self._moved:
            await asyncio.wait_for(self._moved.wait_for(lambda: len(self.whole) >= wanted), 30)

    async def _call_on(self, number: int) -> None:
        while not self._stopping:
            path, body = ASKED[(number + self.ended) % len(ASKED)]
            try:
                async with self._session.post(self._base_url + path, json=body) as answer:
                    await answer.read()
                    if answer.status == 200:
                        self.whole.add(answer.headers["x-gateway-request-id"])
            except aiohttp.ClientError:
                self.cut += 1
            self.ended += 1
            async with self._moved:
                self._moved.notify_all()


def pid_of(journey: Any, role: str) -> int | None:
    """The pid of a role that lives now."""
    found = [pid for pid, argv in journey.place.processes().items() if f"gateway.{role}" in argv]
    return found[0] if found else None


async def kill(journey: Any, *roles: str) -> None:
    """Kill these, all at once, and wait until others are there in their place and all is ready."""
    pids = {role: journey.place.role(role) for role in roles}
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    end_s = time.monotonic() + READY_WITHIN_S
    while any(pid_of(journey, role) in (None, pid) for role, pid in pids.items()) or not await is_ready(journey):
        assert time.monotonic() < end_s, f"{roles} not back within {READY_WITHIN_S} s: {journey.place.process.log.read_text()}"
        await asyncio.sleep(0.01)


async def is_ready(journey: Any) -> bool:
    try:
        return (await asyncio.to_thread(journey.place.admin, "/readyz")).status == 200
    except OSError:
        return False  # books that have just been killed


def check_books(journey: Any, load: Load, until: Any) -> dict[str, dict[str, Any]]:
    """One entry for every call that reached OpenAI; exact where the client had its last byte; none that nobody made."""
    place = journey.place
    place.settled()

    def absent() -> set[str]:
        return {line.client_request_id for line in place.account()} - {entry["exchange_id"] for entry in place.entries()}

    until(absent, lambda found: not found, "an entry for every call that OpenAI served", 5.0)
    entries = {entry["exchange_id"]: entry for entry in place.entries()}
    assert compare(place.entries(), place.account()) == []
    assert load.whole <= entries.keys()
    assert {entries[exchange_id]["usage_source"] for exchange_id in load.whole} == {"reported"}
    served = {line.client_request_id for line in place.account()}
    never_served = [entry for exchange_id, entry in entries.items() if exchange_id not in served]
    assert all(entry["usage_source"] == "unknown" for entry in never_served)  # its intent was written, and the worker was dead
    torn = [entry for exchange_id, entry in entries.items() if exchange_id not in load.whole]
    assert all(entry["cost_picousd"] > 0 for entry in torn)
    recount = place.ledger.recount()
    assert (recount.differences, recount.rollups > 0) == ((), True)
    return entries


def check_log(journey: Any, *, killed: bool = True) -> None:
    """Nothing is wrong but what we did; and no record was lost, since the page cache outlives a process."""
    complaints = journey.place.complaints()
    assert [line for line in complaints if "role died and is started again" not in line] == []
    assert bool(complaints) == killed
    assert "gateway_journal_gaps_total{" not in journey.place.metrics()


@pytest.mark.parametrize("roles", [("worker",), ("books",), ("worker", "books")], ids=["the worker", "the books", "both"])
def test_killed_again_and_again_under_load_every_call_has_its_entry(start_gateway: Any, until: Any, roles: tuple[str, ...]) -> None:
    journey, chance = start_gateway(TOKENS_PER_SECOND), Random(sum(map(len, roles)))

    async def story() -> Load:
        async with Load(journey) as load:
            for _ in range(ROUNDS):
                await load.more(chance.randint(CALLERS, 4 * CALLERS))
                await kill(journey, *roles)
            await load.more_whole(CALLERS)
        return load

    load = asyncio.run(story())
    entries = check_books(journey, load, until)
    orphans = [entry for entry in entries.values() if "orphan" in entry["marks"]]
    assert len(load.whole) > ROUNDS * CALLERS
    if "worker" in roles:
        assert 0 < len(orphans) <= ROUNDS * CALLERS
        assert load.cut >= len(orphans)
        assert journey.place.metric("gateway_orphaned_intents_total") is not None
    else:
        assert (orphans, load.cut) == ([], 0)  # no client notices that the books are gone
    check_log(journey)


def test_a_worker_that_is_killed_alone_comes_back_to_the_same_limits(start_gateway: Any, until: Any) -> None:
    """The memory store is refilled from the ledger: a crash gives nobody a new day."""
    journey = start_gateway(voice={"limits": {"gpt-4o": {"rpd": 6}}})
    body = ("POST", "/chat/completions", CHAT)
    assert [journey.send(*body).status for _ in range(4)] == [200] * 4
    journey.place.settled()
    asyncio.run(kill(journey, "worker"))
    assert [journey.send(*body).status for _ in range(3)] == [200, 200, 429]
    check_log(journey)


def test_when_serve_itself_is_killed_all_of_it_ends_and_the_next_start_finds_every_call(start_gateway: Any, until: Any) -> None:
    journey = start_gateway(TOKENS_PER_SECOND)
    place = journey.place

    async def story() -> Load:
        async with Load(journey) as load:
            await load.more_whole(2 * CALLERS)
            await asyncio.to_thread(place.process.popen.kill)
            await load.more(CALLERS)
        return load

    load = asyncio.run(story())
    place.process.popen.wait()
    assert place.complaints() == []
    until(place.processes, lambda found: list(found) == [place.simulator.popen.pid], "books and worker have ended by themselves")
    place.serve()
    entries = check_books(journey, load, until)
    assert len(entries) >= len(load.whole) >= 2 * CALLERS
    check_log(journey, killed=False)


def test_a_gateway_that_is_asked_to_stop_carries_its_streams_to_their_end(start_gateway: Any) -> None:
    journey = start_gateway(TOKENS_PER_SECOND)
    place = journey.place

    async def story() -> list[bytes]:
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {place.keys['voice']}"}) as session:
            asked = [session.post(journey.base_url + "/chat/completions", json=CHAT | {"stream": True}) for _ in range(10)]
            streams = await asyncio.gather(*asked)
            assert all([await stream.content.readline() for stream in streams])
            place.process.popen.send_signal(signal.SIGTERM)
            return await asyncio.gather(*(stream.read() for stream in streams))

    assert all(rest.endswith(b"data: [DONE]\n\n") for rest in asyncio.run(story()))
    assert place.process.stop() == 0
    assert list(place.processes()) == [place.simulator.popen.pid]
    assert [entry["usage_source"] for entry in place.entries()] == ["reported"] * 10  # the books have read to the end before they went
    assert place.differences() == []
    assert place.complaints() == []
    place.serve()


def test_what_was_written_while_the_books_were_dead_is_folded_when_they_are_back(start_gateway: Any) -> None:
    journey = start_gateway()
    place = journey.place
    place.settled()
    os.kill(place.role("books"), signal.SIGKILL)
    answers = [journey.send("POST", "/chat/completions", CHAT) for _ in range(5)]
    assert [answer.status for answer in answers] == [200] * 5
    asyncio.run(kill(journey, "books"))
    place.settled()
    assert [entry["exchange_id"] for entry in place.entries()] == [answer.headers["x-gateway-request-id"] for answer in answers]
    assert place.differences() == []
    check_log(journey)
