"""The account's buckets, prepaid: a worker buys a small share and draws on it before it asks the team's slot. Pure.

So a call asks one slot in one trip, as a cluster needs, and a call its team's limits refuse costs the other teams nothing: its
draw is put back. Nothing is admitted that was not bought.

A unit may be drawn HOLD_MS_MAX after it was bought, when part of it has leaked from the bucket and was bought again. So that
this lets nothing through twice, the bucket is kept smaller by what leaks in that time (`prepaid`): any window of draws lies in
a window of purchases that is HOLD_MS_MAX longer. That part and what all workers hold idle are together at most 1 in
STRANDED_ONE_IN of the limit.

A share is as large as what was drawn of the one before, not simply as large as it may be. A twentieth of a minute's limit
lasts three seconds of full load: bought every 250 ms, nearly all of it goes back each time, and each refund counts as leaked
in the cap of older refunds, so that long calls lose theirs. (Simulated with calls of 20 s that use a third of what they
reserve, at half the account's rate: 9 % were refused with such shares, none with these.)
"""

from __future__ import annotations

from operator import add, le, sub

import msgspec

from gateway.admission import Admitted, Ask, Counters, Decision, Limit, Reading, Refused, Reservation
from gateway.admission.decided import Decided

HOLD_MS_MAX = 250
STRANDED_ONE_IN = 20  # 5 %


def prepaid(limit: Limit) -> Limit:
    """The bucket that shares of this limit are bought from: HOLD_MS_MAX of leaking smaller, no faster."""
    period_ms = limit.period_ms - HOLD_MS_MAX
    return msgspec.structs.replace(limit, capacity_units=limit.capacity_units * period_ms // limit.period_ms, period_ms=period_ms)


class Till:
    """What one worker knows of one group's account buckets: the share it draws on, and how large the next should be."""

    __slots__ = ("buying", "limits", "limits_asked", "scarce_since_ms", "share", "share_units_max", "sizes_units")

    def __init__(self, limits: tuple[Limit, ...], workers: int) -> None:
        smaller = tuple([prepaid(limit) for limit in limits])
        shares_units = [
            (limit.capacity_units // STRANDED_ONE_IN - (limit.capacity_units - less.capacity_units)) // workers
            for limit, less in zip(limits, smaller, strict=True)
        ]
        holds = min(shares_units) > 1  # else every call buys its own need at once, from the whole bucket
        self.limits_asked = limits
        self.limits = smaller if holds else limits
        self.share_units_max = tuple(shares_units) if holds else (0,) * len(limits)
        self.sizes_units = (0,) * len(limits)
        self.share: Share | None = None
        self.buying = False
        self.scarce_since_ms: int | None = None

    def buys_needs_only(self, now_ms: int) -> bool:
        """While another purchase is under way (two would hold too much), and for a while after the bucket lacked a share."""
        return self.buying or (self.scarce_since_ms is not None and 0 <= now_ms - self.scarce_since_ms < HOLD_MS_MAX)

    def amounts_units(self, needs_units: tuple[int, ...]) -> tuple[int, ...]:
        """What to buy: the needs, or more if more was drawn before."""
        sizes = zip(needs_units, self.sizes_units, self.share_units_max, strict=True)
        return tuple([max(need, min(size, most)) for need, size, most in sizes])


class Share:
    """One purchase, and what of it is drawn."""

    __slots__ = ("bought_ms", "drawn_units", "purchase")

    def __init__(self, purchase: Reservation, drawn_units: tuple[int, ...], bought_ms: int) -> None:
        self.purchase = purchase
        self.drawn_units = drawn_units
        self.bought_ms = bought_ms

    def draw(self, needs_units: tuple[int, ...]) -> bool:
        """Take the needs if all are there, or nothing."""
        drawn_units = tuple(map(add, self.drawn_units, needs_units))
        for drawn, bought in zip(drawn_units, self.purchase.costs_units):  # noqa: B905  strict= costs more than the loop
            if drawn > bought:
                return False
        self.drawn_units = drawn_units
        return True

    def is_over(self, now_ms: int) -> bool:
        """Held long enough, or bought by a clock that went back since."""
        return not 0 <= now_ms - self.bought_ms <= HOLD_MS_MAX

    def idle_units(self) -> tuple[int, ...]:
        """What is bought and not drawn."""
        return tuple(map(sub, self.purchase.costs_units, self.drawn_units))


class AccountShares:
    """Counters that take the account's part of an ask from prepaid shares, and the rest from the team's slot. One a worker.

    Over any Counters. An ask without account limits goes through as it is. Call `tend` every HOLD_MS_MAX or so: a share
    nobody draws on is given back then (a busy one is given back by the next call that finds it over).
    """

    def __init__(self, counters: Counters, workers: int) -> None:
        """`workers`: all that share the account, on all machines."""
        self._counters = counters
        self._workers = workers
        self._tills: dict[str, Till] = {}  # by the first account bucket, so one a group: bounded by the models on cards
        self._dealings = 0  # purchases and put-backs so far
        self._decided = Decided()

    async def reserve(self, ask: Ask, now_ms: int) -> Decision:
        """Draw the account's part, then take the team's. When the team is refused, what was drawn is put back."""
        own = _own_count(ask.limits)
        if own == len(ask.limits):
            return await self._counters.reserve(ask, now_ms)
        first = self._decided.first(ask.exchange_id)
        if first is not None:
            return first
        own_limits, own_costs, needs_units = ask.limits[:own], ask.costs_units[:own], ask.costs_units[own:]
        till = self._till(ask.limits[own:], now_ms)
        share = till.share
        if share is None or share.is_over(now_ms) or not share.draw(needs_units):
            bought = await self._buy(till, ask.exchange_id, needs_units, now_ms)
            if isinstance(bought, Refused):
                return msgspec.structs.replace(bought, readings=await self.readings(own_limits, now_ms))
            share = bought
        try:
            decision = await self._reserve_own(Ask(ask.exchange_id, own_limits, own_costs), now_ms)
        except BaseException:  # the store is away or the call was cancelled: whoever decides instead draws for itself
            self._put_back(till, share, ask.exchange_id, needs_units, now_ms)
            raise
        if isinstance(decision, Refused):
            self._put_back(till, share, ask.exchange_id, needs_units, now_ms)
            return decision
        # The account's limits as they were bought from: settling must do the same arithmetic.
        limits, marks = own_limits + till.limits, decision.reservation.marks + share.purchase.marks
        admitted = Admitted(Reservation(ask.exchange_id, limits, ask.costs_units, marks), decision.readings)
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
        """The buckets as they are. What workers hold as shares counts as used, and so does what `prepaid` keeps back."""
        own = _own_count(limits)
        if own == len(limits):
            return await self._counters.readings(limits, now_ms)
        kept = {limit.bucket: limit for till in self._tills.values() for limit in till.limits}
        of_account = await self._counters.readings(tuple([kept.get(limit.bucket, limit) for limit in limits[own:]]), now_ms)
        shown = [Reading(limit, seen.remaining_units, seen.reset_ms) for seen, limit in zip(of_account, limits[own:], strict=True)]
        return (*(await self._counters.readings(limits[:own], now_ms) if own else ()), *shown)

    def tend(self, now_ms: int) -> None:
        """Give back every share that is over."""
        for till in self._tills.values():
            if till.share is not None and till.share.is_over(now_ms):
                self._give_back(till, till.share, now_ms)

    def give_back(self, now_ms: int) -> None:
        """Give back every share: the worker drains."""
        for till in self._tills.values():
            if till.share is not None:
                self._give_back(till, till.share, now_ms)

    def idle_units(self) -> dict[str, int]:
        """What this worker holds idle, by bucket."""
        return {
            limit.bucket: units
            for till in self._tills.values()
            if till.share is not None
            for limit, units in zip(till.limits, till.share.idle_units(), strict=True)
        }

    def _till(self, limits: tuple[Limit, ...], now_ms: int) -> Till:
        till = self._tills.get(limits[0].bucket)
        if till is not None and till.limits_asked == limits:
            return till
        if till is not None and till.share is not None:  # the account changed its tier
            self._give_back(till, till.share, now_ms)
        till = self._tills[limits[0].bucket] = Till(limits, self._workers)
        return till

    async def _buy(self, till: Till, exchange_id: str, needs_units: tuple[int, ...], now_ms: int) -> Share | Refused:
        """A share with the needs drawn from it; just the needs when the bucket lacks more."""
        if till.buys_needs_only(now_ms):
            return await self._purchase(till, exchange_id, needs_units, needs_units, now_ms)
        if till.share is not None:
            if not till.share.is_over(now_ms):  # drawn empty before its time: a larger one next
                till.sizes_units = tuple([2 * (drawn + need) for drawn, need in zip(till.share.drawn_units, needs_units, strict=True)])
            self._give_back(till, till.share, now_ms)
        amounts_units = till.amounts_units(needs_units)
        till.buying = True
        try:
            bought = await self._purchase(till, exchange_id, amounts_units, needs_units, now_ms)
        finally:
            till.buying = False
        if isinstance(bought, Share):
            till.share = bought
            return bought
        if bought.wait_ms is None or amounts_units == needs_units:
            return bought
        till.scarce_since_ms = now_ms
        return await self._purchase(till, exchange_id, needs_units, needs_units, now_ms)

    async def _reserve_own(self, ask: Ask, now_ms: int) -> Decision:
        return await self._counters.reserve(ask, now_ms) if ask.limits else Admitted(Reservation(ask.exchange_id, (), (), ()), ())

    async def _purchase(
        self, till: Till, exchange_id: str, amounts_units: tuple[int, ...], needs_units: tuple[int, ...], now_ms: int
    ) -> Share | Refused:
        decision = await self._counters.reserve(Ask(self._dealing_id(exchange_id), till.limits, amounts_units), now_ms)
        return decision if isinstance(decision, Refused) else Share(decision.reservation, needs_units, now_ms)

    def _put_back(self, till: Till, share: Share, exchange_id: str, units: tuple[int, ...], now_ms: int) -> None:
        """Into the share if it is still drawn on and may hold as much, else into the bucket, as far as it has not leaked."""
        if till.share is share and all(map(le, map(add, share.idle_units(), units), till.share_units_max)):
            share.drawn_units = tuple(map(sub, share.drawn_units, units))
            return
        purchase = share.purchase
        drawn = Reservation(self._dealing_id(exchange_id), purchase.limits, units, purchase.marks)
        self._counters.settle(drawn, (0,) * len(units), now_ms)

    def _dealing_id(self, exchange_id: str) -> str:
        """Never used twice: a refused call may ask again under its id, and must not be sold the first purchase once more."""
        self._dealings += 1
        return f"{exchange_id}~{self._dealings}"

    def _give_back(self, till: Till, share: Share, now_ms: int) -> None:
        """End a share: what was drawn stays in the bucket, the rest returns as far as it has not leaked."""
        till.share = None
        if share.is_over(now_ms):
            till.sizes_units = share.drawn_units
        self._counters.settle(share.purchase, share.drawn_units, now_ms)


def _own_count(limits: tuple[Limit, ...]) -> int:
    """How many are not the account's; those come last."""
    count = len(limits)
    while count and limits[count - 1].scope == "account":
        count -= 1
    return count
