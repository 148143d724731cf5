"""The ledger in one SQLite file: one writer, write-ahead log, every batch durable before it counts."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from gateway.journal.fit import fit_entry, in_range
from gateway.journal.format import Position
from gateway.journal.records import Entry, Intent, Record
from gateway.ledger import Event, Folded, Superseding
from gateway.ledger.questions import SqliteQuestions, unavailable
from gateway.ledger.rollups import Delta, Rollups
from gateway.ledger.rows import CONTENT_COLUMNS, INSERT_ENTRY, Content, content_of, entry_of
from gateway.ledger.schema import migrate

Origin = Literal["journal", "orphan", "late"]
Result = TypeVar("Result")

CACHE_KIB = 65_536  # pages of the indexes that every batch touches
BUSY_TIMEOUT_MS = 5_000
FILE_MODE = 0o640  # as the journals: who called what, and what it cost, is for the owner and the group

_json = msgspec.json.Encoder()
_msgpack = msgspec.msgpack.Encoder()


class _Version(msgspec.Struct):
    revision: int
    origin: Origin
    content: Content


class _Work:
    """One fold in the making: what is known of the batch's exchanges, and what becomes of them."""

    def __init__(self, known: dict[str, list[_Version]], last_id: int) -> None:
        self.known = known
        self.last_id = last_id
        self.delta = Delta()
        self.rows: list[Content] = []
        self.answers: list[tuple[str, int]] = []
        self.new: list[Entry] = []
        self.superseding: list[Superseding] = []
        self.duplicates: list[Entry] = []
        self.out_of_range = 0

    def take(self, entry: Entry, origin: Origin) -> None:
        """Decide what an entry is: new, the same again, taking another's place, or contradicting it."""
        if not in_range(entry):
            entry = fit_entry(entry)
            self.out_of_range += 1
        content = content_of(entry)
        versions = self.known.get(entry.exchange_id)
        if versions is None:
            self.known[entry.exchange_id] = [_Version(1, origin, content)]
            self._add_row(entry, content, 1, origin)
            self.new.append(entry)
            self.delta.add(entry)
            return
        last = versions[-1]
        if origin == "orphan" or any(version.content == content for version in versions):
            return
        if origin == "journal" and last.origin != "orphan":
            self.duplicates.append(entry)
            return
        old = entry_of(last.content)
        versions.append(_Version(last.revision + 1, origin, content))
        self._add_row(entry, content, last.revision + 1, origin)
        self.superseding.append(Superseding(old, entry))
        self.delta.add(old, -1)
        self.delta.add(entry)

    def _add_row(self, entry: Entry, content: Content, revision: int, origin: Origin) -> None:
        self.last_id += 1
        self.rows.append((*content, revision, origin, self.last_id))
        if entry.answer_id:
            self.answers.append((entry.answer_id, self.last_id))


class SqliteLedger(SqliteQuestions):
    """The one writer of a ledger file; implements `Ledger`. Its methods may be called from any thread, one runs at a time."""

    def __init__(self, path: Path, *, busy_timeout_ms: int = BUSY_TIMEOUT_MS) -> None:
        """Open or create the file and bring its schema up to date. LedgerUnavailable, or LedgerForeign for a newer file."""
        super().__init__(path, busy_timeout_ms=busy_timeout_ms)
        self._turn = threading.Lock()
        with unavailable(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _create(path)
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=busy_timeout_ms / 1000)
            try:
                self._database.execute("PRAGMA journal_mode = WAL")
                self._database.execute("PRAGMA synchronous = FULL")  # the journal's segments go once a batch is committed here
                self._database.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
                self._database.execute("PRAGMA temp_store = MEMORY")
                migrate(self._database)
                # SQLite opens what it may only read without a word, and never writes to it then: found out now, it is opened again.
                self._database.executescript("BEGIN IMMEDIATE; UPDATE versions SET version = version; ROLLBACK;")
            except BaseException:
                self._database.close()
                raise
        self._rollups = Rollups(self._database)

    def fold(self, worker: str, position: Position, records: Sequence[Record]) -> Folded:
        """Take in a batch of one boot's journal and move the watermark to `position`. Repeating it changes nothing."""

        def work() -> Folded:
            if self._watermark(worker) >= position:
                return Folded(self._version(), replayed=True)
            intents: dict[str, Intent] = {}
            entries: list[Entry] = []
            ended: list[str] = []
            for record in records:
                if isinstance(record, Intent):
                    intents[record.exchange_id] = record
                    continue
                if isinstance(record, Entry):
                    entries.append(record)
                if intents.pop(record.exchange_id, None) is None:
                    ended.append(record.exchange_id)
            folded = self._take(entries, "journal")
            self._forget_intents(ended)
            self._keep_intents(worker, position.boot, intents.values())
            self._move_watermark(worker, position)
            return folded

        return self._transaction(work)

    def fold_orphans(self, worker: str, entries: Sequence[Entry]) -> Folded:
        """Close intents of a dead boot with entries made by `late.orphans`; those that have ended meanwhile are left alone."""

        def work() -> Folded:
            mine = {
                row[0]
                for row in self._database.execute(
                    "SELECT exchange_id FROM intents WHERE worker = ? AND exchange_id IN (SELECT value FROM json_each(?))",
                    (worker, _id_list(entries)),
                )
            }
            still_open = [entry for entry in entries if entry.exchange_id in mine]
            folded = self._take(still_open, "orphan")
            self._forget_intents(sorted(mine))
            return folded

        return self._transaction(work)

    def supersede(self, entry: Entry) -> Folded:
        """Usage that came later: a further revision takes the place of the exchange's entry, whatever that said."""

        def work() -> Folded:
            folded = self._take([fit_entry(entry)], "late")
            self._forget_intents([entry.exchange_id])
            return folded

        return self._transaction(work)

    def add_events(self, events: Sequence[Event]) -> tuple[Event, ...]:
        """Keep events; those that were not known before are given back."""

        def work() -> tuple[Event, ...]:
            return tuple(event for event in events if self._add_event(event))

        return self._transaction(work)

    def close(self) -> None:
        """Close the database. What is in the write-ahead log is moved into the file if nobody reads."""
        with self._turn:
            self._database.close()

    # -- inside a transaction ---------------------------------------------------------------------------------------------

    def _take(self, entries: Sequence[Entry], origin: Origin) -> Folded:
        work = _Work(self._known(entries), self._one("SELECT coalesce(max(id), 0) FROM entries"))
        for entry in entries:
            work.take(entry, origin)
        if work.rows:
            self._database.executemany(INSERT_ENTRY, work.rows)
            # Sorted, so that neighbours in the index are written together. The first to name an answer keeps it.
            self._database.executemany("INSERT INTO answers (answer_id, entry) VALUES (?, ?) ON CONFLICT DO NOTHING", sorted(work.answers))
            self._rollups.apply(work.delta)
            self._database.execute("UPDATE versions SET version = version + 1")
        for entry in work.duplicates:
            facts: dict[str, str | int] = {"team": entry.team, "usage_source": entry.usage_source}
            self._add_event(Event("duplicate_entry", entry.exchange_id, entry.ended_at_us, facts))
        return Folded(self._version(), tuple(work.new), tuple(work.superseding), len(work.duplicates), work.out_of_range)

    def _known(self, entries: Sequence[Entry]) -> dict[str, list[_Version]]:
        known: dict[str, list[_Version]] = {}
        rows = self._database.execute(
            f"SELECT revision, origin, {', '.join(CONTENT_COLUMNS)} FROM entries "
            "WHERE exchange_id IN (SELECT value FROM json_each(?)) ORDER BY exchange_id, revision",
            (_id_list(entries),),
        )
        for revision, origin, *content in rows:
            known.setdefault(content[0], []).append(_Version(revision, origin, tuple(content)))
        return known

    def _keep_intents(self, worker: str, boot: int, intents: Iterable[Intent]) -> None:
        self._database.executemany(
            "INSERT INTO intents (exchange_id, worker, boot, intent) SELECT ?1, ?2, ?3, ?4 "
            "WHERE NOT EXISTS (SELECT 1 FROM entries WHERE exchange_id = ?1) ON CONFLICT DO NOTHING",
            [(intent.exchange_id, worker, boot, _msgpack.encode(intent)) for intent in intents],
        )

    def _forget_intents(self, exchange_ids: Sequence[str]) -> None:
        self._database.executemany("DELETE FROM intents WHERE exchange_id = ?", [(exchange_id,) for exchange_id in exchange_ids])

    def _add_event(self, event: Event) -> bool:
        cursor = self._database.execute(
            "INSERT INTO events (kind, subject, at_us, facts) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (event.kind, event.subject, event.at_us, _json.encode(event.facts).decode()),
        )
        return cursor.rowcount == 1

    def _move_watermark(self, worker: str, position: Position) -> None:
        self._database.execute(
            'INSERT OR REPLACE INTO watermarks (worker, boot, segment, "offset", sequence) VALUES (?, ?, ?, ?, ?)',
            (worker, position.boot, position.segment, position.offset, position.sequence),
        )

    def _watermark(self, worker: str) -> Position:
        row = self._database.execute('SELECT boot, segment, "offset", sequence FROM watermarks WHERE worker = ?', (worker,)).fetchone()
        return Position(*row) if row else Position(-1, 0, 0, 0)

    def _version(self) -> int:
        return self._one("SELECT version FROM versions")

    def _one(self, sql: str) -> int:
        return int(self._database.execute(sql).fetchone()[0])

    def _transaction(self, work: Callable[[], Result]) -> Result:
        """Run `work` whole or not at all."""
        with self._turn, unavailable(self._path):
            self._database.execute("BEGIN IMMEDIATE")
            try:
                result = work()
                self._commit()
            except BaseException:
                self._rollups.forget()
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise
            return result

    def _commit(self) -> None:
        """Durable when this returns, and nothing has happened when it raises."""
        self._database.execute("COMMIT")


def _create(path: Path) -> None:
    """Make the file, if there is none, before SQLite makes it readable by all; -wal and -shm get the mode it has.

    Never opens one that is there: closing it would drop the locks that this process has on it (POSIX).
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE))


def _id_list(entries: Sequence[Entry]) -> str:
    return _json.encode([entry.exchange_id for entry in entries]).decode()
