"""Load of every kind on a gateway whose processes are killed, and the account that must come out right.

The gateway is started as users start it, by the parts of `tests/journeys`. The seed is printed at the end of the run;
KILLS_SEED sets it. Moments are counted in calls, so what runs at a kill is left to chance, which is the point.
"""

from __future__ import annotations

import asyncio
import importlib.util
import io
import json
import os
import re
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import pytest

from gateway.failpoints import VARIABLE
from gateway.simulator import compare

_spec = importlib.util.spec_from_file_location("journeys_parts", Path(__file__).parents[1] / "journeys" / "conftest.py")
assert _spec
assert _spec.loader
_parts = sys.modules["journeys_parts"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_parts)
start_gateway, check_error = _parts.start_gateway, _parts.check_error
until = _parts.until

SEED = int(os.environ.get("KILLS_SEED", "20250601"))
CALLERS = 12
TOKENS_PER_SECOND = 400  # an answer of some 40 tokens takes 0.1 s: there is always one under way
PATIENCE_S = 60.0  # only a failing test waits so long: the machine may be busy with everything else
READY_WITHIN_S = 30.0
TEAMS: dict[str, dict[str, Any]] = {"uploads": {"unmetered_paths": "allow"}}
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "What is on my bill?"}]}
ASK = {"model": "gpt-4o", "input": "What is on my bill?"}
SPOOLED = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Read me my bill. " * 65_000}]}  # more than a MiB
DONE = re.compile(rb"data: \[DONE\]\n\n|event: response\.completed\n.*\n\n")

_CHAT, _RESPONSE = "/chat/completions", "/responses"
KINDS: tuple[tuple[str, dict[str, Any], str], ...] = (  # path, body, fault
    (_CHAT, CHAT, ""),
    (_CHAT, CHAT | {"stream": True}, ""),
    (_CHAT, CHAT | {"stream": True, "model": "o3"}, ""),
    (_CHAT, CHAT | {"stream": True, "stream_options": {"include_usage": True}}, ""),
    (_CHAT, CHAT, "close_without_answer"),  # billed, and closed without a byte
    (_RESPONSE, ASK, ""),
    (_RESPONSE, ASK | {"stream": True}, ""),
    ("/embeddings", {"model": "text-embedding-3-small", "input": "bill"}, ""),
    (_CHAT, CHAT | {"stream": True}, "cut_after_events=4"),
    (_RESPONSE, ASK | {"background": True}, ""),
    ("/audio/transcriptions", {}, ""),
    (_CHAT, SPOOLED, ""),
    (_CHAT, CHAT, "status=500"),
)


class Load:
    """Callers that call again and again, and what each of them saw."""

    def __init__(self, place: Any) -> None:
        self.exact: set[str] = set()  # exchanges whose client had the last byte of an answer with its usage
        self.whole: set[str] = set()  # the same, where no usage can be exact: uploads, background
        self.cut = self.ended = 0
        self.refused: Counter[str | None] = Counter()  # error codes
        self._keys, self._place = place.keys, place
        self._stopping = False
        self._moved = asyncio.Condition()

    async def __aenter__(self) -> Load:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(PATIENCE_S), connector=aiohttp.TCPConnector(limit=0))
        self._callers = [asyncio.create_task(self._call_on(number)) for number in range(CALLERS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        try:
            await asyncio.gather(*self._callers)
        finally:
            await self._session.close()

    async def more(self, calls: int) -> None:
        """Wait until so many more calls have ended, well or not."""
        await self._until(self.ended + calls, lambda: self.ended)

    async def more_whole(self, calls: int) -> None:
        """Wait until so many more have ended well: it serves again."""
        await self._until(len(self.exact) + calls, lambda: len(self.exact))

    async def refused_for(self, code: str) -> None:
        """Wait until one is refused with this code."""
        await self._until(1, lambda: self.refused[code])

    async def _until(self, wanted: int, count: Callable[[], int]) -> None:
        async with self._moved, asyncio.timeout(PATIENCE_S):
            await self._moved.wait_for(lambda: count() >= wanted)

    async def _call_on(self, number: int) -> None:
        turn = number
        while not self._stopping:
            path, body, fault = KINDS[turn % len(KINDS)]
            turn += 1 if turn % 7 else number + 1  # callers do not march in step
            if path == "/audio/transcriptions":
                form = aiohttp.FormData({"model": "gpt-4o-mini-transcribe"})
                form.add_field("file", bytes(200_000), filename="bill.wav")
                exchange_id, status, _ = await self._call("POST", path, {"data": form}, "uploads")
            else:
                headers = {"Content-Type": "application/json"} | ({"X-Simulator-Fault": fault} if fault else {})
                data = io.BytesIO(json.dumps(body).encode())  # a file goes as it is read, also where it is more than a MiB
                exchange_id, status, answer = await self._call("POST", path, {"data": data, "headers": headers})
            if exchange_id and status == 200:
                (self.whole if body.get("background") or not body else self.exact).add(exchange_id)
            if exchange_id and status == 200 and body.get("background"):
                await self._read_again(json.loads(answer)["id"])
            self.ended += 1
            async with self._moved:
                self._moved.notify_all()

    async def _read_again(self, answer_id: str) -> None:
        """A background response says what it used when it is fetched in its end state; it may be out of reach meanwhile."""
        for _ in range(4):
            whole, status, answer = await self._call("GET", f"{_RESPONSE}/{answer_id}", {})
            if not whole or status != 200 or json.loads(answer)["status"] == "completed":
                return

    async def _call(self, method: str, path: str, options: dict[str, Any], team: str = "voice") -> tuple[str | None, int | None, bytes]:
        """The exchange's id, if its answer came to its last byte; the status; the body."""
        headers = {"Authorization": f"Bearer {self._keys[team]}", **options.pop("headers", {})}
        exchange_id, status, got = None, None, b""
        try:
            async with self._session.request(method, self._place.base_url + path, headers=headers, **options) as answer:
                status, exchange_id = answer.status, answer.headers.get("x-gateway-request-id")
                async for chunk in answer.content.iter_any():
                    got += chunk
                if status >= 400:
                    self.refused[json.loads(got)["error"]["code"]] += 1
                return exchange_id, status, got
        except (aiohttp.ClientError, OSError):
            self.cut += 1
        except TimeoutError:
            raise AssertionError(f"{method} {path} had no end after {PATIENCE_S} s; it got {got[-200:]!r}") from None
        return (exchange_id if DONE.search(got) else None), status, got  # a stream's terminal event has waited for the entry


def pid_of(place: Any, role: str) -> int | None:
    """The pid of a role that lives now."""
    found = [pid for pid, argv in place.processes().items() if f"gateway.{role}" in argv]
    return found[0] if found else None


async def is_ready(place: Any) -> bool:
    """Whether the gateway says so."""
    try:
        return bool((await asyncio.to_thread(place.admin, "/readyz")).status == 200)
    except OSError:
        return False  # books that have just been killed


class Killer:
    """Kills roles and counts: how many, and how long until the gateway was ready again."""

    def __init__(self) -> None:
        self.kills: Counter[str] = Counter()
        self.ready_after_s: list[float] = []

    async def kill(self, place: Any, *roles: str) -> None:
        """Kill these, all at once, and wait until others are there in their place and all is ready."""
        pids = {role: await asyncio.to_thread(place.role, role) for role in roles}
        for role, pid in pids.items():
            os.kill(pid, signal.SIGKILL)
            self.kills[role] += 1
        await self.back(place, pids)

    async def back(self, place: Any, pids: dict[str, int]) -> None:
        """Wait until others are there in the place of these, and all is ready."""
        began_s = time.monotonic()
        while any(pid_of(place, role) in (None, pid) for role, pid in pids.items()) or not await is_ready(place):
            passed_s = time.monotonic() - began_s
            assert passed_s < READY_WITHIN_S, f"{list(pids)} not back within {READY_WITHIN_S} s: {place.process.log.read_text()}"
            await asyncio.sleep(0.01)
        self.ready_after_s.append(time.monotonic() - began_s)


def check_books(place: Any, load: Load) -> dict[str, dict[str, Any]]:
    """One effective entry for every call that reached OpenAI; exact where the client had its last byte; none that nobody made."""
    place.settled()

    def absent() -> set[str]:
        return {line.client_request_id for line in place.account()} - {entry["exchange_id"] for entry in place.entries()}

    until(absent, lambda found: not found, "an entry for every call that OpenAI served", PATIENCE_S)
    account, found = place.account(), place.entries()
    entries = {entry["exchange_id"]: entry for entry in found}
    assert len(entries) == len(found)
    assert compare(found, account) == []
    assert load.exact | load.whole <= entries.keys()
    assert {entries[exchange_id]["usage_source"] for exchange_id in load.exact} == {"reported"}
    served = {line.client_request_id for line in account}
    never_served = [entry for exchange_id, entry in entries.items() if exchange_id not in served]
    # its intent was written, and the worker was dead; or a background response that nobody asked for again
    assert {entry["usage_source"] for entry in never_served} <= {"unknown"}
    sources = {entry["usage_source"] for exchange_id, entry in entries.items() if exchange_id not in load.exact | load.whole}
    assert sources <= {"unknown", "estimated", "not_billed", "reported"}
    billed = {line.client_request_id for line in account if line.kind == "billed"}
    free = [entry for exchange_id, entry in entries.items() if exchange_id in billed and entry["cost_picousd"] == 0]
    assert free == []  # None is unpriced, and loud; zero would be silent
    _check_revisions(place)
    recount = place.ledger.recount()
    assert (recount.differences, recount.rollups > 0) == ((), True)
    return entries


def _check_revisions(place: Any) -> None:
    """What supersedes may: a real entry the orphan of its intent, late usage whatever there was."""
    origins: dict[str, list[str]] = {}
    for entry in place.ledger.entries(effective_only=False):
        origins.setdefault(entry["exchange_id"], []).append(entry["origin"])
    allowed = {("journal",), ("orphan",), ("orphan", "journal"), ("journal", "late"), ("orphan", "late"), ("orphan", "journal", "late")}
    assert {tuple(each) for each in origins.values()} <= allowed
    assert place.ledger.events("duplicate_entry") == []


def check_log(place: Any, *also: str) -> None:
    """Nothing is wrong but what we did; and no record was lost, since the page cache outlives a process."""
    expected = ("role died and is started again", *also)
    complaints = [line for line in place.complaints() if not any(each in line for each in expected)]
    assert complaints == []
    assert place.ledger.events("journal_gap") == []


class Armed:
    """A gateway whose processes do at their start what a file says then."""

    def __init__(self, place: Any) -> None:
        self.place = place
        self.file: Path = place.root / "failpoints"
        self.reached: set[str] = set()  # names of failpoints that acted
        self._seen_bytes = 0

    def order(self, text: str) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(text)
        new.rename(self.file)

    def serve(self, text: str) -> None:
        """Start the gateway anew, with this order."""
        self.order(text)
        self.place.serve(**{VARIABLE: f"file:{self.file}"})
        self._seen_bytes = 0

    def send(self, method: str, path: str, body: Any) -> Any:
        """One request of the team `voice`, by a client that shows everything as it is."""
        headers = {"Authorization": f"Bearer {self.place.keys['voice']}", "Content-Type": "application/json"}
        return _parts.request(self.place.base_url, method, path, json.dumps(body).encode(), headers)

    def acted(self) -> list[str]:
        """Names of failpoints that acted since this was asked last."""
        with self.place.process.log.open("rb") as log:
            log.seek(self._seen_bytes)
            text = log.read()
        text = text[: text.rfind(b"\n") + 1]
        self._seen_bytes += len(text)
        events = [json.loads(line) for line in text.splitlines() if b'"event": "failpoint"' in line]
        found = [event["name"] for event in events]
        self.reached.update(found)
        return found

    async def reload_for_ever(self) -> None:
        """A team's file that changes again and again, taken at once: configuration moves while processes die."""
        number = 0
        while True:
            number += 1
            await asyncio.to_thread(self.place.team, "changing", mode=("shadow", "enforce")[number % 2])
            with suppress(OSError):
                await asyncio.to_thread(self.place.reload)
            await asyncio.sleep(0.2)


_killers: list[Killer] = []


@pytest.fixture(scope="session")
def chance() -> Random:
    """The seeded chance of this run."""
    return Random(SEED)


@pytest.fixture
def killer() -> Killer:
    _killers.append(Killer())
    return _killers[-1]


@pytest.fixture
def armed(tmp_path: Path) -> Iterator[Armed]:
    """A gateway that is not started yet; its segments are small, so that a second of load fills some."""
    place = _parts.Place(tmp_path)
    for name, settings in ({"voice": {}} | TEAMS).items():
        place.team(name, **settings)
    try:
        place.start_simulator(TOKENS_PER_SECOND)
        config = (place.config / "gateway.yaml").read_text()
        place.write("gateway.yaml", config.replace("journal: {folder:", "journal: {segment_bytes: 65536, folder:"))
        yield Armed(place)
        if "process" in vars(place):
            place.stop()
        else:  # its test never started it
            assert place.simulator.stop() == 0
    finally:
        place.kill_all()


@pytest.fixture(scope="session")
def kit() -> Any:
    """The parts of this file: test modules do not import each other."""

    class Kit:
        load = Load
        teams = TEAMS
        callers = CALLERS
        tokens_per_second = TOKENS_PER_SECOND
        patience_s = PATIENCE_S
        kinds = KINDS
        chat = CHAT
        pid_of = staticmethod(pid_of)
        is_ready = staticmethod(is_ready)
        check_books = staticmethod(check_books)
        check_log = staticmethod(check_log)
        until = staticmethod(until)
        request = staticmethod(_parts.request)

    return Kit


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How many were killed, and how soon all was ready again."""
    kills: Counter[str] = sum((each.kills for each in _killers), Counter())
    times_s = sorted(time_s for each in _killers for time_s in each.ready_after_s)
    if kills and times_s:
        what = ", ".join(f"{role} {count}" for role, count in sorted(kills.items()))
        median_s = statistics.median(times_s)
        said = f"ready again after {median_s:.1f} s (median), {times_s[-1]:.1f} s (slowest)"
        terminalreporter.write_line(f"kills: {kills.total()} ({what}), KILLS_SEED={SEED}; {said}")
