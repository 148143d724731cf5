"""A thousand streams and a thousand idle connections at once on one worker, again and again, with calls beside them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

CYCLES = 3
CALLERS = 4
KIB_A_STREAM_MAX = 64  # both its connections, its exchange, its team's place in the books of limits; seen: see bench/README.md
KIB_A_CONNECTION_MAX = 24
RETURNS_WITHIN_KIB = 2_048  # from one cycle to the next, once allocators are warm
KIB_OF_AN_EXCHANGE = 2  # kept for its decision (the last 16,384, admission/decided.py) and its answer's owner (the last 100,000, house.py)
SETTINGS = {"proxy": {"idle_timeout_ms": 600_000}}


class Beside:
    """Ordinary calls that go on all the while."""

    def __init__(self, place: Any) -> None:
        self.answered = 0
        self._place, self._stopping = place, False

    async def __aenter__(self) -> Beside:
        self._callers = [asyncio.create_task(self._call_on()) for _ in range(CALLERS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        await asyncio.gather(*self._callers)

    async def _call_on(self) -> None:
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "What is on my bill?"}]}
        headers = {"Authorization": f"Bearer {self._place.keys['voice']}"}
        async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(120)) as session:
            while not self._stopping:
                async with session.post(self._place.base_url + "/chat/completions", json=body) as answer:
                    assert answer.status == 200
                    await answer.read()
                    self.answered += 1


@asynccontextmanager
async def opened(place: Any, count: int) -> AsyncIterator[list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]:
    connections = [await asyncio.open_connection(*place.address) for _ in range(count)]
    try:
        yield connections
    finally:
        for _, writer in connections:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for _, writer in connections), return_exceptions=True)


async def cycle(place: Any, load: Any, upstream: Any, count: int) -> tuple[int, int, set[str]]:
    """KiB of a stream and of an idle connection, and the exchanges whose clients had all of their stream."""
    pid, whole = place.role("worker"), set[str]()
    upstream.go_on.clear()
    before_kib = load.anonymous_kib(pid)
    async with opened(place, count):
        await load.eventually(lambda: (place.metric("gateway_connections_active", worker="w0") or 0) >= count, "all of them are connected")
        with_idle_kib = load.anonymous_kib(pid)
        asked = place.request("held", "/chat/completions", {"model": load.model, "stream": True, "user": "held", "messages": []})
        async with opened(place, count) as streams:
            for _, writer in streams:
                writer.write(asked)
            heads = [(await reader.readuntil(b"word ")).decode() for reader, _ in streams]
            assert upstream.held == count
            await load.eventually(lambda: place.metric("gateway_streams_active", kind="sse") == count, "the metric shows all of them")
            with_streams_kib = load.anonymous_kib(pid)
            answered = place.beside.answered
            await load.eventually(lambda: place.beside.answered > answered + CALLERS, "calls go on beside them")
            upstream.go_on.set()
            for head, (reader, _) in zip(heads, streams, strict=True):
                assert (await reader.readuntil(b"0\r\n\r\n")).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
                whole.add(head.partition("x-gateway-request-id: ")[2].partition("\r\n")[0])
    return (with_streams_kib - with_idle_kib) // count, (with_idle_kib - before_kib) // count, whole


def test_a_thousand_open_streams_end_exact_and_leave_nothing(start_gateway: Any, load: Any) -> None:
    count = 1_000 if load.long else 100

    async def story() -> None:
        async with load.upstream() as upstream:
            accounts = {
                "openai": {"idle_timeout_ms": 1_000},
                "held": {"base_url": upstream.base_url, "api_key": "sk-held", "idle_timeout_ms": 1_000, "connections_max": count},
            }
            place = await asyncio.to_thread(start_gateway, SETTINGS | {"accounts": accounts}, held={"account": "held"})
            pid, whole, after_kib, answered, sizes = place.role("worker"), set[str](), list[int](), list[int](), list[tuple[int, int]]()
            files = load.open_files(pid)
            for _ in range(CYCLES):
                async with Beside(place) as place.beside:
                    a_stream_kib, a_connection_kib, ended = await cycle(place, load, upstream, count)
                whole |= ended
                sizes.append((a_stream_kib, a_connection_kib))
                await load.eventually(lambda: load.open_files(pid) <= files, "no socket is left")
                after_kib.append(load.anonymous_kib(pid))
                answered.append(place.beside.answered)
            print(
                f"(KiB a stream, KiB an idle connection) by cycle: {sizes}; KiB of the worker after each: {after_kib}; beside: {answered}"
            )
            assert sizes[0][0] <= KIB_A_STREAM_MAX
            assert sizes[0][1] <= KIB_A_CONNECTION_MAX
            assert abs(after_kib[2] - after_kib[1]) <= RETURNS_WITHIN_KIB + KIB_OF_AN_EXCHANGE * (count + answered[2])

            await asyncio.to_thread(place.settled)
            entries = {entry["exchange_id"]: entry for entry in place.entries() if entry["team"] == "held"}
            assert whole == set(entries) == set(upstream.billed)
            assert len(whole) == CYCLES * count
            for exchange, entry in entries.items():
                assert entry["usage_source"] == "reported"
                assert entry["usage"] == {"input_text": 7, "output_text": upstream.billed[exchange]}
                assert entry["cost_picousd"] == upstream.picousd(exchange)
            served = {line.client_request_id for line in place.account()}
            assert place.beside.answered
            assert served == {entry["exchange_id"] for entry in place.entries() if entry["team"] == "voice"}
            assert place.ledger.recount().differences == ()
            assert place.complaints() == []
            await asyncio.to_thread(place.stop)

    asyncio.run(story())
