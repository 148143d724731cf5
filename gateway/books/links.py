"""The control sockets of the workers that live."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog

from gateway.admin import LimitsShown
from gateway.books.follow import Follower
from gateway.books.reloading import Configuration
from gateway.control import LimitsAnswer, NotTaken, Report, Spent, WorkerAway, WorkerLink, control_path
from gateway.ledger import HourlyRequests, LedgerError, Questions
from gateway.metrics import LiveMetrics
from gateway.units import DAY_US, HOUR_US

REFILL_WAIT_S = 5.0  # for the ledger to hold what was written before: a worker waits for its first configuration meanwhile
OWNER_WAIT_S = 0.8  # a worker waits one second for the answer

_log = structlog.get_logger("gateway.books")


class Links:
    """One link for each living worker. Implements `LinkHandlers`."""

    def __init__(self, folder: Path, follower: Follower, questions: Questions, live: LiveMetrics, now_us: Callable[[], int]) -> None:
        self._folder, self._follower, self._questions, self._live, self._now_us = folder, follower, questions, live, now_us
        self._configuration: Configuration | None = None
        self._links: dict[str, tuple[WorkerLink, asyncio.Task[None]]] = {}
        self._not_refilled: dict[str, tuple[int, str]] = {}  # by worker: since when (us), and why

    def serve(self, configuration: Configuration) -> None:
        """From now on workers are given this configuration. Called once, before `follow_living`."""
        self._configuration = configuration

    def all(self) -> list[WorkerLink]:
        """Every link, connected or not."""
        return [link for link, _ in self._links.values()]

    def follow_living(self) -> None:
        """Link to workers that have come, forget those that are dead."""
        for worker in self._follower.alive:
            if worker not in self._links:
                link = WorkerLink(worker, control_path(self._folder, worker), self)
                self._links[worker] = (link, asyncio.create_task(link.run()))
        for worker in self._links.keys() - set(self._follower.alive):
            _, task = self._links.pop(worker)
            task.cancel()
            self._not_refilled.pop(worker, None)
            self._live.worker_gone(worker)
            ended = not control_path(self._folder, worker).exists()  # it removes its socket when it comes to its end; killed, it cannot
            (_log.info if ended else _log.warning)("worker_dead", worker=worker)

    async def close(self) -> None:
        """End every link."""
        tasks = [task for _, task in self._links.values()]
        self._links.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def not_refilled(self) -> dict[str, str]:
        """Workers whose daily buckets began empty, and why. For a day: then they hold what they would have held."""
        since_us = self._now_us() - DAY_US
        return {worker: why for worker, (at_us, why) in self._not_refilled.items() if at_us > since_us}

    async def limits(self, team: str | None) -> LimitsShown:
        """Buckets of all connected workers. Raises WorkerAway when none answers."""
        answers = await asyncio.gather(*(link.limits(team) for link in self.all()), return_exceptions=True)
        found = [answer for answer in answers if isinstance(answer, LimitsAnswer)]
        if not found:
            raise WorkerAway("none is connected")
        readings = tuple(reading for answer in found for reading in answer.readings)
        return LimitsShown(readings, sum(answer.left_out for answer in found))

    # LinkHandlers

    async def on_connected(self, link: WorkerLink) -> None:
        """The worker lets clients in once it has its configuration and its buckets."""
        assert self._configuration is not None
        memory = self._configuration.snapshot.settings.store_url == "memory"
        self._not_refilled.pop(link.worker, None)  # of its life before, or tried again
        refill = await self._refill(link.worker) if memory and link.hello is not None and not link.hello.refilled else None
        try:
            answer = await self._configuration.greet(link)
            if isinstance(answer, NotTaken):
                _log.error("configuration_not_taken", worker=link.worker, reason=answer.reason)
                if refill is not None:
                    self._tell_not_refilled(link.worker, "it has not taken the configuration that it was given first")
            elif refill is not None:
                self._send(link, refill)
            link.begin()
        except WorkerAway as error:  # it died meanwhile, and is greeted again when it is back
            _log.warning("worker_not_greeted", worker=link.worker, reason=str(error))
        except ValueError as error:
            _log.error("worker_not_greeted", worker=link.worker, reason=str(error))

    def on_report(self, link: WorkerLink, report: Report) -> None:
        """One second of a worker's life."""
        if link.worker in self._links:
            self._live.report(link.worker, report)

    async def owner_of(self, answer_id: str) -> tuple[str | None, bool]:
        """Asked twice when it is not known: what another worker made a moment ago may still be in its journal."""
        try:
            team = await asyncio.to_thread(self._questions.owner_of, answer_id)
            if team is None:
                if not await self._follower.caught_up(OWNER_WAIT_S):
                    return None, False
                team = await asyncio.to_thread(self._questions.owner_of, answer_id)
        except LedgerError:
            return None, False
        return team, True

    async def _refill(self, worker: str) -> tuple[Spent, ...] | None:
        """What was used in the last day; None when the ledger cannot tell: the buckets start empty, and /readyz says so."""
        if not await self._follower.caught_up(REFILL_WAIT_S):
            self._tell_not_refilled(worker, f"the ledger is behind: {self._follower.state} {self._follower.detail}".rstrip())
            return None
        now_us = self._now_us()
        try:
            hours = await asyncio.to_thread(self._questions.requests_since, now_us - DAY_US)
        except LedgerError as error:
            self._tell_not_refilled(worker, str(error))
            return None
        return spent_of(hours, now_us)

    def _send(self, link: WorkerLink, refill: tuple[Spent, ...]) -> None:
        try:
            link.refill(refill)
        except ValueError as error:
            self._tell_not_refilled(link.worker, str(error))

    def _tell_not_refilled(self, worker: str, why: str) -> None:
        self._not_refilled[worker] = self._now_us(), why
        _log.error("buckets_not_refilled", worker=worker, detail=why)


def spent_of(hours: list[HourlyRequests], now_us: int) -> tuple[Spent, ...]:
    """Hours as moments, oldest first: each at its end, so that no bucket is emptier than the truth."""
    spent = [Spent(hour.team, hour.key, hour.model, hour.requests, 0, min(hour.hour_at_us + HOUR_US, now_us) // 1000) for hour in hours]
    return tuple(sorted(spent, key=lambda use: use.at_ms))
