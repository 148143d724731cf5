"""Ten thousand teams come, change and go while calls and streams run: nothing is lost, nobody is held up, and the books do the reading."""

from __future__ import annotations

import asyncio
import json
import time
from itertools import pairwise
from typing import Any

import aiohttp

TOKENS_PER_SECOND = 40  # a chunk every 25 ms
CALLERS = 3
STREAMS = 5
CHANGES = 30  # files, in each of three rounds
RETURNS_WITHIN_KIB = 12_288  # books, from one round of changes to the next: a second copy of 10,000 teams would be twice that
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "What is on my bill?"}]}
CARD = """\
model: gpt-ours
endpoints: [chat/completions]
prices:
  - {{effective_from: 2024-01-01, source: a test, usd_per_million_tokens: {{text: {{input: "{rate}", cached: "1", output: "7"}}}}}}
"""


class Traffic:
    """Calls one after another and streams at a pace, all the while. None of them may fail."""

    def __init__(self, place: Any) -> None:
        self.whole: set[str] = set()
        self.gaps_ms: list[float] = []  # between two reads of a stream, since the last look
        self._place, self._stopping = place, False

    async def __aenter__(self) -> Traffic:
        headers = {"Authorization": f"Bearer {self._place.keys['voice']}"}
        self._session = aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(120))
        asked = [*[CHAT] * CALLERS, *[CHAT | {"stream": True}] * STREAMS]
        self._running = [asyncio.create_task(self._call_on(body)) for body in asked]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        await asyncio.gather(*self._running)
        await self._session.close()

    async def _call_on(self, body: dict[str, Any]) -> None:
        while not self._stopping:
            async with self._session.post(self._place.base_url + "/chat/completions", json=body) as answer:
                assert answer.status == 200, await answer.read()
                reads, last = [time.monotonic()], b""
                async for piece in answer.content.iter_any():
                    reads.append(time.monotonic())
                    last = piece
                if "stream" in body:
                    assert last.endswith(b"data: [DONE]\n\n")
                    self.gaps_ms += [(after - before) * 1000 for before, after in pairwise(reads[1:])]
                self.whole.add(answer.headers["x-gateway-request-id"])

    async def more(self, calls: int = 2 * (CALLERS + STREAMS)) -> None:
        """Wait for so many more whole answers."""
        wanted = len(self.whole) + calls
        while len(self.whole) < wanted:
            for task in self._running:
                assert not task.done(), task.exception()
            await asyncio.sleep(0.01)

    def worst_gap_ms(self) -> int:
        """Of the streams that ended since this was asked last."""
        gaps, self.gaps_ms = self.gaps_ms, []
        return round(max(gaps, default=0))


async def taken(place: Any, load: Any, before: float, what: str) -> None:
    """Wait until the books have taken what the files say now; they look once a second."""
    await load.eventually(lambda: reloads(place, "ok") > before, what)


def reloads(place: Any, result: str) -> float:
    return place.metric("gateway_config_reloads_total", result=result) or 0.0


async def write_all(place: Any, names: list[str], **settings: Any) -> None:
    def write() -> None:
        for name in names:
            place.team(name, **settings)

    await asyncio.to_thread(write)


def status_of(place: Any, team: str) -> int:
    status: int = place.call("POST", "/chat/completions", CHAT, team).status
    return status


def ours(place: Any) -> None:
    headers = {"X-Simulator-Fault": "model=gpt-ours", "X-Simulator-Usage": "input_text=100;output_text=10"}
    assert place.call("POST", "/chat/completions", CHAT, more_headers=headers).status == 200


def test_ten_thousand_teams_come_change_and_go_and_nobody_notices(start_gateway: Any, load: Any) -> None:
    count = 10_000 if load.long else 500
    names = [f"team-{number:05}" for number in range(count)]

    async def story() -> None:
        place = await asyncio.to_thread(start_gateway, {}, TOKENS_PER_SECOND)
        told: dict[str, int] = {}
        pids, books_kib = {role: place.role(role) for role in ("worker", "books")}, list[int]()
        async with Traffic(place) as traffic:
            await traffic.more()
            told["before"] = traffic.worst_gap_ms()

            await write_all(place, names)
            await load.eventually(lambda: status_of(place, names[-1]) == 200, "the last team may call")
            await traffic.more()
            told[f"{count} teams came"] = traffic.worst_gap_ms()

            for number in range(3):
                before = await asyncio.to_thread(reloads, place, "ok")
                await write_all(place, names[number :: count // CHANGES], limits={"gpt-4o": {"rpd": 1_000 + number}})
                await taken(place, load, before, "changed files rule")
                await traffic.more()
                books_kib.append(load.anonymous_kib(pids["books"]))
            told["some changed, three times"] = traffic.worst_gap_ms()
            changed = await asyncio.to_thread(place.call, "POST", "/chat/completions", CHAT, names[2])
            assert changed.headers["x-ratelimit-limit-requests"] == "1002"

            refused = await asyncio.to_thread(reloads, place, "error")
            broken = place.write("teams/broken.yaml", json.dumps({"team": "broken", "tier": "teir-5"}))
            await load.eventually(lambda: reloads(place, "error") > refused, "it is refused")
            await traffic.more()
            told["a broken file"] = traffic.worst_gap_ms()

            broken.unlink()
            for name in names[:CHANGES]:
                (place.config / f"teams/{name}.yaml").unlink()
            await load.eventually(lambda: status_of(place, names[0]) == 401, "a team that has gone is unknown")
            assert await asyncio.to_thread(status_of, place, names[CHANGES]) == 200
            await traffic.more()
            told["some went"] = traffic.worst_gap_ms()

            for rate in ("3", "5"):
                before = await asyncio.to_thread(reloads, place, "ok")
                place.write("models/gpt-ours.yaml", CARD.format(rate=rate))
                await taken(place, load, before, "the price rules")
                await asyncio.to_thread(ours, place)
            await traffic.more()
            told["prices changed, twice"] = traffic.worst_gap_ms()

        print(f"worst gap between chunks, ms: {told}; KiB of the books after each round: {books_kib}")
        print("\n".join(line for line in place.metrics().splitlines() if line.startswith("gateway_event_loop_lag_seconds")))
        assert {role: place.role(role) for role in pids} == pids
        assert books_kib[2] - books_kib[1] <= RETURNS_WITHIN_KIB
        await asyncio.to_thread(place.settled)
        entries = {entry["exchange_id"]: entry for entry in place.entries()}
        assert {entries[exchange]["usage_source"] for exchange in traffic.whole} == {"reported"}
        priced = [entry for entry in entries.values() if entry["model_served"] == "gpt-ours"]
        assert [entry["cost_picousd"] for entry in priced] == [100 * rate * 10**6 + 10 * 7 * 10**6 for rate in (3, 5)]
        place.priced_by_policy |= {entry["exchange_id"] for entry in priced}
        assert place.differences() == []
        assert place.ledger.recount().differences == ()
        assert [line for line in place.complaints() if '"configuration_refused"' not in line] == []
        await asyncio.to_thread(place.stop)

    asyncio.run(story())
