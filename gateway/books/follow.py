"""When the bookkeeper turns: at once while journals hold more, soon after work, seldom when idle, and again after a failure."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

from gateway.books.bookkeeper import Bookkeeper, Turn
from gateway.journal.format import worker_is_dead
from gateway.ledger import LedgerError, LedgerForeign

PAUSE_BUSY_S = 0.02  # entries come within a scrape and an owner's question; a batch of 20 ms at full rate is 400 records
PAUSE_IDLE_S = 0.2
RETRY_FIRST_S = 0.1
RETRY_MAX_S = 5.0
DRAIN_S = 20.0  # how long the end of the journals is worked on before the books stop without it: nothing is lost
WORKER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

_log = structlog.get_logger("gateway.books")


class Follower:
    """Follows every journal under a folder, in the bookkeeper's own thread."""

    def __init__(self, folder: Path, bookkeeper: Bookkeeper, thread: ThreadPoolExecutor) -> None:
        self.state = "starting"  # of the ledger: ok, or the name of what is wrong
        self.detail = ""
        self.unreadable: dict[str, str] = {}  # journals that cannot be read, and why
        self.alive: tuple[str, ...] = ()  # workers that hold their lock
        self.caught_up_at_s = time.monotonic()  # everything written before this moment is in the ledger
        self._folder, self._bookkeeper, self._thread = folder, bookkeeper, thread
        self._wake = asyncio.Event()
        self._waiting: list[asyncio.Future[bool]] = []

    def lag_s(self) -> float:
        """Age of the oldest record that is not in the ledger, at most."""
        return time.monotonic() - self.caught_up_at_s

    async def caught_up(self, timeout_s: float) -> bool:
        """Wait until what is written now is in the ledger; False if that could not be done in time."""
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self._wake.set()
        try:
            async with asyncio.timeout(timeout_s):
                return await done
        except TimeoutError:
            return False

    async def run(self, on_pass: Callable[[], None]) -> None:
        """Follow until cancelled. `on_pass` is told after each look at all journals."""
        pause_s = PAUSE_BUSY_S
        while True:
            waiting, self._waiting = self._waiting, []
            records = await self._pass(waiting)
            on_pass()
            if self.state != "ok":
                pause_s = min(max(2 * pause_s, RETRY_FIRST_S), RETRY_MAX_S)
            else:
                pause_s = PAUSE_BUSY_S if records else min(1.5 * min(pause_s, PAUSE_IDLE_S), PAUSE_IDLE_S)
            await self._pause(pause_s)

    async def prepare(self) -> None:
        """Open the ledger before anybody asks it; when it is away, `run` tries again."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._bookkeeper.prepare)
        except LedgerError as error:
            self._is("unavailable", str(error))

    async def drain(self) -> bool:
        """One look to the end of every journal; False when the ledger did not take it, or not in time. The journals keep the rest."""
        try:
            async with asyncio.timeout(DRAIN_S):
                await self._pass([])
        except TimeoutError:
            self._is("drain_timed_out", f"after {DRAIN_S} s")
        return self.state == "ok"

    async def _pause(self, pause_s: float) -> None:
        try:
            async with asyncio.timeout(pause_s):
                await self._wake.wait()
        except TimeoutError:
            pass
        if self.state == "ok":
            self._wake.clear()
        else:  # a question must not turn a ledger that is away in a tight loop
            self._wake.clear()
            await asyncio.sleep(RETRY_FIRST_S)

    async def _pass(self, waiting: list[asyncio.Future[bool]]) -> int:
        """Turn on every journal until all that was written before is in the ledger. How many records there were.

        Not to the end of a journal that is being written: that would fold every record by itself.
        """
        loop, total = asyncio.get_running_loop(), 0
        began_s, began_us = time.monotonic(), time.time_ns() // 1000
        try:
            turns = await loop.run_in_executor(self._thread, self._first_turns)
            failed: dict[str, str] = {}
            while turns:
                behind: list[str] = []
                for worker, turn in turns:
                    if isinstance(turn, OSError):
                        failed[worker] = str(turn)
                        continue
                    total += turn.records
                    # Of a later hour than now it is of before the clock was set back.
                    if not turn.caught_up and not began_us <= turn.newest_at_us <= time.time_ns() // 1000:
                        behind.append(worker)
                turns = await loop.run_in_executor(self._thread, self._turns, behind) if behind else []
            self._is("ok", "")
            if failed != self.unreadable:
                _log.error("journals_unreadable", journals=failed) if failed else _log.info("journals_readable")
            self.unreadable = failed
            if not failed:
                self.caught_up_at_s = began_s
        except LedgerForeign as error:
            self._is("foreign", str(error))
        except LedgerError as error:
            self._is("unavailable", str(error))
        except Exception as error:  # a fault of ours must have a name and be tried again, not end the books in silence
            _log.exception("books_failed")
            self._is("failed", f"{type(error).__name__}: {error}")
        self._answer(waiting)
        return total

    def _answer(self, waiting: list[asyncio.Future[bool]]) -> None:
        for done in waiting:
            if not done.done():
                done.set_result(self.state == "ok" and not self.unreadable)

    def _is(self, state: str, detail: str) -> None:
        if state != self.state:
            (_log.info if state == "ok" else _log.error)("ledger_state", state=state, before=self.state, detail=detail)
        self.state, self.detail = state, detail

    # in the thread: as much as can be at one go, since each way there and back costs more than an idle look

    def _first_turns(self) -> list[tuple[str, Turn | OSError]]:
        todo, self.alive = self._workers()  # first: they need us also without a ledger
        self._bookkeeper.prepare()
        return self._turns(todo)

    def _turns(self, workers: list[str]) -> list[tuple[str, Turn | OSError]]:
        turns: list[tuple[str, Turn | OSError]] = []
        for worker in workers:
            try:
                turns.append((worker, self._bookkeeper.turn(worker)))
            except OSError as error:
                turns.append((worker, error))
        return turns

    def _workers(self) -> tuple[list[str], tuple[str, ...]]:
        """Every worker that has a journal, and those of them that live."""
        try:
            names = sorted(path.name for path in self._folder.iterdir() if path.is_dir() and WORKER_NAME.fullmatch(path.name))
        except FileNotFoundError:
            return [], ()
        return names, tuple(name for name in names if not worker_is_dead(self._folder, name))
