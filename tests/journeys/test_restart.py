"""Restarts that nobody sees: another release by SIGUSR2, a worker that is killed, an end by SIGTERM. Nobody is refused or cut.

Every call is a new connection, but for some callers that keep theirs; each says for itself whether it got all of its answer.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

CALLERS = 16
KEEPING = 4  # of them, callers that keep their connection
TOKENS_PER_SECOND = 400  # an answer of some 40 tokens takes 0.1 s: there is always one under way
PATIENCE_S = 120.0  # only a failing test waits so long: a machine may be busy with everything else
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "What is on my bill?"}]}
ASKED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/chat/completions", CHAT),
    ("/chat/completions", CHAT | {"stream": True}),
    ("/responses", {"model": "gpt-4o", "input": "What is on my bill?", "stream": True}),
    ("/embeddings", {"model": "text-embedding-3-small", "input": "bill"}),
)


class Load:
    """Callers that call again and again. `whole`: exchanges answered to the last byte; `broken`: all that was anything else."""

    def __init__(self, journey: Any) -> None:
        self.whole: list[str] = []
        self.broken: list[str] = []
        self._url, self._key = journey.base_url, journey.place.keys["voice"]
        self._stopping = False
        self._moved = asyncio.Condition()

    async def __aenter__(self) -> Load:
        options: dict[str, Any] = {"headers": {"Authorization": f"Bearer {self._key}"}, "timeout": aiohttp.ClientTimeout(PATIENCE_S)}
        self._sessions = [
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=force_close), **options)
            for force_close in (True, False)
        ]
        self._callers = [asyncio.create_task(self._call_on(number)) for number in range(CALLERS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        await asyncio.gather(*self._callers)
        for session in self._sessions:
            await session.close()

    async def more(self, calls: int) -> None:
        """Wait until so many more have been answered whole, or something broke."""
        wanted = len(self.whole) + calls
        await self._until(lambda: len(self.whole) >= wanted or bool(self.broken))

    async def broke(self) -> None:
        """Wait until somebody was refused or cut."""
        await self._until(lambda: bool(self.broken))

    async def _until(self, so: Callable[[], bool]) -> None:
        async with self._moved, asyncio.timeout(PATIENCE_S):
            await self._moved.wait_for(so)

    async def _call_on(self, number: int) -> None:
        session, turn = self._sessions[number < KEEPING], number
        while not self._stopping and not self.broken:
            path, body = ASKED[turn % len(ASKED)]
            turn += 1
            try:
                async with session.post(self._url + path, json=body) as answer:
                    text = await answer.read()  # raises when the answer is cut
                    whole = answer.status == 200 and (not body.get("stream") or b"[DONE]" in text or b"response.completed" in text)
                    (self.whole if whole else self.broken).append(
                        answer.headers["x-gateway-request-id"] if whole else f"{answer.status}: {text!r}"
                    )
            except (aiohttp.ClientError, OSError) as error:
                self.broken.append(f"{path} of caller {number}: {error!r}")
            async with self._moved:
                self._moved.notify_all()


def roles_of(place: Any) -> dict[str, list[int]]:
    """The pids of books and workers."""
    found = place.processes()
    return {role: sorted(pid for pid, argv in found.items() if f"gateway.{role}" in argv) for role in ("books", "worker")}


def announcements(place: Any) -> int:
    return place.process.out.read_text().count("gateway: ready on ")


async def restart(place: Any, until: Any) -> None:
    """Ask for it, and wait until others serve and those before have gone."""
    before, announced = roles_of(place), announcements(place)
    place.process.popen.send_signal(signal.SIGUSR2)

    def done() -> bool:
        now = roles_of(place)
        alone = all(len(now[role]) == 1 and now[role] != before[role] for role in now)
        return alone and announcements(place) == announced + 1

    await asyncio.to_thread(until, done, bool, f"the next release serves alone: {before}", PATIENCE_S)


def test_restarted_twice_under_load_no_connection_is_refused_or_cut_and_every_call_is_booked_once(start_gateway: Any, until: Any) -> None:
    journey = start_gateway(TOKENS_PER_SECOND)
    place = journey.place

    async def story() -> Load:
        async with Load(journey) as load:
            for _ in range(2):
                await load.more(2 * CALLERS)
                await restart(place, until)
            await load.more(2 * CALLERS)
        return load

    load = asyncio.run(story())
    assert load.broken == []
    assert len(set(load.whole)) == len(load.whole) >= 6 * CALLERS
    place.settled()
    entries = place.entries()
    assert sorted(entry["exchange_id"] for entry in entries) == sorted(load.whole)
    assert {entry["usage_source"] for entry in entries} == {"reported"}
    assert place.differences() == []
    assert place.ledger.recount().differences == ()
    assert {worker: place.ledger.open_intents(worker) for worker in ("w0", "w0b")} == {"w0": [], "w0b": []}
    until(lambda: levels_of(place, "worker_dead"), lambda levels: len(levels) == 2, "the books have seen both workers end")
    assert levels_of(place, "worker_dead") == ["info", "info"]
    assert place.complaints() == []


def levels_of(place: Any, event: str) -> list[str]:
    """How grave each line of that event is in the gateway's log."""
    lines = [json.loads(line) for line in place.process.log.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
    return [line["level"] for line in lines if line["event"] == event]


@pytest.fixture(scope="module")
def journey(start_gateway_for_all: Any) -> Any:
    """A gateway that outlives the tests which only restart it, or a part of it."""
    day: dict[str, Any] = {"limits": {"gpt-4o": {"rpd": 6}}}
    return start_gateway_for_all(restarted=day, killed=day)


def test_sighup_has_the_configuration_read(journey: Any, until: Any) -> None:
    place = journey.place
    place.team("late-comers")
    place.process.popen.send_signal(signal.SIGHUP)
    until(lambda: journey.send("GET", "/models", team="late-comers").status, lambda status: status == 200, "the new team may call")
    assert place.complaints() == []


def test_who_connects_while_there_is_no_worker_waits_and_finds_the_day_as_it_was(journey: Any, until: Any) -> None:
    place = journey.place
    assert [journey.send("POST", "/chat/completions", CHAT, team="killed").status for _ in range(4)] == [200] * 4
    place.settled()

    async def story() -> list[int]:
        os.kill(place.role("worker"), signal.SIGKILL)
        await asyncio.to_thread(until, lambda: roles_of(place)["worker"], lambda found: not found, "no worker")
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {place.keys['killed']}"}) as session:

            async def call() -> int:
                async with session.post(journey.base_url + "/chat/completions", json=CHAT) as answer:
                    return answer.status

            return await asyncio.gather(*(call() for _ in range(8)))

    assert sorted(asyncio.run(story())) == [200, 200] + [429] * 6


def test_a_release_that_would_not_start_changes_nothing_and_a_good_one_keeps_the_day(journey: Any, until: Any) -> None:
    place = journey.place
    until(lambda: place.admin("/readyz").status, lambda status: status == 200, "it is ready again")
    good, before = (place.config / "gateway.yaml").read_text(), roles_of(place)
    assert [journey.send("POST", "/chat/completions", CHAT, team="restarted").status for _ in range(4)] == [200] * 4
    assert "gateway.yaml" in refused_with(place, good + "nonsense: 1\n", until)
    assert roles_of(place) == before
    place.write("gateway.yaml", good)
    place.settled()
    asyncio.run(restart(place, until))
    assert [journey.send("POST", "/chat/completions", CHAT, team="restarted").status for _ in range(3)] == [200, 200, 429]


def test_a_release_that_cannot_have_its_addresses_or_journals_changes_nothing(journey: Any, until: Any) -> None:
    """The one before goes on where it listens, with the same roles; and can be restarted once the configuration is good again."""
    place = journey.place
    good, before, others = (place.config / "gateway.yaml").read_text(), roles_of(place), place.root / "others"
    others.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken, (others / "serve.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        port, path = taken.getsockname()[1], place.root / "missing" / "gw.sock"
        for old, new, reason in (
            (
                'proxy: {listen: "127.0.0.1:0"',
                f'proxy: {{listen: "127.0.0.1:{port}"',
                f"cannot listen on 127.0.0.1:{port}: Address already",
            ),
            ('proxy: {listen: "127.0.0.1:0"', f'proxy: {{listen: ["127.0.0.1:0", "unix:{path}"]', f"cannot listen on unix:{path}: No such"),
            (
                'admin: {listen: "127.0.0.1:0"',
                f'admin: {{listen: "127.0.0.1:{port}"',
                f"cannot listen on 127.0.0.1:{port}: Address already",
            ),
            (f'"{place.root}/journal"', f'"{others}"', f"the journal in {others} is in use by another gateway"),
        ):
            assert good.count(old) == 1
            assert reason in refused_with(place, good.replace(old, new), until)
            assert roles_of(place) == before
            assert journey.send("POST", "/chat/completions", CHAT).status == 200
    place.write("gateway.yaml", good)
    asyncio.run(restart(place, until))
    assert journey.send("POST", "/chat/completions", CHAT).status == 200


def refused_with(place: Any, text: str, until: Any) -> str:
    """Ask for a restart with this configuration; the reason why it is refused."""

    def refused() -> list[str]:
        return [line for line in place.complaints() if "restart_refused" in line]

    known = len(refused())
    place.write("gateway.yaml", text)
    place.process.popen.send_signal(signal.SIGUSR2)
    return str(json.loads(until(refused, lambda found: len(found) > known, "it says why not", PATIENCE_S)[-1])["reason"])


def test_who_got_a_connection_before_the_end_gets_an_answer(start_gateway: Any, until: Any) -> None:
    """SIGTERM under load: later connections are refused at once, so that a balancer tries another gateway."""
    journey = start_gateway(TOKENS_PER_SECOND)
    place = journey.place

    async def story() -> Load:
        async with Load(journey) as load:
            await load.more(2 * CALLERS)
            place.process.popen.send_signal(signal.SIGTERM)
            await load.broke()
        return load

    load = asyncio.run(story())
    assert {line.partition("caller")[2].partition(": ")[2].partition("(")[0] for line in load.broken} == {"ClientConnectorError"}
    assert place.process.stop() == 0
    assert sorted(entry["exchange_id"] for entry in place.entries()) == sorted(load.whole)
    assert place.complaints() == []
    place.serve()
