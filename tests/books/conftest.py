"""Books as they run, a worker's two ends, and a configuration folder to change."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.books import BooksOptions, run_books
from gateway.config.snapshot import Snapshot, decode_snapshot
from gateway.control import Hello, LimitReading, Report, Spent, WorkerControl, control_path
from gateway.journal.records import Entry, Intent
from gateway.journal.writer import JournalWriter
from gateway.units import Meter

DEADLINE_S = 20.0
AT_US = 1_780_000_000_000_000

GATEWAY = """\
admin: {{listen: "unix:{folder}/admin.sock"}}
accounts:
  openai: {{api_key: sk-upstream}}
journal: {{folder: "{folder}/journal"}}
ledger: "sqlite:{folder}/ledger.db"
"""
TIERS = """\
start: tier-1
tiers: {tier-1: {}}
default_limits:
  tier-1: {rpm: 500}
"""
CARD = """\
model: gpt-4o
snapshots: [gpt-4o-2024-08-06]
endpoints: [chat/completions, responses]
prices:
  - effective_from: 2024-10-02
    source: a test
    usd_per_million_tokens: {text: {input: "2.50", cached: "1.25", output: "10.00"}}
limits:
  tier-1: {rpm: 500, rpd: 10000, tpm: 30000}
"""
TEAM = """\
team: voice
tier: tier-1
models: [gpt-4o]
keys:
  - {id: dev, hash: "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"}
"""


def intent(number: int, **changes: Any) -> Intent:
    values: dict[str, Any] = {
        "exchange_id": f"gx-{number}", "session_id": None, "team": "voice", "key": "dev", "account": "openai",
        "endpoint": "responses", "model_asked": "gpt-4o", "service_tier_asked": None,
        "ask_usage": {Meter.INPUT_TEXT: 1_000, Meter.OUTPUT_TEXT: 1_000}, "ask_cost_picousd": 12_500_000_000,
        "price_version": "gpt-4o@2024-10-02", "client_request_id": None, "retry_count": None, "admitted_at_us": AT_US + number,
    }  # fmt: skip
    return Intent(**(values | changes))


def entry(number: int, **changes: Any) -> Entry:
    values: dict[str, Any] = {
        "exchange_id": f"gx-{number}", "session_id": None, "team": "voice", "key": "dev", "account": "openai",
        "endpoint": "responses", "model_asked": "gpt-4o", "model_served": "gpt-4o-2024-08-06", "service_tier": "default",
        "usage": {Meter.INPUT_TEXT: 100, Meter.OUTPUT_TEXT: 10}, "details": {}, "usage_source": "reported",
        "cost_picousd": 350_000_000, "price_version": "gpt-4o@2024-10-02", "status": 200, "error_code": None,
        "upstream_request_id": None, "client_request_id": None, "admitted_at_us": AT_US + number, "ended_at_us": AT_US + number + 5,
        "timings_us": {"sent": 1, "last": 4}, "retry_count": None, "outcome": "ok", "ask_tokens": 2_000,
        "answer_id": f"resp_{number}",
    }  # fmt: skip
    return Entry(**(values | changes))


class Worker:
    """A worker's journal and control socket, with handlers that keep what the books say."""

    def __init__(self, folder: Path, name: str, refuses: Callable[[Snapshot], bool] = lambda _: False) -> None:
        self.journal = JournalWriter(folder, name)
        self.snapshots: list[Snapshot] = []
        self.snapshot_came = asyncio.Condition()
        self.refills: asyncio.Queue[tuple[Spent, ...]] = asyncio.Queue()
        self.told: list[str] = []
        self.begun = asyncio.Event()
        self.refuses = refuses
        self.stuck = asyncio.Event()  # set: a snapshot is being taken that is in `dies_of`
        self.dies_of: Callable[[Snapshot], bool] = lambda _: False  # it is never done with taking these
        hello = Hello(name, self.journal.boot, os.getpid(), "1")
        self.control = WorkerControl(control_path(folder, name), hello, self, report_every_ms=20)

    async def take_snapshot(self, snapshot: bytes) -> None:
        given = decode_snapshot(snapshot)
        if self.refuses(given):
            raise ValueError("this worker does not take it")
        if self.dies_of(given):
            self.stuck.set()
            await asyncio.Event().wait()
        self.told.append("snapshot")
        async with self.snapshot_came:
            self.snapshots.append(given)
            self.snapshot_came.notify_all()

    async def snapshot_where(self, wanted: Callable[[Snapshot], bool]) -> Snapshot:
        async with self.snapshot_came:
            await self.snapshot_came.wait_for(lambda: bool(self.snapshots) and wanted(self.snapshots[-1]))
            return self.snapshots[-1]

    def refill(self, spent: tuple[Spent, ...]) -> None:
        self.told.append("refill")
        self.refills.put_nowait(spent)

    async def begin(self) -> None:
        self.told.append("begin")
        self.begun.set()

    async def limits(self, team: str | None) -> tuple[LimitReading, ...]:
        return (LimitReading("voice", "group", "group:gpt-4o", "rpm", 500, 125, 375, 15_000),)

    def report(self) -> Report:
        return Report(in_flight={"voice": 3}, journal_free_bytes=self.journal.free_bytes)

    def drain(self) -> None:
        raise AssertionError("nobody drains here")

    def write(self, *records: Intent | Entry) -> None:
        for record in records:
            if isinstance(record, Intent):
                self.journal.intend(record)
            else:
                self.journal.append(record)


class Admin:
    """The admin port, over its Unix socket."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def json(self, path: str, method: str = "GET") -> Any:
        async with self._session.request(method, f"http://localhost{path}") as answer:
            return await answer.json()

    async def ready(self) -> tuple[int, dict[str, str]]:
        """Status, and each check as "level state"."""
        async with self._session.get("http://localhost/readyz") as answer:
            lines = (await answer.text()).splitlines()
            split = [line.split(" ", 2) for line in lines]
            return answer.status, {name: f"{level} {state.partition(':')[0]}" for level, name, state in split}

    async def metric(self, name: str, **labels: str) -> float | None:
        async with self._session.get("http://localhost/metrics") as answer:
            families = text_string_to_metric_families(await answer.text())
            return next((s.value for family in families for s in family.samples if s.name == name and s.labels == labels), None)

    async def metric_is(self, value: float, name: str, **labels: str) -> None:
        """Wait for it: what an entry counts is counted a moment after the ledger shows it."""
        await self.until(lambda: self.metric(name, **labels), lambda found: found == value)

    async def calls(self) -> int:
        return int((await self.json("/admin/v1/usage?by=team"))["total"]["calls"])

    async def until(self, question: Callable[[], Awaitable[Any]], wanted: Callable[[Any], bool]) -> Any:
        """Ask again and again; the test's deadline ends it."""
        while True:
            found = await question()
            if wanted(found):
                return found


class Place:
    """A folder with a configuration, and books over it."""

    def __init__(self, root: Path) -> None:
        self.root, self.journal = root, root / "journal"
        self.write("gateway.yaml", GATEWAY.format(folder=root))
        self.write("tiers.yaml", TIERS)
        self.write("models/gpt-4o.yaml", CARD)
        self.write("teams/voice.yaml", TEAM)

    def write(self, name: str, content: str) -> None:
        path = self.root / "config" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")

    @asynccontextmanager
    async def books(self) -> AsyncIterator[Admin]:
        stop = asyncio.Event()
        task = asyncio.create_task(run_books(BooksOptions(str(self.root / "config")), {}, stop))
        socket = str(self.root / "admin.sock")
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(socket)) as session:
            while not task.done():
                try:
                    async with session.get("http://localhost/healthz"):
                        break
                except aiohttp.ClientConnectorError:
                    await asyncio.to_thread(os.stat, self.root)
            try:
                yield Admin(session)
            finally:
                stop.set()
                assert await task == 0

    @asynccontextmanager
    async def worker(self, name: str = "w0", refuses: Callable[[Snapshot], bool] = lambda _: False) -> AsyncIterator[Worker]:
        worker = Worker(self.journal, name, refuses)
        await worker.control.start()
        try:
            yield worker
        finally:
            await worker.control.close()
            worker.journal.close()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(name="intent")
def intent_maker() -> Callable[..., Intent]:
    return intent


@pytest.fixture(name="entry")
def entry_maker() -> Callable[..., Entry]:
    return entry


@pytest.fixture
def run() -> Callable[[Awaitable[None]], None]:
    async def within_deadline(story: Awaitable[None]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            await story

    return lambda story: asyncio.run(within_deadline(story))
