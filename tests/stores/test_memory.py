"""The memory store: what it keeps, what it forgets, and how it starts."""

from __future__ import annotations

import asyncio

from gateway.admission import Admitted, Ask, Limit, Refused
from gateway.stores.memory import MemoryStore

T = 1_760_000_000_000
RPD = Limit("rpd", "team", "team:voice", "team", 1000, 86_400_000)


def team_limit(number: int) -> Limit:
    return Limit("rpm", "team", f"team:{number}", "team", 60, 60_000)


def test_idle_buckets_are_dropped_and_busy_ones_are_kept() -> None:
    store = MemoryStore()
    busy = Limit("rpm", "team", "team:busy", "team", 1, 60_000)
    store.reserve_now(Ask("busy", (busy,), (1,)), T)
    for number in range(1000):
        store.reserve_now(Ask(f"x{number}", (team_limit(number),), (1,)), T + number * 10)  # each is empty a second later
    assert len(store) <= 2 * 102
    assert isinstance(store.reserve_now(Ask("again", (busy,), (1,)), T + 10_000), Refused)


def test_all_buckets_that_are_not_empty_are_kept() -> None:
    store = MemoryStore()
    for number in range(1000):
        store.reserve_now(Ask(f"x{number}", (team_limit(number),), (1,)), T)
    assert len(store) == 1000
    assert {limit.slot for limit in store.limits_kept()} == {f"team:{number}" for number in range(1000)}


def test_a_bucket_made_anew_does_not_know_reservations_of_the_one_before() -> None:
    """The trap of a `busy_since` that counts: it would start again at the same value, and the refund would be given."""
    store = MemoryStore()
    (limit,) = limits = (team_limit(1),)
    old = store.reserve_now(Ask("old", limits, (1,)), T)
    assert isinstance(old, Admitted)
    for number in range(2, 10):
        store.reserve_now(Ask(f"x{number}", (team_limit(number),), (60,)), T + 5000)
    assert limit not in store.limits_kept()
    store.reserve_now(Ask("new", limits, (60,)), T + 5000)
    store.settle(old.reservation, (0,), T + 5000)
    (reading,) = asyncio.run(store.readings(limits, T + 5000))
    assert reading.remaining_units == 0


def test_a_refused_ask_and_a_look_leave_nothing_behind() -> None:
    store = MemoryStore()
    limits = (team_limit(1), team_limit(2))
    assert isinstance(store.reserve_now(Ask("x", limits, (1, 61)), T), Refused)
    asyncio.run(store.readings(limits, T))
    assert len(store) == 0


def test_a_daily_bucket_is_refilled_from_the_ledger_hour_by_hour() -> None:
    store = MemoryStore()
    hour_ms = 3_600_000
    store.refill(RPD, 600, T - 6 * hour_ms)  # a quarter of a day ago: 250 have leaked
    store.refill(RPD, 100, T)
    (reading,) = asyncio.run(store.readings((RPD,), T))
    assert reading.remaining_units == 1000 - 600 + 250 - 100


def test_a_refill_above_the_limit_is_debt() -> None:
    store = MemoryStore()
    store.refill(RPD, 1500, T)
    refused = store.reserve_now(Ask("x", (RPD,), (1,)), T)
    assert isinstance(refused, Refused)
    assert (refused.used_units, refused.wait_ms) == (1500, 501 * 86_400)


def test_an_ask_may_mix_slots_and_an_ask_without_limits_passes() -> None:
    store = MemoryStore()
    mixed = Ask("x", (team_limit(1), team_limit(2)), (1, 1))
    assert isinstance(store.reserve_now(mixed, T), Admitted)
    assert isinstance(store.reserve_now(Ask("y", (), ()), T), Admitted)


def test_a_clock_that_was_set_back_locks_nobody_out() -> None:
    """A bucket leaks from its last tick on: touched at a later hour, it would stay as full as it is until that hour."""
    store = MemoryStore()
    (limit,) = limits = (team_limit(1),)
    earlier = T - 7_200_000
    for number in range(60):
        assert isinstance(store.reserve_now(Ask(f"x{number}", limits, (1,)), T), Admitted)
    store.set_back(earlier)
    refused = store.reserve_now(Ask("at once", limits, (1,)), earlier)
    assert isinstance(refused, Refused)  # it gives nothing back that had not leaked
    assert refused.wait_ms == 1000
    assert isinstance(store.reserve_now(Ask("a second later", limits, (1,)), earlier + 1000), Admitted)
    assert isinstance(store.reserve_now(Ask("and no more", limits, (1,)), earlier + 1000), Refused)
    (reading,) = store.readings_now(limits, earlier + 61_000)
    assert reading.remaining_units == limit.capacity_units
