"""The one algorithm of every limit: a bucket whose exact integer level leaks. Pure.

A state is four integers. `level` and `leaked` count units × period, so a leak of `capacity_units` a millisecond is whole and
nothing is ever rounded; ticks are unix milliseconds. `leaked` is how much left the bucket since it was last empty, and
`busy_since` the tick of that moment: together they tell how much of an old reservation is still in the bucket.

Redis does the same in Lua, whose numbers are doubles: `limit_problem` and LEVEL_MAX keep every sum and product here under 2**53.
One product may pass it, elapsed time × capacity; it is only compared with a level then, and rounding cannot change that answer.

Source: design of the observed buckets, reference/limits-and-errors.md section 2 (continuous refill, no midnight reset).
"""

from __future__ import annotations

from gateway.admission import Limit, Reading

State = tuple[int, int, int, int]
"""(level, tick_ms, leaked, busy_since_ms)"""

Mark = tuple[int, int]
"""(level + leaked, busy_since_ms) right after a reservation: where in the stream of leaking units its last unit stands."""

LEVEL_MAX = 2**51  # three of these (a mark is at most two) stay under 2**53


def limit_problem(units: int, period_ms: int) -> str | None:
    """Why a bucket of this size cannot be kept exactly, as the end of a sentence; None when it can. Asked when configuration loads."""
    if units < 1:
        return f"must be at least 1, not {units}; to refuse a model, leave it out of `models`"
    if units * period_ms > LEVEL_MAX:
        return f"must be at most {LEVEL_MAX // period_ms}, not {units}"
    return None


def leak(state: State | None, limit: Limit, now_ms: int) -> State:
    """The bucket at `now_ms`. None is a bucket that is not kept, which is an empty one. A clock that went back leaks nothing."""
    if state is None:
        return 0, now_ms, 0, now_ms
    level, tick_ms, leaked, busy_since_ms = state
    if now_ms > tick_ms:
        if limit.calendar:
            drained = level if now_ms // limit.period_ms > tick_ms // limit.period_ms else 0
        else:
            drained = (now_ms - tick_ms) * limit.capacity_units
        tick_ms = now_ms
    else:
        drained = 0
    if drained >= level:
        return 0, tick_ms, 0, tick_ms
    leaked += drained
    if leaked > LEVEL_MAX:  # refunds of reservations older than this are dropped, which only ever lets less through
        return level - drained, tick_ms, 0, max(tick_ms, busy_since_ms + 1)
    return level - drained, tick_ms, leaked, busy_since_ms


def take(state: State, limit: Limit, cost_units: int) -> State | None:
    """A leaked bucket with the cost in it; None when it does not fit."""
    level, tick_ms, leaked, busy_since_ms = state
    level += cost_units * limit.period_ms
    if level > limit.capacity_units * limit.period_ms:
        return None
    return level, tick_ms, leaked, busy_since_ms


def mark(state: State) -> Mark:
    """What a reservation remembers of its bucket, right after `take`."""
    level, _, leaked, busy_since_ms = state
    return level + leaked, busy_since_ms


def settle(state: State, limit: Limit, cost_units: int, actual_units: int, reserved: Mark) -> State:
    """A leaked bucket with the reservation's cost replaced by what was used.

    More than the cost is debt, repaid by waiting. Less is refunded, but only what has not leaked yet: what has leaked was
    already given to others, and returning it would let a team exceed capacity + rate × window.
    """
    if actual_units > cost_units:
        return add(state, limit, actual_units - cost_units)
    level, tick_ms, leaked, busy_since_ms = state
    reserved_until, reserved_busy_since_ms = reserved
    left = reserved_until - leaked
    if left <= 0 or reserved_busy_since_ms != busy_since_ms:
        return state
    refund = min((cost_units - actual_units) * limit.period_ms, left, level)
    return level - refund, tick_ms, leaked + refund, busy_since_ms


def add(state: State, limit: Limit, units: int) -> State:
    """A leaked bucket with units in it that were used already, whether they fit or not. It is full at LEVEL_MAX: years of debt."""
    level, tick_ms, leaked, busy_since_ms = state
    level += min(units, LEVEL_MAX // limit.period_ms) * limit.period_ms
    return min(level, LEVEL_MAX), tick_ms, leaked, busy_since_ms


def reading(state: State, limit: Limit) -> Reading:
    """A leaked bucket as headers show it.

    `remaining_units`: whole units that would fit now; debt shows as 0. `reset_ms`: until everything fits again, rounded up.
    """
    level, period_ms, capacity_units = state[0], limit.period_ms, limit.capacity_units
    free = capacity_units * period_ms - level
    reset_ms = -(-level // capacity_units)
    if limit.calendar and level:
        reset_ms = period_ms - state[1] % period_ms
    return Reading(limit, free // period_ms if free > 0 else 0, reset_ms)


def used_units(state: State, limit: Limit) -> int:
    """Units in the bucket, a begun one counted whole. May exceed the capacity: debt, or a limit that was lowered."""
    return -(-state[0] // limit.period_ms)


def wait_ms(state: State, limit: Limit, cost_units: int) -> int | None:
    """Milliseconds until the cost fits, if nobody else takes anything; 0 now, None never. Rounded up."""
    if cost_units > limit.capacity_units:
        return None
    short = state[0] + (cost_units - limit.capacity_units) * limit.period_ms
    if short <= 0:
        return 0
    if limit.calendar:
        return limit.period_ms - state[1] % limit.period_ms
    return -(-short // limit.capacity_units)
