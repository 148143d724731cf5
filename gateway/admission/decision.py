"""All buckets of an ask, or none: the decision, and what it leaves behind. Pure.

Stores load states, call this, and write the states back; Redis does the same in one script.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.admission import Admitted, Ask, Decision, Reading, Refused, Reservation
from gateway.admission.bucket import Mark, State, leak, mark, reading, settle, take, used_units, wait_ms


def decide(states: Sequence[State | None], ask: Ask, now_ms: int) -> tuple[Decision, list[State] | None]:
    """Admit into every bucket or refuse; with the states to keep, or None: a refusal keeps nothing. `states[i]` is of `ask.limits[i]`."""
    limits, costs_units = ask.limits, ask.costs_units
    taken: list[State] = []
    marks: list[Mark] = []
    readings: list[Reading] = []
    for state, limit, cost_units in zip(states, limits, costs_units):  # noqa: B905  strict= costs as much as the loop's arithmetic
        after = take(leak(state, limit, now_ms), limit, cost_units)
        if after is None:
            return refuse(states, ask, now_ms), None
        taken.append(after)
        marks.append(mark(after))
        readings.append(reading(after, limit))
    return Admitted(Reservation(ask.exchange_id, limits, costs_units, tuple(marks)), tuple(readings)), taken


def refuse(states: Sequence[State | None], ask: Ask, now_ms: int) -> Refused:
    """Names the bucket to wait for longest, so that whoever waits as told is not refused by the next one."""
    leaked = [leak(state, limit, now_ms) for state, limit in zip(states, ask.limits, strict=True)]
    worst, worst_wait_ms = 0, 0
    for index, (state, limit, cost_units) in enumerate(zip(leaked, ask.limits, ask.costs_units, strict=True)):
        wait = wait_ms(state, limit, cost_units)
        if wait is None:
            return _refused(leaked, ask, index, None)
        if wait > worst_wait_ms:
            worst, worst_wait_ms = index, wait
    return _refused(leaked, ask, worst, worst_wait_ms)


def _refused(leaked: Sequence[State], ask: Ask, index: int, wait: int | None) -> Refused:
    limit = ask.limits[index]
    readings = tuple([reading(state, limit) for state, limit in zip(leaked, ask.limits, strict=True)])
    return Refused(limit, used_units(leaked[index], limit), ask.costs_units[index], wait, readings)


def settled(states: Sequence[State | None], reservation: Reservation, actual_units: Sequence[int], now_ms: int) -> list[State]:
    """The states after settling, also those that are empty now: who drops them would drop what `busy_since` says."""
    costs_units, marks = reservation.costs_units, reservation.marks
    after: list[State] = []
    for index, limit in enumerate(reservation.limits):
        state = leak(states[index], limit, now_ms)
        after.append(settle(state, limit, costs_units[index], actual_units[index], marks[index]))
    return after
