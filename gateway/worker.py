"""The one place that builds a worker: the data plane of one process. Opens what it needs, and closes it by the same lines."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import structlog
import uvloop

from gateway import VERSION, failpoints
from gateway.admission import Limit
from gateway.admission.limits import TierExcludes, units_for
from gateway.admission.shares import HOLD_MS_MAX, AccountShares
from gateway.config.snapshot_reader import SnapshotReader
from gateway.control import Hello, LimitReading, Report, Spent, WorkerControl, control_path
from gateway.exchange import exchange
from gateway.house import House
from gateway.journal.commit import CommitBy
from gateway.journal.writer import SEGMENT_BYTES, JournalWriter
from gateway.process import LARGE_BLOCK_BYTES_OF_WORKER, clients_max, configure_logs, end_with_parent, give_back_memory, trim_memory
from gateway.relay.deadlines import Deadlines
from gateway.relay.gate import Gate, gate_of
from gateway.relay.pool import Pool
from gateway.server.front import Front
from gateway.stores.memory import MemoryStore

LAG_EVERY_MS = 100
TRIM_EVERY_S = 5.0  # what huge answers leave free between small blocks goes back soon after them
LIMITS_AT_ONCE = 1_000  # buckets that are read in one turn of the loop: a millisecond

_log = structlog.get_logger("gateway.worker")


class WorkerOptions(msgspec.Struct, frozen=True):
    """What `serve` tells a worker; everything else comes from the books in a snapshot."""

    name: str
    journal_folder: str
    listen_fds: tuple[int, ...]  # sockets that listen, which `serve` keeps open over restarts
    journal_segment_bytes: int = SEGMENT_BYTES


class Worker:
    """Accepts, admits, relays, meters, prices and records, until it is told to drain."""

    def __init__(self, options: WorkerOptions, loop: asyncio.AbstractEventLoop, journal: JournalWriter) -> None:
        self._loop = loop
        self._options = options
        self._journal = journal
        self._store = MemoryStore()
        self._shares = AccountShares(self._store, workers=1)
        self._deadlines = Deadlines()
        self._snapshots = SnapshotReader()
        self._tasks: set[asyncio.Task[str | None]] = set()
        self._serving = self._may_serve = False
        self._lags_us: list[int] = []
        self._tended_ms = 0
        self.drained = asyncio.Event()
        hello = Hello(options.name, journal.boot, os.getpid(), VERSION)
        self.control = WorkerControl(control_path(Path(options.journal_folder), options.name), hello, self)
        self.house = House(
            counters=self._shares,
            journal=journal,
            ask_owner=self._ask_owner,
            now_us=lambda: time.time_ns() // 1000,
            clock_ns=time.perf_counter_ns,
        )
        self._front = Front(loop, lambda call, client: exchange(call, client, self.house), self._deadlines, _broke)

    # WorkerHandlers: what the books say

    async def take_snapshot(self, snapshot: bytes) -> None:
        """New facts, from the next exchange on."""
        facts, house = await self._snapshots.read(snapshot), self.house
        pools: dict[str, Pool] = {}
        for account in facts.accounts.values():  # all of them before one is used: a certificate that cannot be read changes nothing
            kept = house.pools.get(account.name)
            pools[account.name] = kept if kept is not None and kept.account == account else Pool(account, self._loop, self._deadlines)
        settings = facts.snapshot.settings
        upstream_max = sum(account.connections_max for account in settings.accounts)
        self._front.configure(settings.proxy, clients_max(settings.proxy.connections_max, upstream_max))
        replaced = [pool for name, pool in house.pools.items() if pools.get(name) is not pool]
        house.facts, house.pools = facts, pools
        for pool in replaced:
            pool.retire()
        await self._serve()

    async def begin(self) -> None:
        """Let clients in: the buckets are as full as they will be."""
        self._may_serve = True
        await self._serve()

    def refill(self, spent: tuple[Spent, ...]) -> None:
        """Fill the daily buckets with what the ledger says was used before this process began.

        Not those of a minute: the ledger counts by the hour, and an hour's calls at its end would block a team for long.
        """
        facts = self.house.facts
        if facts is None:
            return
        identities = {(identity.team.name, identity.key.id): identity for identity in facts.by_key_hash.values()}
        for use in spent:
            identity = identities.get((use.team, use.key))
            if identity is None:
                continue
            limits = facts.limits_of(identity.team, identity.key, facts.cards.get(use.model or ""))
            if isinstance(limits, TierExcludes):
                continue
            for limit, units in zip(limits, units_for(limits, use.requests, use.tokens), strict=True):
                if limit.kind == "rpd":
                    self._store.refill(limit, units, use.at_ms)

    async def limits(self, team: str | None) -> tuple[LimitReading, ...]:
        """The buckets that are in use now, fullest first. The loop turns in between: 10,000 teams have 30,000 of them."""
        now_ms, found = time.time_ns() // 1_000_000, list[LimitReading]()
        kept = [limit for limit in self._store.limits_kept() if team is None or limit.slot == f"team:{team}"]
        for begin in range(0, len(kept), LIMITS_AT_ONCE):
            found += self._readings(tuple(kept[begin : begin + LIMITS_AT_ONCE]), now_ms)
            await asyncio.sleep(0)
        return tuple(sorted(found, key=lambda reading: -reading.used_units / reading.capacity_units))

    def _readings(self, limits: tuple[Limit, ...], now_ms: int) -> list[LimitReading]:
        return [
            LimitReading(
                team=limit.slot.removeprefix("team:") if limit.slot.startswith("team:") else None,
                scope=limit.scope,
                subject=limit.subject if limit.slot.startswith("team:") else f"{limit.slot}:{limit.subject}",  # of which account
                kind=limit.kind,
                capacity_units=limit.capacity_units,
                used_units=limit.capacity_units - reading.remaining_units,
                remaining_units=reading.remaining_units,
                reset_ms=reading.reset_ms,
            )
            for limit, reading in zip(limits, self._store.readings_now(limits, now_ms), strict=True)
        ]

    def report(self) -> Report:
        """Gauges, and the counts since the last report."""
        tally, pools = self.house.tally, self.house.pools.values()
        refusals, decisions, auth_failures = tally.take()
        lags_us, self._lags_us = self._lags_us, []
        for pool in pools:
            pool.close_idle()
        return Report(
            in_flight=dict(tally.in_flight),
            streams_active={"sse": tally.streams} if tally.streams else {},
            connections=len(self._front.connections),
            refusals=refusals,
            decisions=decisions,
            auth_failures=auth_failures,
            loop_lags_us=tuple(lags_us),
            journal_ready=self._journal.ready,
            journal_state="ready" if self._journal.ready else "full" if self._journal.healthy else "failed",
            journal_free_bytes=self._journal.free_bytes,
            upstream_idle=sum(pool.idle for pool in pools),
            upstream_busy=sum(pool.busy for pool in pools),
            draining=self.drained.is_set(),
        )

    def drain(self) -> None:
        """Stop accepting; what runs goes on to its end, or to the deadline."""
        self.drained.set()

    # inside

    async def _serve(self) -> None:
        if self.house.facts is None or not self._may_serve or self._serving or self.drained.is_set():
            return
        self._serving = True
        await self._front.listen(self._options.listen_fds)
        _log.info("serving", worker=self._options.name, boot=self._journal.boot)

    async def run(self) -> None:
        """Serve until drained."""
        self._deadlines.start(self._loop)
        self._tend()
        self._trim()
        self._measure_lag(self._loop.time())
        await self.control.start()
        await self.drained.wait()
        facts = self.house.facts
        deadline_s = self._loop.time() + (facts.snapshot.settings.proxy.drain_timeout_ms / 1000 if facts else 0)
        await self._front.drain(deadline_s)
        await self.house.finish(deadline_s)
        self._shares.give_back(time.time_ns() // 1_000_000)
        self._deadlines.stop()

    def _ask_owner(self, answer_id: str) -> Gate[str | None]:
        return gate_of(self.control.owner_of(answer_id), self._tasks)

    def _tend(self) -> None:
        now_ms = time.time_ns() // 1_000_000
        if now_ms < self._tended_ms:
            self._store.set_back(now_ms)
        self._tended_ms = now_ms
        self._shares.tend(now_ms)
        self._journal.tend()
        self._loop.call_later(HOLD_MS_MAX / 1000, self._tend)

    def _trim(self) -> None:
        trim_memory()
        self._loop.call_later(TRIM_EVERY_S, self._trim)

    def _measure_lag(self, due_s: float) -> None:
        now_s = self._loop.time()
        if len(self._lags_us) < 64:
            self._lags_us.append(max(0, int((now_s - due_s) * 1e6)))
        next_s = now_s + LAG_EVERY_MS / 1000
        self._loop.call_at(next_s, self._measure_lag, next_s)


async def run_worker(options: WorkerOptions, commit_by: CommitBy = "process") -> None:
    """Run one worker until SIGTERM or the books say so; then everything is settled and on disk."""
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        folder = Path(options.journal_folder)
        journal = stack.enter_context(JournalWriter(folder, options.name, segment_bytes=options.journal_segment_bytes, commit_by=commit_by))
        worker = Worker(options, loop, journal)
        stack.push_async_callback(worker.control.close)
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, worker.drain)
        await worker.run()


def _broke(error: BaseException) -> None:
    _log.error("an exchange broke", exc_info=error)


if __name__ == "__main__":
    configure_logs()
    end_with_parent(int(sys.argv[2]))
    give_back_memory(LARGE_BLOCK_BYTES_OF_WORKER)
    armed = failpoints.arm("worker", os.environ.get(failpoints.VARIABLE, ""))
    within: CommitBy = "thread" if any(order.name.startswith("journal.sync.") for order in armed) else "process"
    gc.collect()
    gc.freeze()  # what is loaded stays; only what calls make is looked at
    gc.set_threshold(50_000, 20, 100)
    uvloop.run(run_worker(msgspec.json.decode(sys.argv[1], type=WorkerOptions), within))
