"""Builds the books, runs them, closes them."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry

from gateway import VERSION
from gateway.admin import Check, Level, LimitsShown, Reloaded, make_app
from gateway.books.bookkeeper import Bookkeeper
from gateway.books.follow import Follower
from gateway.books.links import Links
from gateway.books.readiness import buckets_checks, config_check, journal_checks, ledger_check, settings_check, workers_checks
from gateway.books.reloading import Configuration
from gateway.config.load import Loaded, load
from gateway.config.settings import Purpose
from gateway.config.snapshot import Facts, Listen, Snapshot
from gateway.control import WorkerAway
from gateway.ledger import Questions
from gateway.ledger.questions import SqliteQuestions
from gateway.ledger.sqlite import SqliteLedger
from gateway.metrics import EntryMetrics, Families, LiveMetrics

BAD_CONFIGURATION = 2  # exit status: starting again would not help
ALREADY_KEPT = 3  # exit status: other books hold these journals
ALONE_WAIT_S = 30.0  # more than books take to drain
LIMITS_EVERY_S = 5.0
TEACH_EVERY_S = 10.0
LEDGER_BUSY_MS = 1_000  # a locked ledger is a state with a name, and tried again; not a thread that hangs

Answer = TypeVar("Answer")
_log = structlog.get_logger("gateway.books")


class BooksOptions(msgspec.Struct, frozen=True):
    """What `serve` tells the books; everything else is in the configuration folder."""

    config_folder: str
    admin_fd: int | None = None  # a listening socket, which `serve` keeps open over restarts; None: `admin.listen`
    purpose: Purpose = "serve"


class Books:
    """Everything the control plane is made of. Implements `BooksView`."""

    def __init__(self, options: BooksOptions, env: Mapping[str, str], loaded: Loaded) -> None:
        settings = loaded.settings
        folder, ledger = Path(settings.journal_folder), Path(settings.ledger_url.removeprefix("sqlite:"))
        self.thread = ThreadPoolExecutor(1, "ledger")
        self._questions: Questions = SqliteQuestions(ledger)
        families = Families(settings.metrics_series_max)
        self._metrics = EntryMetrics(families, settings.metrics_series_max)
        self._live = LiveMetrics(families, self._metrics)
        self._registry, self._revision = families.registry, env.get("GATEWAY_REVISION", "unknown")
        self.bookkeeper = Bookkeeper(
            folder, lambda: SqliteLedger(ledger, busy_timeout_ms=LEDGER_BUSY_MS), Facts(loaded.snapshot(0)), self._metrics, families, now_us
        )
        self.follower = Follower(folder, self.bookkeeper, self.thread)
        self.links = Links(folder, self.follower, self._questions, self._live, now_us)
        self.configuration = Configuration(
            Path(options.config_folder), env, options.purpose, loaded, self.links.all, self._rules, self._live
        )
        self.links.serve(self.configuration)
        self._rules(self.configuration.snapshot)
        families.reloaded_at.child().set(time.time())
        families.ledger_lag.child().set_function(self.follower.lag_s)

    # BooksView

    @property
    def registry(self) -> CollectorRegistry:
        """Every metric."""
        return self._registry

    @property
    def snapshot(self) -> Snapshot:
        """The configuration that rules."""
        return self.configuration.snapshot

    def readiness(self) -> tuple[Check, ...]:
        """Every check, good and bad, in a fixed order."""
        links = sorted(self.links.all(), key=lambda link: link.worker)
        return (
            *workers_checks(links, self.configuration.version, self.snapshot.settings.workers),
            ledger_check(self.follower.state, self.follower.detail, self.follower.lag_s()),
            *journal_checks(self.bookkeeper.gaps, self.follower.unreadable),
            *buckets_checks(self.links.not_refilled),
            config_check(self.configuration.refusal, waiting=self.configuration.waiting),
            settings_check(self.configuration.needs_restart),
        )

    async def ask(self, question: Callable[[Questions], Answer]) -> Answer:
        """Put a question to the ledger, off the event loop. Raises LedgerError."""
        return await asyncio.to_thread(question, self._questions)

    async def limits(self, team: str | None) -> LimitsShown:
        """The buckets of all connected workers. Raises WorkerAway when none of them answers."""
        return await self.links.limits(team)

    async def reload(self) -> Reloaded:
        """Read the configuration again, now."""
        return await self.configuration.reload()

    # inside

    def _rules(self, snapshot: Snapshot) -> None:
        """A snapshot rules from now on."""
        self.bookkeeper.facts = Facts(snapshot)
        self._metrics.configure(snapshot)
        self._live.configure(snapshot, VERSION, self._revision)

    def on_pass(self) -> None:
        """After each look at the journals."""
        self.links.follow_living()
        checks = self.readiness()
        ready = all(check.level is not Level.FAILED for check in checks)
        self._live.readiness({check.name: check.state for check in checks if check.state != "ok"}, ready=ready)

    async def show_limits(self) -> None:
        """Keep the limits' gauges fresh, for ever."""
        while True:
            try:
                self._live.limits((await self.links.limits(None)).limits)
            except WorkerAway:
                self._live.limits(())
            await asyncio.sleep(LIMITS_EVERY_S)

    async def teach(self) -> None:
        """Send what was learned to the workers, for ever."""
        loop, learned = asyncio.get_running_loop(), self.bookkeeper.learned
        while True:
            await asyncio.sleep(TEACH_EVERY_S)
            output_tokens, input_tokens = await loop.run_in_executor(self.thread, lambda: (learned.output.p95(), learned.input.p95()))
            await self.configuration.teach(output_tokens, input_tokens)


async def run_books(
    options: BooksOptions, env: Mapping[str, str], stop: asyncio.Event | None = None, *, on_loaded: Callable[[], None] = lambda: None
) -> int:
    """Keep the books until SIGTERM, SIGINT or `stop`. The exit status: 0, ALREADY_KEPT, or BAD_CONFIGURATION with the problems on stderr.

    SIGHUP reads the configuration again. At the end the journals are read to their end, for at most `follow.DRAIN_S`.
    """
    loaded = await asyncio.to_thread(load, Path(options.config_folder), env, purpose=options.purpose)
    if not isinstance(loaded, Loaded):
        sys.stderr.writelines(f"{problem.text()}\n" for problem in loaded)
        return BAD_CONFIGURATION
    on_loaded()  # books that keep these journals now may go
    stop, reload_now = stop or asyncio.Event(), asyncio.Event()
    async with AsyncExitStack() as stack:
        _on_signals(stack, {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: reload_now})
        if not await _be_alone(stack, Path(loaded.settings.journal_folder), stop):
            return ALREADY_KEPT
        books = Books(options, env, loaded)
        stack.callback(books.thread.shutdown)
        stack.push_async_callback(_in_thread, books.thread, books.bookkeeper.close)
        stack.push_async_callback(books.follower.drain)
        stack.push_async_callback(books.links.close)
        await books.follower.prepare()
        await _open_admin(stack, books, options.admin_fd, loaded.settings.admin.listen)
        work = [
            books.follower.run(books.on_pass),
            books.configuration.watch(reload_now),
            books.show_limits(),
            books.teach(),
        ]
        tasks = [asyncio.create_task(each) for each in work]
        stack.push_async_callback(_cancel, tasks)
        _log.info("books_open", config_hash=books.snapshot.config_hash, journal=loaded.settings.journal_folder)
        await asyncio.wait([*tasks, asyncio.create_task(stop.wait())], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():  # none of them ends by itself: whatever ended it is a fault, and `serve` starts the books again
                task.result()
    _log.info("books_closed", ledger=books.follower.state)
    return 0


def now_us() -> int:
    """Unix time."""
    return time.time_ns() // 1000


async def _open_admin(stack: AsyncExitStack, books: Books, admin_fd: int | None, listen: Listen) -> None:
    runner = web.AppRunner(make_app(books), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    if admin_fd is not None:
        site: web.BaseSite = web.SockSite(runner, socket.socket(fileno=os.dup(admin_fd)))
    elif listen.path:
        site = web.UnixSite(runner, listen.path)
    else:
        site = web.TCPSite(runner, listen.host, listen.port)
    await site.start()


def _on_signals(stack: AsyncExitStack, events: Mapping[signal.Signals, asyncio.Event]) -> None:
    loop = asyncio.get_running_loop()
    for number, event in events.items():
        loop.add_signal_handler(number, event.set)
        stack.callback(loop.remove_signal_handler, number)


async def _be_alone(stack: AsyncExitStack, folder: Path, stop: asyncio.Event) -> bool:
    """Hold the lock of the books over these journals: of two, each would delete segments that the other has yet to read.

    Waits for books that are closing; False when they do not.
    """
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    lock = os.open(folder / "books.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    stack.callback(os.close, lock)
    deadline_s, told = time.monotonic() + ALONE_WAIT_S, False
    while not stop.is_set():
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                _log.error("books_kept_already", folder=str(folder))
                return False
            if not told:
                told = True
                _log.info("books_wait_for_others", folder=str(folder))
        await asyncio.sleep(0.1)
    return False


async def _in_thread(thread: ThreadPoolExecutor, work: Callable[[], None]) -> None:
    await asyncio.get_running_loop().run_in_executor(thread, work)


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
