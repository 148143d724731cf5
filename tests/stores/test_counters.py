"""One table of cases, every store: what a limits store decides, to the last integer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

import pytest

from gateway.admission import PERIOD_MS, Admitted, Ask, Counters, Limit, LimitKind, Refused, Reservation, Scope
from gateway.stores.memory import MemoryStore

T = 1_760_054_400_000  # a UTC midnight, so that calendar cases can count from it
DAY = 86_400_000

Opened = tuple[Counters, Callable[[], Awaitable[None]]]  # a store, and a wait until its background settles are done


@asynccontextmanager
async def memory() -> AsyncIterator[Opened]:
    async def at_once() -> None: ...

    yield MemoryStore(), at_once


STORES: dict[str, Callable[[], AbstractAsyncContextManager[Opened]]] = {"memory": memory}


def limit(kind: LimitKind, capacity_units: int, scope: Scope = "team", subject: str = "team", *, calendar: bool = False) -> Limit:
    return Limit(kind, scope, "team:voice", subject, capacity_units, PERIOD_MS[kind], calendar)


RPM_60 = limit("rpm", 60)  # one a second
RPM_3 = limit("rpm", 3)
RPM_7 = limit("rpm", 7)  # one in 8571.43 ms
RPD_200 = limit("rpd", 200)
RPD_3_CALENDAR = limit("rpd", 3, calendar=True)
TPM_6000 = limit("tpm", 6000)  # 100 a second, 1 in 10 ms
GROUP_TPM_600 = limit("tpm", 600, "group", "group:gpt-4o")
KEY_RPM_2 = limit("rpm", 2, "key", "key:ci")


@dataclass
class Ok:
    """Admitted: remaining and reset_ms of each limit, where the case says them."""

    remaining: tuple[int, ...] = ()
    reset_ms: tuple[int, ...] = ()


@dataclass
class No:
    """Refused."""

    by: Limit
    wait_ms: int | None
    used: int | None = None


@dataclass
class Reserve:
    at: int
    id: str
    costs: dict[Limit, int]
    then: Ok | No


@dataclass
class Settle:
    at: int
    id: str
    actual: tuple[int, ...]


@dataclass
class Look:
    at: int
    of: Limit
    remaining: int
    reset_ms: int


@dataclass
class Case:
    name: str
    steps: list[Reserve | Settle | Look] = field(default_factory=list)


CASES = [
    Case("a bucket never seen is empty", [Look(T, TPM_6000, 6000, 0)]),
    Case("the first request shows one less and the time of one", [Reserve(T, "a", {RPM_60: 1}, Ok((59,), (1000,)))]),
    Case("one under what is left", [Reserve(T, "a", {TPM_6000: 5000}, Ok()), Reserve(T, "b", {TPM_6000: 999}, Ok((1,), (59_990,)))]),
    Case("exactly what is left", [Reserve(T, "a", {TPM_6000: 5000}, Ok()), Reserve(T, "b", {TPM_6000: 1000}, Ok((0,), (60_000,)))]),
    Case("one over what is left", [Reserve(T, "a", {TPM_6000: 5000}, Ok()), Reserve(T, "b", {TPM_6000: 1001}, No(TPM_6000, 10, 5000))]),
    Case("exactly the limit at once", [Reserve(T, "a", {TPM_6000: 6000}, Ok((0,), (60_000,)))]),
    Case("more than the limit can ever hold", [Reserve(T, "a", {TPM_6000: 6001}, No(TPM_6000, None, 0)), Look(T, TPM_6000, 6000, 0)]),
    Case("nothing asked of a full bucket passes", [Reserve(T, "a", {RPM_3: 3}, Ok((0,))), Reserve(T, "b", {RPM_3: 0}, Ok((0,)))]),
    Case(
        "1 ms before the wait is over it still does not fit, after it it does",
        [
            Reserve(T, "a", {RPM_3: 3}, Ok((0,), (60_000,))),
            Reserve(T, "b", {RPM_3: 1}, No(RPM_3, 20_000, 3)),
            Reserve(T + 19_999, "c", {RPM_3: 1}, No(RPM_3, 1, 3)),
            Reserve(T + 20_000, "d", {RPM_3: 1}, Ok((0,), (60_000,))),
        ],
    ),
    Case(
        "full again after reset, not 1 ms before",
        [
            Reserve(T, "a", {RPD_200: 199}, Ok((1,), (199 * 432_000,))),
            Look(T + 199 * 432_000 - 1, RPD_200, 199, 1),
            Look(T + 199 * 432_000, RPD_200, 200, 0),
        ],
    ),
    Case(
        "a day's limit does not empty at midnight",
        [Reserve(T - 1, "a", {RPD_200: 200}, Ok((0,))), Reserve(T, "b", {RPD_200: 1}, No(RPD_200, 431_999, 200))],
    ),
    Case(
        "a calendar day's limit empties at midnight and not before",
        [
            Reserve(T, "a", {RPD_3_CALENDAR: 3}, Ok((0,), (DAY,))),
            Reserve(T + DAY - 1, "b", {RPD_3_CALENDAR: 1}, No(RPD_3_CALENDAR, 1, 3)),
            Reserve(T + DAY, "c", {RPD_3_CALENDAR: 1}, Ok((2,), (DAY,))),
        ],
    ),
    Case(
        "yesterday's reservation refunds nothing today",
        [
            Reserve(T + DAY - 1, "a", {RPD_3_CALENDAR: 3}, Ok((0,))),
            Reserve(T + DAY, "b", {RPD_3_CALENDAR: 2}, Ok((1,))),
            Settle(T + DAY, "a", (0,)),
            Look(T + DAY, RPD_3_CALENDAR, 1, DAY),
        ],
    ),
    Case(
        "all buckets or none: a refusal by the last takes nothing from the first",
        [
            Reserve(T, "a", {RPM_60: 1, GROUP_TPM_600: 600}, Ok((59, 0))),
            Reserve(T, "b", {RPM_60: 1, GROUP_TPM_600: 1}, No(GROUP_TPM_600, 100, 600)),
            Look(T, RPM_60, 59, 1000),
        ],
    ),
    Case(
        "of two that refuse the longer wait is named, wherever it stands",
        [
            Reserve(T, "a", {KEY_RPM_2: 2, RPM_60: 60}, Ok((0, 0))),
            Reserve(T, "b", {KEY_RPM_2: 1, RPM_60: 1}, No(KEY_RPM_2, 30_000, 2)),
            Reserve(T, "c", {RPM_60: 1, KEY_RPM_2: 1}, No(KEY_RPM_2, 30_000, 2)),
            Reserve(T + 30_000, "d", {KEY_RPM_2: 1, RPM_60: 1}, Ok((0, 29))),
        ],
    ),
    Case(
        "a hopeless bucket is named before one to wait for",
        [Reserve(T, "a", {KEY_RPM_2: 2}, Ok()), Reserve(T, "b", {KEY_RPM_2: 1, GROUP_TPM_600: 601}, No(GROUP_TPM_600, None, 0))],
    ),
    Case(
        "the same id is admitted once, also after it was settled",
        [
            Reserve(T, "a", {RPM_60: 1}, Ok((59,), (1000,))),
            Reserve(T + 50, "a", {RPM_60: 1}, Ok((59,), (1000,))),
            Look(T + 50, RPM_60, 59, 950),
            Settle(T + 60, "a", (1,)),
            Reserve(T + 70, "a", {RPM_60: 1}, Ok((59,), (1000,))),
            Look(T + 70, RPM_60, 59, 930),
        ],
    ),
    Case(
        "a refused id asks anew",
        [
            Reserve(T, "a", {RPM_3: 3}, Ok()),
            Reserve(T, "b", {RPM_3: 1}, No(RPM_3, 20_000)),
            Reserve(T + 20_000, "b", {RPM_3: 1}, Ok((0,))),
        ],
    ),
    Case(
        "an unused reservation returns whole at once",
        [Reserve(T, "a", {TPM_6000: 4000}, Ok((2000,))), Settle(T, "a", (1000,)), Look(T, TPM_6000, 5000, 10_000)],
    ),
    Case(
        "a refund may empty the bucket",
        [
            Reserve(T, "a", {TPM_6000: 4000}, Ok()),
            Settle(T, "a", (0,)),
            Look(T, TPM_6000, 6000, 0),
            Reserve(T, "b", {TPM_6000: 6000}, Ok((0,))),
            Settle(T, "b", (6000,)),
            Look(T, TPM_6000, 0, 60_000),
        ],
    ),
    Case(
        "settled twice is settled once",
        [
            Reserve(T, "a", {TPM_6000: 3000}, Ok()),
            Reserve(T, "b", {TPM_6000: 3000}, Ok((0,))),
            Settle(T, "a", (2000,)),
            Settle(T, "a", (2000,)),
            Settle(T, "a", (9000,)),
            Look(T, TPM_6000, 1000, 50_000),
        ],
    ),
    Case(
        "what has leaked is not refunded: it was given to others already",
        [
            Reserve(T, "a", {TPM_6000: 6000}, Ok((0,))),
            Reserve(T + 30_000, "b", {TPM_6000: 3000}, Ok((0,))),
            Settle(T + 30_000, "a", (0,)),
            Look(T + 30_000, TPM_6000, 3000, 30_000),
        ],
    ),
    Case(
        "a reservation of an earlier busy time refunds nothing",
        [
            Reserve(T, "a", {TPM_6000: 100}, Ok((5900,), (1000,))),
            Reserve(T + 1000, "b", {TPM_6000: 6000}, Ok((0,))),
            Settle(T + 1000, "a", (0,)),
            Look(T + 1000, TPM_6000, 0, 60_000),
        ],
    ),
    Case(
        "a refund moves up those behind it: what they leaked meanwhile is not refunded",
        [
            Reserve(T, "a", {TPM_6000: 1000}, Ok((5000,))),
            Reserve(T, "b", {TPM_6000: 1000}, Ok((4000,))),
            Settle(T, "a", (0,)),
            Reserve(T, "c", {TPM_6000: 1000}, Ok((4000,))),
            Settle(T + 10_000, "b", (0,)),
            Look(T + 10_000, TPM_6000, 5000, 10_000),
        ],
    ),
    Case(
        "waits and resets are rounded up to whole milliseconds",
        [
            Reserve(T, "a", {RPM_7: 7}, Ok((0,), (60_000,))),
            Reserve(T, "b", {RPM_7: 1}, No(RPM_7, 8572)),
            Look(T + 8571, RPM_7, 0, 51_429),
            Look(T + 8572, RPM_7, 1, 51_428),
            Look(T + 8573, RPM_7, 1, 51_427),
        ],
    ),
    Case(
        "usage above the reservation is debt, repaid by waiting",
        [
            Reserve(T, "a", {TPM_6000: 6000}, Ok((0,))),
            Settle(T, "a", (9000,)),
            Look(T, TPM_6000, 0, 90_000),
            Reserve(T, "b", {TPM_6000: 1}, No(TPM_6000, 30_010, 9000)),
            Look(T + 30_000, TPM_6000, 0, 60_000),
            Look(T + 30_010, TPM_6000, 1, 59_990),
        ],
    ),
    Case(
        "debt is booked though the bucket has emptied since",
        [Reserve(T, "a", {TPM_6000: 10}, Ok()), Settle(T + 200_000, "a", (500,)), Look(T + 200_000, TPM_6000, 5510, 4900)],
    ),
    Case(
        "each bucket settles by its own",
        [
            Reserve(T, "a", {RPM_60: 1, TPM_6000: 1000}, Ok((59, 5000))),
            Settle(T, "a", (1, 400)),
            Look(T, RPM_60, 59, 1000),
            Look(T, TPM_6000, 5600, 4000),
        ],
    ),
    Case(
        "a raised limit applies at once",
        [
            Reserve(T, "a", {RPM_3: 3}, Ok((0,))),
            Reserve(T, "b", {RPM_3: 1}, No(RPM_3, 20_000)),
            Reserve(T, "c", {RPM_60: 1}, Ok((56,), (4000,))),
        ],
    ),
    Case(
        "a lowered limit applies at once, and what was used before counts",
        [
            Reserve(T, "a", {RPM_60: 5}, Ok((55,))),
            Reserve(T, "b", {RPM_3: 1}, No(RPM_3, 60_000, 5)),
            Reserve(T + 60_000, "c", {RPM_3: 1}, Ok((0,), (60_000,))),
        ],
    ),
    Case(
        "a clock that goes back neither refills nor blocks",
        [
            Reserve(T + 10_000, "a", {TPM_6000: 1000}, Ok((5000,))),
            Reserve(T, "b", {TPM_6000: 1000}, Ok((4000,), (20_000,))),
            Settle(T + 1, "b", (0,)),
            Reserve(T + 10_000, "c", {TPM_6000: 5000}, Ok((0,), (60_000,))),
            Look(T + 10_100, TPM_6000, 10, 59_900),
        ],
    ),
    Case(
        "teams, keys and kinds have buckets of their own",
        [
            Reserve(T, "a", {KEY_RPM_2: 2, RPM_3: 2, limit("tpm", 100): 100}, Ok((0, 1, 0))),
            Reserve(T, "b", {limit("rpm", 2, "key", "key:other"): 1, RPM_3: 1}, Ok((1, 0))),
        ],
    ),
]


class Run:
    """The one place where a case touches a store."""

    def __init__(self, store: Counters, wait_for_settles: Callable[[], Awaitable[None]]) -> None:
        self.store = store
        self.wait_for_settles = wait_for_settles
        self.reservations: dict[str, Reservation] = {}

    async def step(self, step: Reserve | Settle | Look) -> None:
        if isinstance(step, Reserve):
            decision = await self.store.reserve(Ask(step.id, tuple(step.costs), tuple(step.costs.values())), step.at)
            self.check(decision, step)
        elif isinstance(step, Settle):
            self.store.settle(self.reservations[step.id], step.actual, step.at)
            await self.wait_for_settles()
        else:
            (reading,) = await self.store.readings((step.of,), step.at)
            assert (reading.remaining_units, reading.reset_ms) == (step.remaining, step.reset_ms), step

    def check(self, decision: Admitted | Refused, step: Reserve) -> None:
        if isinstance(step.then, Ok):
            assert isinstance(decision, Admitted), step
            self.reservations[step.id] = decision.reservation
            assert [reading.limit.bucket for reading in decision.readings] == [limit.bucket for limit in step.costs]
            if step.then.remaining:
                assert tuple(reading.remaining_units for reading in decision.readings) == step.then.remaining, step
            if step.then.reset_ms:
                assert tuple(reading.reset_ms for reading in decision.readings) == step.then.reset_ms, step
        else:
            assert isinstance(decision, Refused), step
            assert (decision.limit, decision.wait_ms) == (step.then.by, step.then.wait_ms), step
            assert decision.requested_units == step.costs[step.then.by]
            assert step.then.used is None or decision.used_units == step.then.used
            assert len(decision.readings) == len(step.costs)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("store", STORES.values(), ids=STORES.keys())
def test_every_store_decides_alike(store: Callable[[], AbstractAsyncContextManager[Opened]], case: Case) -> None:
    async def play() -> None:
        async with store() as opened:
            run = Run(*opened)
            for step in case.steps:
                await run.step(step)

    asyncio.run(play())
