"""Questions to a SQLite ledger: each opens the file read-only for itself, so any thread and any process may ask."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote

import msgspec

from gateway.journal.format import Position
from gateway.journal.records import Entry, Intent
from gateway.ledger import By, Dimension, Event, HourlyRequests, LedgerUnavailable, OpenIntent, Recount, UsageRow
from gateway.ledger.rollups import DIMENSIONS, HOURS_PER_DAY, SUMMED, recount_differences
from gateway.ledger.rows import COLUMNS, CONTENT_COLUMNS, day_text, days_of, entry_of, hour_text, shown
from gateway.ledger.schema import CALLS, EFFECTIVE, METERS, MONEY_BASE, ROLLUP_TABLES, check_current
from gateway.units import HOUR_US, Meter

ENTRY_FILTERS = {
    **{name: f"{name} = ?" for name in ("exchange_id", "session_id", "team", "key", "account", "endpoint", "usage_source", "outcome")},
    "model": "coalesce(nullif(model_served, ''), model_asked, '') = ?",
    "service_tier": "coalesce(nullif(service_tier, ''), 'default') = ?",
}


@contextmanager
def unavailable(path: Path) -> Iterator[None]:
    """What SQLite says of locks, disks and files, as LedgerUnavailable. Faults of our own statements stay what they are."""
    try:
        yield
    except (sqlite3.OperationalError, OSError) as error:
        raise LedgerUnavailable(f"the ledger {path} cannot be used now: {error}") from error
    except sqlite3.DatabaseError as error:
        if type(error) is not sqlite3.DatabaseError:  # IntegrityError and the like
            raise
        raise LedgerUnavailable(f"the ledger {path} is damaged or not a ledger: {error}") from error


class SqliteQuestions:
    """Reads a ledger file that another process may be writing; implements `Questions`."""

    def __init__(self, path: Path, *, busy_timeout_ms: int = 5_000) -> None:
        self._path = path
        self._busy_timeout_ms = busy_timeout_ms

    def watermark(self, worker: str) -> Position | None:
        """How far the worker's journal is folded."""
        rows = self._rows('SELECT boot, segment, "offset", sequence FROM watermarks WHERE worker = ?', (worker,))
        return Position(*rows[0]) if rows else None

    def usage(
        self, by: Sequence[By], since_us: int | None = None, until_us: int | None = None, filters: Mapping[Dimension, str] | None = None
    ) -> list[UsageRow]:
        """Usage and cost in [since, until), grouped and sorted by `by`; both ends on whole hours, else ValueError."""
        _known(by, get_args(By))
        _known(filters or {}, DIMENSIONS)
        since, until = _whole_hours(since_us), _whole_hours(until_us)
        source, bounds = _rollup_rows(since, until, by_hour="hour" in by)
        where = " AND ".join(f"{name} = ?" for name in filters or {}) or "1"
        grouped = ", ".join(str(place + 1) for place in range(len(by)))
        columns = ", ".join([*by, *(f"sum({name})" for name in SUMMED)])
        sql = f"SELECT {columns} FROM ({source}) JOIN dimensions ON id = dimension WHERE {where}"
        if by:
            sql += f" GROUP BY {grouped} ORDER BY {grouped}"
        rows = self._rows(sql, (*bounds, *(filters or {}).values()))
        return [_usage_row(by, row) for row in rows if any(row[len(by) :])]

    def spent(self, team: str, period: str, key: str | None = None) -> int:
        """PicoUSD of a team, or of one of its keys, in a UTC day ("2026-05-01") or month ("2026-05")."""
        first, after = days_of(period)
        sql = (
            "SELECT coalesce(sum(cost_high), 0), coalesce(sum(cost_low), 0) FROM rollup_days JOIN dimensions ON id = dimension "
            "WHERE day >= ? AND day < ? AND team = ?"
        )
        high, low = self._rows(sql + (" AND key = ?" if key else ""), (first, after, team, *([key] if key else [])))[0]
        return int(high) * MONEY_BASE + int(low)

    def requests_since(self, at_us: int) -> list[HourlyRequests]:
        """Calls by hour, from the hour that holds `at_us` on."""
        rows = self._rows(
            f"SELECT team, key, account, model, hour, sum({' + '.join(CALLS)}) AS calls "
            "FROM rollup_hours JOIN dimensions ON id = dimension "
            "WHERE hour >= ? GROUP BY 1, 2, 3, 4, 5 HAVING calls > 0 ORDER BY hour, team, key, account, model",
            (at_us // HOUR_US,),
        )
        return [HourlyRequests(team, key, account, model or None, hour * HOUR_US, calls) for team, key, account, model, hour, calls in rows]

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
        filters = filters or {}
        _known(filters, ENTRY_FILTERS)
        conditions = [ENTRY_FILTERS[name] for name in filters]
        values: list[str | int] = list(filters.values())
        for condition, bound in (("admitted_at_us >= ?", since_us), ("admitted_at_us < ?", until_us)):
            if bound is not None:
                conditions.append(condition)
                values.append(bound)
        if effective_only:
            conditions.append(EFFECTIVE)
        order = "ORDER BY admitted_at_us, exchange_id, revision"
        sql = f"SELECT {', '.join(COLUMNS)} FROM entries WHERE {' AND '.join(conditions) or '1'}"
        if limit is not None:
            sql = f"SELECT * FROM ({sql} {order.replace(',', ' DESC,')} DESC LIMIT ?)"
            values.append(limit)
        return self._entries(f"{sql} {order}", values)

    def _entries(self, sql: str, values: Sequence[str | int]) -> Iterator[dict[str, Any]]:
        with self._reading() as database:
            database.row_factory = sqlite3.Row
            for row in database.execute(sql, values):
                yield shown(row)

    def effective(self, exchange_id: str) -> Entry | None:
        """The entry that counts for an exchange."""
        rows = self._rows(
            f"SELECT {', '.join(CONTENT_COLUMNS)} FROM entries WHERE exchange_id = ? ORDER BY revision DESC LIMIT 1", (exchange_id,)
        )
        return entry_of(rows[0]) if rows else None

    def owner_of(self, answer_id: str) -> str | None:
        """The team whose call made this answer."""
        rows = self._rows("SELECT team FROM answers JOIN entries ON id = entry WHERE answers.answer_id = ?", (answer_id,))
        return str(rows[0][0]) if rows else None

    def by_answer_id(self, answer_id: str) -> Entry | None:
        """The effective entry of the call that made this answer."""
        rows = self._rows("SELECT exchange_id FROM answers JOIN entries ON id = entry WHERE answers.answer_id = ?", (answer_id,))
        return self.effective(rows[0][0]) if rows else None

    def open_intents(self, worker: str, boot_max: int | None = None) -> list[OpenIntent]:
        """Exchanges of a worker without an end, of boots up to `boot_max`."""
        rows = self._rows(
            "SELECT worker, boot, intent FROM intents WHERE worker = ? AND boot <= ? ORDER BY boot, exchange_id",
            (worker, 2**62 if boot_max is None else boot_max),
        )
        return [OpenIntent(worker, boot, msgspec.msgpack.decode(intent, type=Intent)) for worker, boot, intent in rows]

    def events(self, kind: str | None = None, since_us: int | None = None, limit: int = 1_000) -> list[Event]:
        """The newest events, oldest first."""
        rows = self._rows(
            "SELECT kind, subject, at_us, facts FROM events WHERE (?1 IS NULL OR kind = ?1) AND at_us >= ?2 "
            "ORDER BY at_us DESC, id DESC LIMIT ?3",
            (kind, -(2**63) if since_us is None else since_us, limit),
        )
        return [Event(row[0], row[1], row[2], msgspec.json.decode(row[3])) for row in reversed(rows)]

    def recount(self) -> Recount:
        """Add everything up again from the entries and compare. Reads all of them: minutes for millions."""
        with self._reading() as database:
            database.execute("BEGIN")  # one moment for all that follows
            rollups = sum(int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]) for table in ROLLUP_TABLES)
            differences = recount_differences(database)
            database.execute("COMMIT")
        return Recount(rollups, tuple(differences))

    def _rows(self, sql: str, values: Sequence[str | int | None] = ()) -> list[Any]:
        with self._reading() as database:
            return database.execute(sql, values).fetchall()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with unavailable(self._path):
            place = f"file:{quote(str(self._path.absolute()))}?mode=ro"
            with closing(_connected(place, self._busy_timeout_ms)) as database:
                check_current(database)
                yield database


def _connected(place: str, busy_timeout_ms: int) -> sqlite3.Connection:
    # check_same_thread off: an iterator of entries may be dropped, and so closed, by another thread
    return sqlite3.connect(place, uri=True, isolation_level=None, check_same_thread=False, timeout=busy_timeout_ms / 1000)


def _known(names: Sequence[str] | Mapping[Any, str], allowed: Sequence[str] | Mapping[str, str]) -> None:
    for name in names:
        if name not in allowed:
            raise ValueError(f"{name!r} is not one of {', '.join(allowed)}")


def _whole_hours(at_us: int | None) -> int | None:
    if at_us is None:
        return None
    hours, rest = divmod(at_us, HOUR_US)
    if rest:
        raise ValueError(f"usage is kept by the hour: {at_us} is not the beginning of one")
    return hours


def _rollup_rows(since: int | None, until: int | None, *, by_hour: bool) -> tuple[str, list[int]]:
    """SQL of the rollup rows in [since, until), in hours since 1970: whole days from the days' table, what is left from the hours'."""
    columns = ", ".join(("dimension", *SUMMED))
    hours = f"SELECT hour, hour / {HOURS_PER_DAY} AS day, {columns} FROM rollup_hours WHERE hour >= ? AND hour < ?"
    days = f"SELECT NULL AS hour, day, {columns} FROM rollup_days WHERE day >= ? AND day < ?"
    first = 0 if since is None else max(0, since)
    after = 2**40 if until is None else max(first, until)
    first_day, after_day = -(-first // HOURS_PER_DAY), after // HOURS_PER_DAY
    if by_hour or first_day >= after_day:
        return hours, [first, after]
    parts, bounds = [days], [first_day, after_day]
    for start, end in ((first, first_day * HOURS_PER_DAY), (after_day * HOURS_PER_DAY, after)):
        if start < end:
            parts.append(hours)
            bounds += [start, end]
    return " UNION ALL ".join(parts), bounds


def _usage_row(by: Sequence[By], row: Sequence[Any]) -> UsageRow:
    group: dict[str, str | None] = {name: _shown_value(name, value) for name, value in zip(by, row, strict=False)}
    sums = dict(zip(SUMMED, row[len(by) :], strict=True))
    return UsageRow(
        by=group,
        calls=sum(sums[source] for source in CALLS),
        usage={Meter(meter): sums[meter] for meter in METERS if sums[meter]},
        cost_picousd=sums["cost_high"] * MONEY_BASE + sums["cost_low"],
        unpriced_calls=sums["unpriced"],
        reported_calls=sums["reported"],
        estimated_calls=sums["estimated"],
        unknown_calls=sums["unknown"],
        not_billed_calls=sums["not_billed"],
    )


def _shown_value(name: By, value: str | int) -> str | None:
    if name == "day":
        return day_text(int(value))
    if name == "hour":
        return hour_text(int(value))
    return str(value) or None
