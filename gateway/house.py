"""What an exchange needs of its worker, in one value. Built by `worker.py`, used by the path."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from gateway.admission import Admitted, Counters, Decision
from gateway.admission.limits import units_for
from gateway.config.snapshot import Facts
from gateway.control import Decided, Refusal
from gateway.job import Job
from gateway.journal.records import Entry
from gateway.journal.writer import JournalWriter
from gateway.relay.carry import Carry
from gateway.relay.gate import Gate
from gateway.relay.pool import Pool
from gateway.teams.identify import NotIdentified
from gateway.units import ExchangeIds, tokens_of

OWNERS_MAX = 100_000  # answer ids remembered here; older ones are asked of the ledger


class AskOwner(Protocol):
    """The ledger's memory of who made a stored object, over the control socket."""

    def __call__(self, answer_id: str) -> Gate[str | None]:
        """The team, or None when no team is known to have made it. BooksAway comes through the gate."""


class Tally:
    """Counts since the last report to the books. Refusals write no line each; this is how they are seen."""

    def __init__(self) -> None:
        self.in_flight: Counter[str] = Counter()
        self.streams = 0
        self._admitted: dict[str, Counter[str]] = {}  # by team, by limit
        self._shadowed: Counter[tuple[str, str]] = Counter()  # team, limit
        self._refused: Counter[tuple[str, str | None, str, str | None, int]] = Counter()  # team, model, endpoint, limit, status
        self._turned_away: Counter[str] = Counter()  # reason

    def decided(self, job: Job, decision: Decision) -> None:
        """Admission has spoken."""
        team, model = job.identity.team, job.card.model if job.card else None
        if isinstance(decision, Admitted):
            of_team = self._admitted.get(team.name)
            if of_team is None:
                of_team = self._admitted[team.name] = Counter()
            for limit in decision.reservation.limits:
                of_team[limit.kind] += 1
        elif team.mode == "shadow":
            self._shadowed[team.name, decision.limit.kind] += 1
        else:
            self.refused(team.name, job.endpoint.name, model, decision.limit.kind, 429)

    def refused(self, team: str, endpoint: str, model: str | None, limit: str | None, status: int) -> None:
        """A call of a known team that does not go upstream."""
        self._refused[team, model, endpoint, limit, status] += 1

    def turned_away(self, stranger: NotIdentified) -> None:
        """A caller without a valid key."""
        self._turned_away[stranger.reason] += 1

    def began(self, job: Job) -> None:
        """An exchange goes upstream."""
        self.in_flight[job.identity.team.name] += 1
        self.streams += job.streams

    def ended(self, job: Job) -> None:
        """It is recorded."""
        team = job.identity.team.name
        self.in_flight[team] -= 1
        if not self.in_flight[team]:
            del self.in_flight[team]
        self.streams -= job.streams

    def take(self) -> tuple[tuple[Refusal, ...], tuple[Decided, ...], dict[str, int]]:
        """Refusals, decisions and failed identifications since the last take."""
        refused, admitted, shadowed, turned_away = self._refused, self._admitted, self._shadowed, self._turned_away
        self._refused, self._admitted, self._shadowed, self._turned_away = Counter(), {}, Counter(), Counter()
        return (
            tuple(Refusal(team, model, endpoint, limit, status, n) for (team, model, endpoint, limit, status), n in refused.items()),
            (
                *(Decided(team, limit, "allow", n) for team, limits in admitted.items() for limit, n in limits.items()),
                *(Decided(team, limit, "degraded", n) for (team, limit), n in shadowed.items()),
            ),
            dict(turned_away),
        )


class House:
    """One worker's means: its facts, limits, journal and connections. Clocks come in as functions."""

    def __init__(
        self,
        *,
        counters: Counters,
        journal: JournalWriter,
        ask_owner: AskOwner,
        now_us: Callable[[], int],
        clock_ns: Callable[[], int],
    ) -> None:
        """`now_us`: unix time; `clock_ns`: a monotonic clock."""
        self.facts: Facts | None = None  # None until the books have sent a snapshot
        self.pools: dict[str, Pool] = {}
        self.counters = counters
        self.journal = journal
        self.ask_owner = ask_owner
        self.now_us = now_us
        self.clock_ns = clock_ns
        self.ids = ExchangeIds(now_us() // 1000)
        self.tally = Tally()
        self._owners: OrderedDict[str, str] = OrderedDict()
        self._running: set[Carry] = set()
        self._recorded = asyncio.Event()

    def began(self, job: Job, carry: Carry) -> None:
        """From here to `record` OpenAI may bill."""
        self.tally.began(job)
        self._running.add(carry)

    async def finish(self, deadline_s: float) -> None:
        """Let exchanges whose clients have left come to their end; record what has not by then (loop time) as it stands."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline_s):
                while self._running:
                    self._recorded.clear()
                    await self._recorded.wait()
        for carry in list(self._running):
            carry.abandon()

    def give_back(self, decision: Decision) -> None:
        """Nothing reached OpenAI: return all that was reserved."""
        if isinstance(decision, Admitted):
            nothing = (0,) * len(decision.reservation.limits)
            self.counters.settle(decision.reservation, nothing, self.now_us() // 1000)

    def record(self, job: Job, carry: Carry, decision: Decision, entry: Entry) -> None:
        """The end of every exchange that may have reached OpenAI: into the journal, and out of the reservation."""
        self._running.discard(carry)
        self._recorded.set()
        self.journal.append(entry)
        if entry.answer_id is not None:  # an object OpenAI keeps belongs to the team that made it
            self._owners[entry.answer_id] = entry.team
            if len(self._owners) > OWNERS_MAX:
                self._owners.popitem(last=False)
        self._settle(decision, entry)
        self.tally.ended(job)

    def _settle(self, decision: Decision, entry: Entry) -> None:
        """Replace what was reserved by what was used. An unknown exchange keeps its reservation, unless more than its ask was seen."""
        if not isinstance(decision, Admitted):
            return  # shadow mode let it pass though even the account refused: nothing was taken
        reservation, tokens = decision.reservation, tokens_of(entry.usage)
        keeps = entry.usage_source == "unknown" and tokens <= (entry.ask_tokens or 0)
        actual_units = reservation.costs_units if keeps else units_for(reservation.limits, 1, tokens)
        self.counters.settle(reservation, actual_units, self.now_us() // 1000)

    async def owner_of(self, answer_id: str) -> str | None:
        """The team that made a stored object; None: no team did. Raises BooksAway when only the ledger would know."""
        return self._owners.get(answer_id) or await self.ask_owner(answer_id)
