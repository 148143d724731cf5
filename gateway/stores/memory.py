"""Counters of one worker, in its own memory. Never away; empty after a restart, so books refill the daily buckets from the ledger."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.admission import Admitted, Ask, Decision, Limit, Reading, Reservation
from gateway.admission.bucket import State, add, leak, reading
from gateway.admission.decided import Decided
from gateway.admission.decision import decide, settled

_EMPTY: tuple[None, None] = (None, None)


class MemoryStore:
    """Every bucket that is not empty, and some that are. Implements `Counters`; an ask may mix slots here."""

    __slots__ = ("_decided", "_kept", "_to_look_at")

    def __init__(self) -> None:
        self._kept: dict[str, tuple[State, Limit]] = {}  # by bucket; the limit as it was last asked with
        self._decided = Decided()
        self._to_look_at: Iterator[str] = iter(())

    def __len__(self) -> int:
        """Buckets that are kept, at most about twice those that are not empty."""
        return len(self._kept)

    async def reserve(self, ask: Ask, now_ms: int) -> Decision:
        """Take every bucket of the ask, or none. Never suspends."""
        return self.reserve_now(ask, now_ms)

    def reserve_now(self, ask: Ask, now_ms: int) -> Decision:
        """`reserve` for callers that are not coroutines."""
        first = self._decided.first(ask.exchange_id)
        if first is not None:
            return first
        decision, states = decide(self._states(ask.limits), ask, now_ms)
        if states is not None and type(decision) is Admitted:
            self._keep(ask.limits, states, now_ms)
            self._decided.admit(decision)
        return decision

    def settle(self, reservation: Reservation, actual_units: tuple[int, ...], now_ms: int) -> None:
        """Replace each reserved cost by what was used, at once; the second time for an exchange id does nothing."""
        if self._decided.settle(reservation.exchange_id):
            limits = reservation.limits
            self._keep(limits, settled(self._states(limits), reservation, actual_units, now_ms), now_ms)

    async def readings(self, limits: tuple[Limit, ...], now_ms: int) -> tuple[Reading, ...]:
        """The buckets as they are, changing nothing."""
        return self.readings_now(limits, now_ms)

    def readings_now(self, limits: tuple[Limit, ...], now_ms: int) -> tuple[Reading, ...]:
        """`readings` for callers that are not coroutines."""
        return tuple(reading(leak(state, limit, now_ms), limit) for state, limit in zip(self._states(limits), limits, strict=True))

    def limits_kept(self) -> list[Limit]:
        """The limits of all kept buckets, as they were last asked with: for whoever lists the live buckets."""
        return [limit for _, limit in self._kept.values()]

    def refill(self, limit: Limit, units_used: int, at_ms: int) -> None:
        """Put in what the ledger says was used at `at_ms`. Before any call is let in, and oldest first: each leaks since its own time."""
        state = add(leak(self._states((limit,))[0], limit, at_ms), limit, units_used)
        self._keep((limit,), [state], at_ms)

    def set_back(self, now_ms: int) -> None:
        """The clock was set back: buckets that were touched at a later hour leak from now on, or they would hold until that hour."""
        for bucket, ((level, tick_ms, leaked, busy_since_ms), limit) in self._kept.items():
            if tick_ms > now_ms:
                self._kept[bucket] = (level, now_ms, leaked, busy_since_ms), limit

    def _states(self, limits: tuple[Limit, ...]) -> list[State | None]:
        kept = self._kept
        return [kept.get(limit.bucket, _EMPTY)[0] for limit in limits]

    def _keep(self, limits: tuple[Limit, ...], states: list[State], now_ms: int) -> None:
        kept = self._kept
        count_before = len(kept)
        for limit, state in zip(limits, states):  # noqa: B905  as many as there are limits
            kept[limit.bucket] = (state, limit)
        if len(kept) > count_before:
            for _ in range(2 * (len(kept) - count_before)):
                self._look_at_one(now_ms)

    def _look_at_one(self, now_ms: int) -> None:
        """Drop one bucket if it is empty. Two are looked at for each that is made: that bounds memory and never pauses for a sweep."""
        bucket = next(self._to_look_at, None)
        if bucket is None:
            self._to_look_at = iter(tuple(self._kept))
        elif bucket in self._kept:
            state, limit = self._kept[bucket]
            if leak(state, limit, now_ms)[0] == 0:
                del self._kept[bucket]
