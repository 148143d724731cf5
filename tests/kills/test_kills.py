"""`kill -9` under load, at any moment: the worker, the books, both, serve. Afterwards each call has its one entry."""

from __future__ import annotations

import asyncio
import os
import signal
from random import Random
from typing import Any

import aiohttp
import pytest

LONG = bool(os.environ.get("CI"))
BATCHES = 2 if LONG else 1  # of each, every one on a gateway that was started anew
ROUNDS = 4 if LONG else 1  # each makes `serve` wait longer before it starts a role again: 0.1 s, 0.5 s, 1 s, then 2 s


@pytest.mark.parametrize("roles", [("worker",), ("books",), ("worker", "books")], ids=["the worker", "the books", "both"])
def test_killed_again_and_again_under_load_every_call_has_its_entry(
    start_gateway: Any, kit: Any, killer: Any, chance: Random, roles: tuple[str, ...]
) -> None:
    journey = start_gateway(kit.tokens_per_second, **kit.teams)

    async def story(load: Any) -> None:
        async with load:
            for _ in range(ROUNDS):
                await load.more(chance.randint(kit.callers, 4 * kit.callers))
                await killer.kill(journey.place, *roles)
            await load.more_whole(kit.callers)

    for batch in range(BATCHES):
        if batch:
            journey.place.process.stop()
            journey.place.serve()
        load = kit.load(journey.place)
        asyncio.run(story(load))
        entries = kit.check_books(journey.place, load)
        orphans = [entry for entry in entries.values() if "orphan" in entry["marks"]]
        assert len(load.exact) > kit.callers
        if "worker" in roles:
            assert 0 < len(orphans) <= (batch + 1) * ROUNDS * kit.callers
        else:
            assert orphans == []  # no client notices that the books are gone
        kit.check_log(journey.place)


def test_a_worker_that_is_killed_alone_comes_back_to_the_same_limits(start_gateway: Any, kit: Any, killer: Any) -> None:
    """The memory store is refilled from the ledger: a crash gives nobody a new day."""
    journey = start_gateway(voice={"limits": {"gpt-4o": {"rpd": 6}}})
    body = ("POST", "/chat/completions", kit.chat)
    assert [journey.send(*body).status for _ in range(4)] == [200] * 4
    journey.place.settled()
    asyncio.run(killer.kill(journey.place, "worker"))
    assert [journey.send(*body).status for _ in range(3)] == [200, 200, 429]
    kit.check_log(journey.place)


def test_when_serve_itself_is_killed_all_of_it_ends_and_the_next_start_finds_every_call(start_gateway: Any, kit: Any, killer: Any) -> None:
    journey = start_gateway(kit.tokens_per_second, **kit.teams)
    place, load = journey.place, kit.load(journey.place)

    async def story() -> None:
        async with load:
            await load.more_whole(2 * kit.callers)
            await asyncio.to_thread(place.process.popen.kill)
            killer.kills["serve"] += 1
            await load.more(kit.callers)

    asyncio.run(story())
    place.process.popen.wait()
    assert place.complaints() == []
    kit.until(place.processes, lambda found: list(found) == [place.simulator.popen.pid], "books and worker have ended by themselves")
    place.serve()
    entries = kit.check_books(journey.place, load)
    assert len(entries) >= len(load.exact) >= 2 * kit.callers
    kit.check_log(journey.place)


def test_a_gateway_that_is_asked_to_stop_carries_its_streams_to_their_end(start_gateway: Any, kit: Any) -> None:
    journey = start_gateway(kit.tokens_per_second)
    place = journey.place

    async def story() -> list[bytes]:
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {place.keys['voice']}"}) as session:
            asked = [session.post(journey.base_url + "/chat/completions", json=kit.chat | {"stream": True}) for _ in range(10)]
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


def test_what_was_written_while_the_books_were_dead_is_folded_when_they_are_back(start_gateway: Any, kit: Any, killer: Any) -> None:
    journey = start_gateway()
    place = journey.place
    place.settled()
    os.kill(place.role("books"), signal.SIGKILL)
    answers = [journey.send("POST", "/chat/completions", kit.chat) for _ in range(5)]
    assert [answer.status for answer in answers] == [200] * 5
    asyncio.run(killer.kill(journey.place, "books"))
    place.settled()
    assert [entry["exchange_id"] for entry in place.entries()] == [answer.headers["x-gateway-request-id"] for answer in answers]
    assert place.differences() == []
    kit.check_log(journey.place)
