"""Tables, and how an older file becomes a newer one."""

from __future__ import annotations

import sqlite3

from gateway.ledger import LedgerForeign
from gateway.units import Meter

MONEY_BASE = 10**9  # rollups keep money as high × MONEY_BASE + low: sums of low stay inside 64 bits for 9 × 10**9 rows
METERS = tuple(meter.value for meter in Meter)
CALLS = ("reported", "estimated", "unknown", "not_billed")  # by usage source; together they are the calls
ROLLUP_TABLES = {"rollup_hours": "hour", "rollup_days": "day"}  # table: its column of time, since 1970 in UTC

EFFECTIVE = """NOT EXISTS (SELECT 1 FROM entries AS later
    WHERE later.exchange_id = entries.exchange_id AND later.revision > entries.revision)"""

MIGRATIONS = (
    """
    CREATE TABLE entries (
        id INTEGER PRIMARY KEY,
        exchange_id TEXT NOT NULL, session_id TEXT, team TEXT NOT NULL, key TEXT NOT NULL, account TEXT NOT NULL,
        endpoint TEXT NOT NULL, model_asked TEXT, model_served TEXT, service_tier TEXT,
        usage TEXT NOT NULL, details TEXT NOT NULL, usage_source TEXT NOT NULL,
        cost_picousd INTEGER, price_version TEXT, status INTEGER, error_code TEXT,
        upstream_request_id TEXT, client_request_id TEXT,
        admitted_at_us INTEGER NOT NULL, ended_at_us INTEGER NOT NULL, timings_us TEXT NOT NULL, retry_count INTEGER,
        outcome TEXT NOT NULL, ask_tokens INTEGER, streamed INTEGER NOT NULL, answer_id TEXT, body_bytes INTEGER NOT NULL,
        marks TEXT NOT NULL,
        revision INTEGER NOT NULL,      -- from 1; the highest of an exchange is the effective one
        origin TEXT NOT NULL,           -- journal, orphan, late: who said so
        UNIQUE (exchange_id, revision)
    );
    CREATE INDEX entries_by_time ON entries (admitted_at_us);
    CREATE TRIGGER entries_are_immutable BEFORE UPDATE ON entries
        BEGIN SELECT raise(ABORT, 'an entry is never changed: add a revision'); END;
    CREATE TABLE intents (
        exchange_id TEXT PRIMARY KEY, worker TEXT NOT NULL, boot INTEGER NOT NULL, intent BLOB NOT NULL   -- MessagePack
    ) WITHOUT ROWID;
    CREATE TABLE dimensions (
        id INTEGER PRIMARY KEY,
        team TEXT NOT NULL, key TEXT NOT NULL, account TEXT NOT NULL, endpoint TEXT NOT NULL,
        model TEXT NOT NULL,            -- served, else asked, else ''
        service_tier TEXT NOT NULL,     -- not said is standard, which OpenAI calls 'default'
        UNIQUE (team, key, account, endpoint, model, service_tier)
    );
    CREATE TABLE rollup_hours (
        hour INTEGER NOT NULL, dimension INTEGER NOT NULL,
        reported INTEGER NOT NULL, estimated INTEGER NOT NULL, unknown INTEGER NOT NULL, not_billed INTEGER NOT NULL,
        unpriced INTEGER NOT NULL, cost_high INTEGER NOT NULL, cost_low INTEGER NOT NULL,
        PRIMARY KEY (hour, dimension)
    ) WITHOUT ROWID;
    CREATE TABLE rollup_days (
        day INTEGER NOT NULL, dimension INTEGER NOT NULL,
        reported INTEGER NOT NULL, estimated INTEGER NOT NULL, unknown INTEGER NOT NULL, not_billed INTEGER NOT NULL,
        unpriced INTEGER NOT NULL, cost_high INTEGER NOT NULL, cost_low INTEGER NOT NULL,
        PRIMARY KEY (day, dimension)
    ) WITHOUT ROWID;
    CREATE TABLE watermarks (
        worker TEXT PRIMARY KEY, boot INTEGER NOT NULL, segment INTEGER NOT NULL, "offset" INTEGER NOT NULL, sequence INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE events (
        id INTEGER PRIMARY KEY, kind TEXT NOT NULL, subject TEXT NOT NULL, at_us INTEGER NOT NULL, facts TEXT NOT NULL,
        UNIQUE (kind, subject)
    );
    CREATE TABLE answers (
        answer_id TEXT PRIMARY KEY,
        entry INTEGER NOT NULL          -- the first that named it: whose team made it. By id and not by name, since this
    ) WITHOUT ROWID;                    -- is the one index written in random order: half its width is a third off every fold
    CREATE TABLE versions (one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER NOT NULL);
    INSERT INTO versions VALUES (1, 0);
    """,
)  # only ever added to: number n brings a file from user_version n - 1 to n


def migrate(database: sqlite3.Connection) -> None:
    """Bring an empty or older file to this program's schema, each step whole or not at all. LedgerForeign if it is newer."""
    for number in range(_version(database) + 1, len(MIGRATIONS) + 1):
        database.executescript(f"BEGIN IMMEDIATE; {MIGRATIONS[number - 1]} PRAGMA user_version = {number}; COMMIT;")
    for table in ROLLUP_TABLES:
        known = {row[1] for row in database.execute(f"PRAGMA table_info({table})")}
        for meter in METERS:
            if meter not in known:  # a meter is a column; new ones join by themselves
                database.execute(f"ALTER TABLE {table} ADD COLUMN {meter} INTEGER NOT NULL DEFAULT 0")


def check_current(database: sqlite3.Connection) -> None:
    """LedgerForeign unless the file has exactly this program's schema: readers change nothing."""
    if _version(database) != len(MIGRATIONS):
        raise LedgerForeign("the ledger has an older schema: start the books once to bring it up to date")


def _version(database: sqlite3.Connection) -> int:
    version: int = database.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise LedgerForeign(f"the ledger has schema {version} and this program knows {len(MIGRATIONS)}: it was written by a newer one")
    return version
