"""Entries into rows and rollups, and the questions asked of them. The books write, one process; anyone reads. Not pure.

`Ledger` is the port; `sqlite.py` implements it. Every fold is one transaction and may be repeated: what was counted is not
counted again. When the database is away a fold raises `LedgerUnavailable` and nothing is lost, the journal keeps it.
Never knows sockets, prices, limits or the clock: times come in as arguments, in microseconds of unix time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

from gateway.journal.format import Position
from gateway.journal.records import Entry, Intent, Record
from gateway.units import Usage

Dimension = Literal["team", "key", "account", "endpoint", "model", "service_tier"]
By = Literal["team", "key", "account", "endpoint", "model", "service_tier", "day", "hour"]


class LedgerError(Exception):
    """The ledger cannot do what was asked."""


class LedgerUnavailable(LedgerError):
    """The database is locked, full, read-only, damaged or not there. Nothing was changed; ask again later."""


class LedgerForeign(LedgerError):
    """The file has a schema this program does not know: it was written by a newer one, or is no ledger."""


class Superseding(msgspec.Struct, frozen=True):
    """An entry that took the place of another one of the same exchange."""

    old: Entry
    new: Entry


class Folded(msgspec.Struct, frozen=True):
    """What became effective by one fold, and had not been before: feed metrics from this and they count once."""

    version: int  # of the ledger; grows with every change of it
    new: tuple[Entry, ...] = ()
    superseding: tuple[Superseding, ...] = ()
    duplicates: int = 0  # entries that contradict an effective one of the same id: refused, and noted as events
    out_of_range: int = 0  # entries whose numbers no ledger can hold: kept as `unknown` and unpriced
    replayed: bool = False  # the whole batch was in the ledger already


class OpenIntent(msgspec.Struct, frozen=True):
    """An exchange that was begun and has no end yet."""

    worker: str
    boot: int
    intent: Intent


class UsageRow(msgspec.Struct, frozen=True):
    """Effective calls of one group, booked when they were admitted. `by` holds the group's values in the order asked.

    Days read "2026-05-01", hours "2026-05-01T13:00:00Z", both UTC; a model may be None.
    """

    by: dict[str, str | None]
    calls: int
    usage: Usage  # meters that were used
    cost_picousd: int  # exact, of the priced calls
    unpriced_calls: int
    reported_calls: int
    estimated_calls: int
    unknown_calls: int
    not_billed_calls: int


class HourlyRequests(msgspec.Struct, frozen=True):
    """Calls admitted in one hour: what daily buckets are refilled from."""

    team: str
    key: str
    account: str
    model: str | None
    hour_at_us: int
    requests: int


class Event(msgspec.Struct, frozen=True):
    """Something to be known later: a promotion, a gap, a duplicate. (kind, subject) is unique: told twice, kept once."""

    kind: str
    subject: str
    at_us: int
    facts: dict[str, str | int] = {}


class Recount(msgspec.Struct, frozen=True):
    """Rollups held against the entries they are made of. `differences` is empty when all is well."""

    rollups: int
    differences: tuple[str, ...]


class Questions(Protocol):
    """What can be asked, from any process and any thread. LedgerUnavailable when it cannot be answered now."""

    def watermark(self, worker: str) -> Position | None:
        """How far the worker's journal is folded."""

    def usage(
        self, by: Sequence[By], since_us: int | None = None, until_us: int | None = None, filters: Mapping[Dimension, str] | None = None
    ) -> list[UsageRow]:
        """Usage and cost in [since, until), grouped and sorted by `by`; both ends on whole hours, else ValueError."""

    def spent(self, team: str, period: str, key: str | None = None) -> int:
        """PicoUSD of a team, or of one of its keys, in a UTC day ("2026-05-01") or month ("2026-05")."""

    def requests_since(self, at_us: int) -> list[HourlyRequests]:
        """Calls by hour, from the hour that holds `at_us` on."""

    def entries(
        self,
        filters: Mapping[str, str] | None = None,
        since_us: int | None = None,
        until_us: int | None = None,
        *,
        effective_only: bool = True,
        limit: int | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Entries admitted in [since, until), oldest first, with the keys of `rows.ENTRY_KEYS`; `limit` keeps the newest ones."""

    def effective(self, exchange_id: str) -> Entry | None:
        """The entry that counts for an exchange."""

    def owner_of(self, answer_id: str) -> str | None:
        """The team whose call made this answer."""

    def by_answer_id(self, answer_id: str) -> Entry | None:
        """The effective entry of the call that made this answer."""

    def open_intents(self, worker: str, boot_max: int | None = None) -> list[OpenIntent]:
        """Exchanges of a worker without an end, of boots up to `boot_max`."""

    def events(self, kind: str | None = None, since_us: int | None = None, limit: int = 1_000) -> list[Event]:
        """The newest events, oldest first."""

    def recount(self) -> Recount:
        """Add everything up again from the entries and compare. Reads all of them: minutes for millions."""


class Ledger(Questions, Protocol):
    """What the books do besides: all writing, each call one transaction. LedgerUnavailable: nothing was changed."""

    def fold(self, worker: str, position: Position, records: Sequence[Record]) -> Folded:
        """Take in a batch of one boot's journal and move the watermark to `position`. Repeating it changes nothing."""

    def fold_orphans(self, worker: str, entries: Sequence[Entry]) -> Folded:
        """Close intents of a dead boot with entries made by `late.orphans`; those that have ended meanwhile are left alone."""

    def supersede(self, entry: Entry) -> Folded:
        """Usage that came later: a further revision takes the place of the exchange's entry, whatever that said."""

    def add_events(self, events: Sequence[Event]) -> tuple[Event, ...]:
        """Keep events; those that were not known before are given back."""

    def close(self) -> None:
        """Close the database."""
