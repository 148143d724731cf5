"""Four times as many clients as can be carried, who leave when it takes too long and come again: refusals that say so, and nothing lost."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import aiohttp

CYCLES = 3
CARRIED = 8  # at once: connections to the upstream
CLIENTS = 4 * CARRIED
CONNECTIONS_MAX = CLIENTS - 4  # of clients: some find no place
SETTINGS = {
    "proxy": {"connections_max": CONNECTIONS_MAX},
    "accounts": {"openai": {"connections_max": CARRIED, "connect_timeout_ms": 500}},  # how long a call may wait for a connection
}
TAKES_MS = 1_000
PATIENCE_S = (0.7, 10.0)  # of clients: some leave while their call waits, or is carried
RETURNS_WITHIN_KIB = 3_072
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "What is on my bill?"}]}


class Crowd:
    """Clients that call again whatever came of their last call, each on a connection of its own."""

    def __init__(self, place: Any) -> None:
        self.seen: Counter[str] = Counter()
        self.whole: set[str] = set()
        self._place, self._stopping = place, False
        self._headers = {"Authorization": f"Bearer {place.keys['voice']}", "X-Simulator-Fault": f"stall_before_head={TAKES_MS}"}

    async def calls(self, count: int) -> None:
        """Until so many calls have ended that found a place, well or not."""
        clients = [asyncio.create_task(self._client(PATIENCE_S[number % 2], count)) for number in range(CLIENTS)]
        await asyncio.gather(*clients)

    async def _client(self, patience_s: float, count: int) -> None:
        async with aiohttp.ClientSession(headers=self._headers, connector=aiohttp.TCPConnector(force_close=True)) as session:
            while self.seen.total() - self.seen["refused: None"] < count:
                try:
                    async with asyncio.timeout(patience_s), session.post(self._place.base_url + "/chat/completions", json=CHAT) as answer:
                        self._look(answer, await answer.read())
                except TimeoutError:
                    self.seen["left"] += 1
                except aiohttp.ClientError as error:
                    self.seen[type(error).__name__] += 1

    def _look(self, answer: aiohttp.ClientResponse, body: bytes) -> None:
        if answer.status == 200:
            self.seen["answered"] += 1
            self.whole.add(answer.headers["x-gateway-request-id"])
            return
        error = json.loads(body)["error"]
        assert (answer.status, set(error)) == (503, {"message", "type", "param", "code"}), body
        assert (answer.headers["retry-after"], answer.headers["retry-after-ms"]) == ("1", "1000")
        self.seen[f"refused: {error['code']}"] += 1


def test_what_is_too_much_is_refused_and_nothing_is_lost(start_gateway: Any, load: Any) -> None:
    count = 120 if load.long else 40

    async def story() -> None:
        place = await asyncio.to_thread(start_gateway, SETTINGS)
        crowd, pids, after_kib = Crowd(place), {role: place.role(role) for role in ("worker", "books")}, list[int]()
        for number in range(1, CYCLES + 1):
            await crowd.calls(number * count)
            await load.eventually(lambda: place.metric("gateway_connections_active", worker="w0") == 0, "all have left")
            await asyncio.to_thread(place.settled)
            after_kib.append(load.anonymous_kib(pids["worker"]))
        print(f"{dict(crowd.seen)}; KiB of the worker after each cycle: {after_kib}")
        assert crowd.seen["answered"] > 0
        assert crowd.seen["refused: overloaded"] > 0  # waited too long for a connection to the upstream
        assert crowd.seen["refused: None"] > 0  # proxy.connections_max
        assert set(crowd.seen) <= {"answered", "left", "refused: overloaded", "refused: None"}  # nobody is cut off without an answer
        assert after_kib[2] - after_kib[1] <= RETURNS_WITHIN_KIB

        assert {role: place.role(role) for role in pids} == pids
        entries = {entry["exchange_id"]: entry for entry in place.entries()}
        assert {entries[exchange]["usage_source"] for exchange in crowd.whole} == {"reported"}
        assert place.differences() == []
        assert place.ledger.recount().differences == ()
        assert place.complaints() == []
        calm = await asyncio.gather(*(asyncio.to_thread(place.call, "POST", "/chat/completions", CHAT) for _ in range(CARRIED)))
        assert [answer.status for answer in calm] == [200] * CARRIED  # nobody waits any more
        await asyncio.to_thread(place.stop)

    asyncio.run(story())
