"""The bucket: against OpenAI's own messages, an oracle in fractions, and the traps it was designed around."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.admission import PERIOD_MS, Limit, LimitKind
from gateway.admission.bucket import LEVEL_MAX, Mark, State, add, leak, limit_problem, mark, reading, settle, take, used_units, wait_ms
from gateway.units import duration_text

T = 1_760_054_400_000  # a UTC midnight
DAY = 86_400_000


def limit(capacity_units: int, kind: LimitKind = "tpm", *, calendar: bool = False) -> Limit:
    return Limit(kind, "team", "team:a", "team", capacity_units, PERIOD_MS[kind], calendar)


def filled(of: Limit, units: int) -> State:
    return add(leak(None, of, T), of, units)


# Source: reference/limits-and-errors.md section 2, the messages and headers observed.
MESSAGES = [
    ("tpm", 30_000, 29_937, 385, "644ms"),
    ("tpm", 10_000, 8_554, 3_082, "9.816s"),
    ("tpm", 30_000, 14_567, 24_754, "18.642s"),
    ("tpm", 30_000, 28_039, 3_906, "3.89s"),
    ("tpm", 30_000, 18_928, 11_159, "174ms"),
    ("tpm", 40_000, 39_800, 500, "450ms"),
    ("rpd", 10_000, 10_000, 1, "8.64s"),
    ("rpd", 200, 200, 1, "7m12s"),
    ("rpd", 1_000, 1_000, 1, "1m26.4s"),
    ("rpm", 3, 3, 1, "20s"),
]
HEADERS = [
    ("rpm", 3_000, 2_999, "20ms"),
    ("rpm", 5_000, 4_999, "12ms"),
    ("rpd", 10_000, 9_999, "8.64s"),
    ("tpm", 160_000, 159_976, "9ms"),
    ("tpm", 10_000, 9_481, "3.114s"),
    ("tpm", 60_000, 57_000, "3s"),
]


@pytest.mark.parametrize("kind, capacity, used, requested, wait", MESSAGES)
def test_waits_are_those_openai_prints(kind: LimitKind, capacity: int, used: int, requested: int, wait: str) -> None:
    of = limit(capacity, kind)
    state = filled(of, used)
    told_ms = wait_ms(state, of, requested)
    assert told_ms is not None
    assert duration_text(told_ms * 1000) == wait
    assert used_units(state, of) == used
    assert take(leak(state, of, T + told_ms - 1), of, requested) is None
    assert take(leak(state, of, T + told_ms), of, requested) is not None


@pytest.mark.parametrize("kind, capacity, remaining, reset", HEADERS)
def test_resets_are_those_openai_prints(kind: LimitKind, capacity: int, remaining: int, reset: str) -> None:
    of = limit(capacity, kind)
    seen = reading(filled(of, capacity - remaining), of)
    assert (seen.remaining_units, duration_text(seen.reset_ms * 1000)) == (remaining, reset)


class Oracle:
    """The same promise told differently: a queue of parcels in fractions of units, leaking from its front.

    A refund takes what is left of the parcels up to its own from the front as well, so that none is refunded that has leaked.
    """

    def __init__(self) -> None:
        self.parcels: list[tuple[int, Fraction]] = []
        self.tick_ms = T

    def level(self) -> Fraction:
        return sum((units for _, units in self.parcels), Fraction())

    def drain(self, units: Fraction) -> None:
        while units > 0 and self.parcels:
            number, first = self.parcels.pop(0)
            if first > units:
                self.parcels.insert(0, (number, first - units))
            units -= first

    def leak(self, capacity: int, period_ms: int, now_ms: int) -> None:
        self.drain(Fraction(max(0, now_ms - self.tick_ms) * capacity, period_ms))
        self.tick_ms = max(self.tick_ms, now_ms)

    def put(self, number: int, units: int) -> None:
        if units:
            self.parcels.append((number, Fraction(units)))

    def refund(self, number: int, units: int) -> None:
        self.drain(min(Fraction(units), sum((left for other, left in self.parcels if other <= number), Fraction())))


STEPS = st.lists(
    st.tuples(
        st.sampled_from((0, 0, 1, 7, 100, 999, 20_000, 60_000, -50)),  # milliseconds since the step before
        st.sampled_from(("reserve", "reserve", "settle")),
        st.integers(0, 130),  # what is asked, or was used, in percent of the capacity or of the cost
        st.integers(0, 9),  # which of the open reservations
        st.sampled_from((600, 600, 600, 61)),  # the limit at that moment: tiers change
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_the_bucket_agrees_with_fractions(steps: list[tuple[int, str, int, int, int]]) -> None:
    oracle, state, now_ms = Oracle(), leak(None, limit(600), T), T
    open_reservations: list[tuple[int, int, Mark]] = []
    for number, (passed_ms, what, percent, which, capacity) in enumerate(steps):
        now_ms += passed_ms
        of = limit(capacity)
        oracle.leak(capacity, of.period_ms, now_ms)
        state = leak(state, of, now_ms)
        if what == "reserve":
            cost = capacity * percent // 100
            taken = take(state, of, cost)
            assert (taken is not None) == (oracle.level() + cost <= capacity)
            if taken is not None:
                state = taken
                oracle.put(number, cost)
                open_reservations.append((number, cost, mark(state)))
        elif open_reservations:
            reserved, cost, marked = open_reservations.pop(which % len(open_reservations))
            actual = cost * percent // 100
            state = settle(state, of, cost, actual, marked)
            if actual > cost:
                oracle.put(number, actual - cost)
            else:
                oracle.refund(reserved, cost - actual)
        assert Fraction(state[0], of.period_ms) == oracle.level()
        seen = reading(state, of)
        assert seen.remaining_units == max(0, (capacity - oracle.level()) // 1)
        assert leak(state, of, state[1] + seen.reset_ms)[0] == 0


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from((0, 0, 1, 500, 15_000, 30_000, 60_000)), st.integers(1, 100), st.integers(0, 150), st.integers(0, 5)),
        max_size=40,
    )
)
def test_no_window_holds_more_than_capacity_and_rate(steps: list[tuple[int, int, int, int]]) -> None:
    """Usage at the time it was admitted; what went above its reservation is the recorded overshoot and counts apart."""
    of = limit(100)
    state, now_ms = leak(None, of, T), T
    admitted: list[list[int]] = []  # [when, usage within the reservation]
    pending: list[tuple[list[int], int, int, Mark]] = []
    for passed_ms, cost, percent, which in steps:
        now_ms += passed_ms
        state = leak(state, of, now_ms)
        if which < len(pending):
            line, reserved, actual, marked = pending.pop(which)
            line[1] = min(reserved, actual)
            state = settle(state, of, reserved, actual, marked)
        taken = take(state, of, cost)
        if taken is not None:
            state = taken
            admitted.append([now_ms, cost])
            pending.append((admitted[-1], cost, cost * percent // 100, mark(state)))
    for start, (since_ms, _) in enumerate(admitted):
        used = 0
        for until_ms, usage in admitted[start:]:
            used += usage
            assert used * of.period_ms <= of.capacity_units * (of.period_ms + until_ms - since_ms)


def test_returning_the_whole_reservation_would_break_the_window() -> None:
    """Half of the first reservation has leaked and was given to the second; only the other half may come back."""
    of = limit(60)
    first = take(leak(None, of, T), of, 60)
    assert first is not None
    second = take(leak(first, of, T + 30_000), of, 30)
    assert second is not None
    after = settle(second, of, 60, 0, mark(first))
    assert reading(after, of).remaining_units == 30


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 800), st.integers(1, 700), st.integers(0, 100_000))
def test_after_the_wait_the_same_call_passes_and_1_ms_before_it_does_not(used: int, cost: int, later_ms: int) -> None:
    of = limit(700)  # a unit in 85.7 ms
    state = leak(filled(of, used), of, T + later_ms)
    told_ms = wait_ms(state, of, cost)
    assert told_ms is not None
    now_ms = T + later_ms + told_ms
    assert take(leak(state, of, now_ms), of, cost) is not None
    if told_ms:
        assert take(leak(state, of, now_ms - 1), of, cost) is None


def test_a_refund_that_empties_the_bucket_is_kept_and_forgets_nothing() -> None:
    """The trap of settling without writing an empty bucket: the old level would stand."""
    of = limit(60)
    taken = take(leak(None, of, T), of, 60)
    assert taken is not None
    assert settle(taken, of, 60, 0, mark(taken))[0] == 0


def test_each_busy_time_has_its_own_name_however_the_clock_runs() -> None:
    """The trap of `busy_since`: one that came again would match reservations of an earlier busy time."""
    of = limit(60)
    taken = take(leak(None, of, T), of, 1)
    assert taken is not None
    emptied = leak(taken, of, T + 1000)
    back = leak(emptied, of, T)
    assert mark(taken)[1] == T
    assert back[3] == T + 1000
    full = take(back, of, 60)
    assert full is not None
    assert settle(full, of, 1, 0, mark(taken)) == full


def test_past_2_to_the_51_the_count_of_leaked_starts_again_and_older_refunds_are_dropped() -> None:
    of = limit(60)
    before = (600_000, T, LEVEL_MAX - 60, T - 5)
    kept = leak(before, of, T + 1)
    assert kept == (599_940, T + 1, LEVEL_MAX, T - 5)
    rolled = leak(before, of, T + 2)
    assert rolled == (599_880, T + 2, 0, T + 2)
    assert settle(rolled, of, 10, 0, mark(before)) == rolled
    same_tick = leak((600_000, T, LEVEL_MAX + 1, T), of, T)  # refunds count as leaked without time passing
    assert same_tick == (600_000, T, 0, T + 1)


@pytest.mark.parametrize("kind", ["rpm", "rpd", "tpm"])
def test_sizes_are_refused_exactly_where_numbers_would_stop_being_exact(kind: LimitKind) -> None:
    period_ms = PERIOD_MS[kind]
    most = LEVEL_MAX // period_ms
    assert limit_problem(1, period_ms) is None
    assert limit_problem(most, period_ms) is None
    assert str(most) in (limit_problem(most + 1, period_ms) or "")
    assert "at least 1" in (limit_problem(0, period_ms) or "")
    assert limit_problem(-1, period_ms) is not None


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, DAY), st.booleans(), st.integers(0, 10**18)), max_size=30))
def test_every_kept_number_is_exact_in_a_double(steps: list[tuple[int, bool, int]]) -> None:
    of = limit(LEVEL_MAX // PERIOD_MS["rpd"], "rpd")
    state, now_ms, marks = leak(None, of, T), T, list[tuple[int, Mark]]()
    for passed_ms, reserves, units in steps:
        now_ms += passed_ms
        state = leak(state, of, now_ms)
        if reserves:
            cost = units % (of.capacity_units + 1)
            taken = take(state, of, cost)
            if taken is not None:
                state = taken
                marks.append((cost, mark(taken)))
        elif marks:
            cost, marked = marks.pop()
            state = settle(state, of, cost, units, marked)
        assert max(*state, *mark(state), state[0] + of.capacity_units * of.period_ms) < 2**53
        assert min(state) >= 0
        assert state[0] <= LEVEL_MAX


def test_debt_ends_at_the_largest_level_that_is_kept() -> None:
    of = limit(60)
    taken = take(leak(None, of, T), of, 60)
    assert taken is not None
    assert settle(taken, of, 60, 10**18, mark(taken))[0] == LEVEL_MAX
    assert add((LEVEL_MAX - 1, T, 0, T), of, 1)[0] == LEVEL_MAX


def test_a_calendar_day_holds_its_limit_and_empties_at_utc_midnight() -> None:
    of = limit(10, "rpd", calendar=True)
    taken = take(leak(None, of, T + 1), of, 10)
    assert taken is not None
    late = leak(taken, of, T + DAY - 1)
    assert (reading(late, of).remaining_units, reading(late, of).reset_ms, wait_ms(late, of, 1)) == (0, 1, 1)
    assert reading(leak(late, of, T + DAY), of).remaining_units == 10
    assert reading(settle(late, of, 10, 4, mark(taken)), of).remaining_units == 6
