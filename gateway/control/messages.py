"""Every message of the control socket, and the two unions that each end decodes. Values.

Encoded as MessagePack maps with a `type`: books and worker may be of neighbouring versions during a roll-out, so unknown
keys are ignored and new ones have defaults.
"""

from __future__ import annotations

import msgspec

from gateway.admission import LimitKind, Scope

DOWN_BYTES_MAX = 64 * 1024 * 1024  # a snapshot of 10,000 teams is about 10 MB
UP_BYTES_MAX = 8 * 1024 * 1024  # a report or the limits of 10,000 teams
LOOP_LAGS_MAX = 256  # samples in one report: the worker measures a few a second
LIMIT_READINGS_MAX = 20_000  # of one answer; the worker names the fullest buckets first
TEXT_CHARS_MAX = 500  # of any reason or id


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """Up, first: who listens here. `refilled` says that this process has its buckets from the ledger already."""

    worker: str
    boot: int  # of the journal: which life of this worker
    pid: int
    version: str  # of the program
    refilled: bool = False


class Refusal(msgspec.Struct, frozen=True):
    """Calls that were refused alike since the last report. They write no line each."""

    team: str
    model: str | None
    operation: str
    limit: str | None  # rpm, rpd, tpm, ...; None: refused for something else, as `status` says
    status: int
    count: int


class Decided(msgspec.Struct, frozen=True):
    """Decisions of one kind since the last report that let calls pass: `decision` is allow, or degraded (shadow mode, store away)."""

    team: str
    limit: str
    decision: str
    count: int


class Report(msgspec.Struct, frozen=True, tag="report"):
    """Up, each second: gauges as they are now, counts since the last report. What is 0 is left out."""

    in_flight: dict[str, int] = {}  # by team
    streams_active: dict[str, int] = {}  # by kind: sse, realtime
    connections: int = 0
    refusals: tuple[Refusal, ...] = ()
    decisions: tuple[Decided, ...] = ()
    auth_failures: dict[str, int] = {}  # by reason: missing, unknown, revoked, expired
    loop_lags_us: tuple[int, ...] = ()  # at most LOOP_LAGS_MAX
    journal_ready: bool = True
    journal_state: str = "ready"  # full or failed when it is not
    journal_free_bytes: int | None = None  # None: not known
    upstream_idle: int = 0
    upstream_busy: int = 0
    draining: bool = False


class Taken(msgspec.Struct, frozen=True, tag="taken"):
    """Up: the snapshot of this version rules from the next exchange on."""

    version: int


class NotTaken(msgspec.Struct, frozen=True, tag="not_taken"):
    """Up: the snapshot could not be taken; the one before rules on."""

    version: int
    reason: str


class LimitReading(msgspec.Struct, frozen=True):
    """One bucket as it is now."""

    team: str | None  # None: it belongs to an upstream account
    scope: Scope
    subject: str  # key:<id>, team, group:<name>, model:<name>; account:<name>:group:<name>
    kind: LimitKind
    capacity_units: int
    used_units: int
    remaining_units: int
    reset_ms: int


class LimitsAnswer(msgspec.Struct, frozen=True, tag="limits"):
    """Up: what AskLimits asked for."""

    request_id: int
    readings: tuple[LimitReading, ...]
    left_out: int = 0  # buckets beyond LIMIT_READINGS_MAX


class AskOwner(msgspec.Struct, frozen=True, tag="ask_owner"):
    """Up: which team made this stored answer?"""

    request_id: int
    answer_id: str


class Attach(msgspec.Struct, frozen=True, tag="attach"):
    """Down, first: these are the books. Only now does this connection replace an older one."""

    pid: int


class PushSnapshot(msgspec.Struct, frozen=True, tag="snapshot"):
    """Down: configuration, encoded by `config`. Answered by Taken or NotTaken."""

    version: int
    snapshot: bytes


class Spent(msgspec.Struct, frozen=True):
    """What a team used before this worker began: calls of one key and model, booked at one moment."""

    team: str
    key: str
    model: str | None
    requests: int
    tokens: int  # always 0 today: only buckets of a day are refilled, and those count requests
    at_ms: int  # unix time; of an hour that was added up, its end: a bucket is never emptier than the truth


class Refill(msgspec.Struct, frozen=True, tag="refill"):
    """Down, once in a worker's life and after its first snapshot: fills a memory store's daily buckets, oldest first."""

    spent: tuple[Spent, ...]


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    """Down, after the first snapshot and the refill, if there is one: let clients in. Before, a day would begin anew for them."""


class AskLimits(msgspec.Struct, frozen=True, tag="ask_limits"):
    """Down: the buckets of one team; None: of all, fullest first."""

    request_id: int
    team: str | None


class OwnerAnswer(msgspec.Struct, frozen=True, tag="owner"):
    """Down: `known` False: the books cannot tell now (the ledger is away). Known without a team: nobody here made it."""

    request_id: int
    team: str | None
    known: bool


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """Down: stop accepting, finish what runs."""


Up = Hello | Report | Taken | NotTaken | LimitsAnswer | AskOwner
Down = Attach | PushSnapshot | Refill | Begin | AskLimits | OwnerAnswer | Drain
