"""The account's buckets, prepaid: a worker buys a small share and draws on it before it asks the team's slot. Pure.

So a call asks one slot in one trip, as a cluster needs, and a call its team's limits refuse costs the other teams nothing: its
draw is put back. Nothing is admitted that was not bought; what is bought and idle, over all workers, is at most 1 in
SHARES_PER_BUCKET of the bucket, for HOLD_MS_MAX at most.

A share melts as the bucket leaks. A unit drawn some time after it was bought has partly leaked from the bucket by then, and
without melting a worker could let that part through twice in one window: once as the share, once as what leaked. What melted
is not lost; it goes back with the rest when the share is given back, as far as it has not leaked.
"""

from __future__ import annotations

import msgspec

from gateway.admission import Admitted, Ask, Counters, Decision, Limit, Reading, Refused, Reservation
from gateway.admission.decided import Decided
from gateway.units import div_ceil

HOLD_MS_MAX = 250
SHARES_PER_BUCKET = 20  # 5 % of a bucket


class Share:
    """One purchase of one group's account buckets, and what of it is drawn."""

    __slots__ = ("bought_ms", "drawn_units", "purchase")

    def __init__(self, purchase: Reservation, drawn_units: tuple[int, ...], bought_ms: int) -> None:
        self.purchase = purchase
        self.drawn_units = drawn_units
        self.bought_ms = bought_ms

    def draw(self, limits: tuple[Limit, ...], needs_units: tuple[int, ...], now_ms: int) -> bool:
        """Take the needs if all are there, or nothing."""
        if self.is_over(limits, now_ms):
            return False
        age_ms = now_ms - self.bought_ms
        bought_units, drawn_units = self.purchase.costs_units, self.drawn_units
        drawn: list[int] = []
        for index, limit in enumerate(limits):
            melted_units = div_ceil(age_ms * limit.capacity_units, limit.period_ms)
            units = drawn_units[index] + needs_units[index]
            if units + melted_units > bought_units[index]:
                return False
            drawn.append(units)
        self.drawn_units = tuple(drawn)
        return True

    def is_over(self, limits: tuple[Limit, ...], now_ms: int) -> bool:
        """Held long enough, bought by a clock that went back since, or bought under limits that have changed."""
        return not 0 <= now_ms - self.bought_ms <= HOLD_MS_MAX or limits != self.purchase.limits

    def idle_units(self) -> tuple[int, ...]:
        """What is bought and not drawn."""
        return tuple([bought - drawn for bought, drawn in zip(self.purchase.costs_units, self.drawn_units, strict=True)])


class AccountShares:
    """Counters that take the account's part of an ask from prepaid shares, and the rest from the team's slot. One a worker.

    Over any Counters. An ask without account limits goes through as it is. Call `tend` every HOLD_MS_MAX or so: a share
    nobody draws on is given back then (a busy one is given back by the next call that finds it over).
    """

    def __init__(self, counters: Counters, workers: int) -> None:
        """`workers`: all that share the account, on all machines."""
        self._counters = counters
        self._workers = workers
        self._shares: dict[str, Share] = {}  # by the first account bucket, so one a group: bounded by the models on cards
        self._buying: set[str] = set()
        self._dealings = 0  # purchases and put-backs so far
        self._scarce_since_ms: dict[str, int] = {}
        self._decided = Decided()

    async def reserve(self, ask: Ask, now_ms: int) -> Decision:
        """Draw the account's part, then take the team's. When the team is refused, what was drawn is put back."""
        own = _own_count(ask.limits)
        if own == len(ask.limits):
            return await self._counters.reserve(ask, now_ms)
        first = self._decided.first(ask.exchange_id)
        if first is not None:
            return first
        limits, costs_units = ask.limits, ask.costs_units
        share = self._draw(limits[own:], costs_units[own:], now_ms)
        if share is None:
            bought = await self._buy(ask.exchange_id, limits[own:], costs_units[own:], now_ms)
            if isinstance(bought, Refused):
                return msgspec.structs.replace(bought, readings=await self.readings(limits[:own], now_ms))
            share = bought
        try:
            decision = await self._reserve_own(Ask(ask.exchange_id, limits[:own], costs_units[:own]), now_ms)
        except BaseException:  # the store is away or the call was cancelled: whoever decides instead draws for itself
            self._put_back(share, ask.exchange_id, limits[own:], costs_units[own:], now_ms)
            raise
        if isinstance(decision, Refused):
            self._put_back(share, ask.exchange_id, limits[own:], costs_units[own:], now_ms)
            return decision
        marks = decision.reservation.marks + share.purchase.marks
        admitted = Admitted(Reservation(ask.exchange_id, limits, costs_units, marks), decision.readings)
        self._decided.admit(admitted)
        return admitted

    def settle(self, reservation: Reservation, actual_units: tuple[int, ...], now_ms: int) -> None:
        """Settle the team's part, and the account's with the marks of the purchase it was drawn from. Once for each exchange id."""
        limits, costs_units, marks = reservation.limits, reservation.costs_units, reservation.marks
        own = _own_count(limits)
        if own == len(limits):
            self._counters.settle(reservation, actual_units, now_ms)
            return
        exchange_id = reservation.exchange_id
        if not self._decided.settle(exchange_id):
            return
        if own:
            self._counters.settle(Reservation(exchange_id, limits[:own], costs_units[:own], marks[:own]), actual_units[:own], now_ms)
        if actual_units[own:] != costs_units[own:]:  # equal: nothing to change in the account's slot
            # Two slots, two ids: a store settles an id once.
            drawn = Reservation(f"{exchange_id}~", limits[own:], costs_units[own:], marks[own:])
            self._counters.settle(drawn, actual_units[own:], now_ms)

    async def readings(self, limits: tuple[Limit, ...], now_ms: int) -> tuple[Reading, ...]:
        """The buckets as they are. What workers hold as shares counts as used."""
        own = _own_count(limits)
        found: tuple[Reading, ...] = await self._counters.readings(limits[:own], now_ms) if own else ()
        return found + await self._counters.readings(limits[own:], now_ms) if own < len(limits) else found

    def tend(self, now_ms: int) -> None:
        """Give back every share that is over."""
        for share in [share for share in self._shares.values() if share.is_over(share.purchase.limits, now_ms)]:
            self._give_back(share, now_ms)

    def give_back(self, now_ms: int) -> None:
        """Give back every share: the worker drains."""
        for share in list(self._shares.values()):
            self._give_back(share, now_ms)

    def idle_units(self) -> dict[str, int]:
        """What this worker holds idle, by bucket."""
        return {
            limit.bucket: units
            for share in self._shares.values()
            for limit, units in zip(share.purchase.limits, share.idle_units(), strict=True)
        }

    def _draw(self, limits: tuple[Limit, ...], needs_units: tuple[int, ...], now_ms: int) -> Share | None:
        share = self._shares.get(limits[0].bucket)
        return share if share is not None and share.draw(limits, needs_units, now_ms) else None

    async def _buy(self, exchange_id: str, limits: tuple[Limit, ...], needs_units: tuple[int, ...], now_ms: int) -> Share | Refused:
        """A share with the needs drawn from it; just the needs while another purchase is under way, or the bucket lacks a share."""
        group = limits[0].bucket
        if group in self._buying or 0 <= now_ms - self._scarce_since_ms.get(group, now_ms - HOLD_MS_MAX) < HOLD_MS_MAX:
            return await self._purchase(exchange_id, limits, needs_units, needs_units, now_ms)
        if group in self._shares:
            self._give_back(self._shares[group], now_ms)
        amounts_units = tuple([max(need, self._share_units(limit)) for need, limit in zip(needs_units, limits, strict=True)])
        self._buying.add(group)
        try:
            share = await self._purchase(exchange_id, limits, amounts_units, needs_units, now_ms)
        finally:
            self._buying.discard(group)
        if isinstance(share, Share):
            self._scarce_since_ms.pop(group, None)
            self._shares[group] = share
            return share
        if share.wait_ms is None:
            return share
        self._scarce_since_ms[group] = now_ms
        return await self._purchase(exchange_id, limits, needs_units, needs_units, now_ms)

    async def _reserve_own(self, ask: Ask, now_ms: int) -> Decision:
        return await self._counters.reserve(ask, now_ms) if ask.limits else Admitted(Reservation(ask.exchange_id, (), (), ()), ())

    async def _purchase(
        self, exchange_id: str, limits: tuple[Limit, ...], amounts_units: tuple[int, ...], needs_units: tuple[int, ...], now_ms: int
    ) -> Share | Refused:
        decision = await self._counters.reserve(Ask(self._dealing_id(exchange_id), limits, amounts_units), now_ms)
        return decision if isinstance(decision, Refused) else Share(decision.reservation, needs_units, now_ms)

    def _share_units(self, limit: Limit) -> int:
        return limit.capacity_units // (SHARES_PER_BUCKET * self._workers)

    def _put_back(self, share: Share, exchange_id: str, limits: tuple[Limit, ...], units: tuple[int, ...], now_ms: int) -> None:
        """Into the share if it is still drawn on and may hold as much, else into the bucket, as far as it has not leaked."""
        if self._shares.get(limits[0].bucket) is share:
            idle = [held + back for held, back in zip(share.idle_units(), units, strict=True)]
            if all(held <= self._share_units(limit) for held, limit in zip(idle, limits, strict=True)):
                share.drawn_units = tuple([drawn - back for drawn, back in zip(share.drawn_units, units, strict=True)])
                return
        drawn_from = Reservation(self._dealing_id(exchange_id), limits, units, share.purchase.marks)
        self._counters.settle(drawn_from, (0,) * len(units), now_ms)

    def _dealing_id(self, exchange_id: str) -> str:
        """Never used twice: a refused call may ask again under its id, and must not be sold the first purchase once more."""
        self._dealings += 1
        return f"{exchange_id}~{self._dealings}"

    def _give_back(self, share: Share, now_ms: int) -> None:
        """End a share: what was drawn stays in the bucket, the rest returns as far as it has not leaked."""
        self._shares.pop(share.purchase.limits[0].bucket, None)
        self._counters.settle(share.purchase, share.drawn_units, now_ms)


def _own_count(limits: tuple[Limit, ...]) -> int:
    """How many are not the account's; those come last."""
    count = len(limits)
    while count and limits[count - 1].scope == "account":
        count -= 1
    return count
