"""Steps 5 and 9, admit and settle: limits as values in, a decision out. Pure.

`Counters` is the port that stores implement (memory now, Redis later); both do the arithmetic of `bucket.py`, for all
buckets of an ask as `decision.py` says. `shares.py` stands before a store and prepays the account's buckets. `limits.py`
makes limits of facts, `answers.py` makes headers and errors of decisions.
Never knows the clock, the network or prices: time, limits and quantities come in as arguments.
When a store is away the worker follows `on_store_error`; the memory store is never away.
"""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

LimitKind = Literal["rpm", "rpd", "tpm"]
Scope = Literal["key", "team", "group", "account"]
PERIOD_MS = {"rpm": 60_000, "tpm": 60_000, "rpd": 86_400_000}


class Limit(msgspec.Struct, frozen=True, gc=False):
    """One bucket and its size. `slot` is what is decided together: "team:<name>" or "account:<name>"."""

    kind: LimitKind
    scope: Scope
    slot: str
    subject: str  # what the bucket belongs to inside the slot: "key:<id>", "team", "group:<name>", "model:<name>"
    capacity_units: int
    period_ms: int
    calendar: bool = False  # empties at UTC midnight instead of leaking; its period is a day
    bucket: str = ""  # the bucket's key, with the slot as hash tag: `{team:voice}:group:gpt-4o:tpm`

    def __post_init__(self) -> None:
        # Made once for each limit: it is looked up on every call.
        msgspec.structs.force_setattr(self, "bucket", f"{{{self.slot}}}:{self.subject}:{self.kind}")


class Ask(msgspec.Struct, frozen=True, gc=False):
    """The worst case of one exchange: what each of its buckets must hold. `costs_units[i]` belongs to `limits[i]`.

    Limits of scope "account" come last; all others are of one slot.
    """

    exchange_id: str
    limits: tuple[Limit, ...]
    costs_units: tuple[int, ...]


class Reading(msgspec.Struct, frozen=True, gc=False):
    """A bucket as seen by the decision itself: what headers show."""

    limit: Limit
    remaining_units: int
    reset_ms: int


class Reservation(msgspec.Struct, frozen=True, gc=False):
    """The ask, set aside. `marks[i]` is (level + leaked, busy_since) of `limits[i]` right after the reservation: what caps the refund."""

    exchange_id: str
    limits: tuple[Limit, ...]
    costs_units: tuple[int, ...]
    marks: tuple[tuple[int, int], ...]


class Admitted(msgspec.Struct, frozen=True, gc=False):
    """All buckets were taken."""

    reservation: Reservation
    readings: tuple[Reading, ...]


class Refused(msgspec.Struct, frozen=True, gc=False):
    """A bucket said no, and none was changed. Of several the one to wait for longest. `wait_ms` None: this ask can never fit."""

    limit: Limit
    used_units: int
    requested_units: int
    wait_ms: int | None
    readings: tuple[Reading, ...]


Decision = Admitted | Refused


class Counters(Protocol):
    """The port to a limits store."""

    async def reserve(self, ask: Ask, now_ms: int) -> Decision:
        """Take every bucket of the ask, or none.

        Safe to repeat with the same exchange id: the first admission is returned again. A refusal left nothing behind,
        so its repetition is decided afresh.
        """

    def settle(self, reservation: Reservation, actual_units: tuple[int, ...], now_ms: int) -> None:
        """Replace each reserved cost by what was used, in the background; once for each exchange id, however often it is called."""

    async def readings(self, limits: tuple[Limit, ...], now_ms: int) -> tuple[Reading, ...]:
        """The buckets as they are, changing nothing."""
