"""The books' last step alone: entries folded into SQLite, and a month's usage asked of the rollups. Prints one JSON object.

    python bench/ledger.py FOLDER ENTRIES

Entries are made beforehand, batch by batch, in the size the books read (4,000 records), each after its intent: 100 teams with two
keys each, five models, spread over a month. Only the folds are timed; every batch is a transaction that is on disk when it ends.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from random import Random

from gateway.journal.format import Position
from gateway.journal.reader import RECORDS_MAX
from gateway.journal.records import Entry, Intent
from gateway.ledger.sqlite import SqliteLedger
from gateway.units import Meter

MONTH_US = 1_777_593_600_000_000  # 2026-05-01
DAYS, TEAMS, KEYS = 31, 100, 2
MODELS = ("gpt-4o-2024-08-06", "gpt-4o-mini-2024-07-18", "gpt-5-mini-2025-08-07", "gpt-5-2025-08-07", "text-embedding-3-small")
QUESTIONS = 20
DAY_US = 86_400_000_000


def exchange(number: int, entries: int, random: Random) -> tuple[Intent, Entry]:
    """The two records of a call, admitted at its place in the month."""
    team, model = random.randrange(TEAMS), random.choice(MODELS)
    key = f"team-{team}-{random.randrange(KEYS)}"
    at_us = MONTH_US + number * (DAYS * DAY_US - 1) // entries
    usage = {Meter.INPUT_TEXT: random.randrange(10, 5_000), Meter.OUTPUT_TEXT: random.randrange(1, 1_000)}
    exchange_id = f"gx-{random.getrandbits(64):016x}{number:016x}"
    intent = Intent(
        exchange_id=exchange_id, session_id=None, team=f"team-{team}", key=key, account="openai", endpoint="chat", model_asked=model,
        service_tier_asked=None, ask_usage=usage, ask_cost_picousd=11_000_000_000, price_version="2026-05-01", client_request_id=None,
        retry_count=0, admitted_at_us=at_us,
    )  # fmt: skip
    entry = Entry(
        exchange_id=exchange_id, session_id=None, team=f"team-{team}", key=key, account="openai", endpoint="chat", model_asked=model,
        model_served=model, service_tier="default", usage=usage, details={"reasoning_tokens": 0}, usage_source="reported",
        cost_picousd=random.randrange(10**11), price_version="2026-05-01", status=200, error_code=None,
        upstream_request_id=f"req_{exchange_id[3:]}", client_request_id=None, admitted_at_us=at_us, ended_at_us=at_us + 1_000_000,
        timings_us={"sent": 90, "head": 400_000, "last": 900_000, "overhead": 120}, retry_count=0, outcome="ok", ask_tokens=1_400,
        answer_id=f"chatcmpl-{exchange_id[3:]}", body_bytes=1_024,
    )  # fmt: skip
    return intent, entry


def fold(ledger: SqliteLedger, entries: int) -> tuple[float, float]:
    """Fold them all; seconds of wall and of CPU that the folds took."""
    random, wall_s, cpu_s, done = Random(1), 0.0, 0.0, 0
    while done < entries:
        count = min(RECORDS_MAX // 2, entries - done)
        records = [record for number in range(done, done + count) for record in exchange(number, entries, random)]
        done += count
        wall, cpu = time.perf_counter(), time.process_time()
        ledger.fold("w0", Position(1, 1, 1_000 * done, 2 * done), records)
        wall_s, cpu_s = wall_s + time.perf_counter() - wall, cpu_s + time.process_time() - cpu
    return wall_s, cpu_s


def ask(ledger: SqliteLedger, entries: int) -> float:
    """Seconds that the month's usage by team and model takes, median; its calls must be all there are."""
    times = []
    for _ in range(QUESTIONS):
        started = time.perf_counter()
        rows = ledger.usage(("team", "model"), MONTH_US, MONTH_US + DAYS * DAY_US)
        times.append(time.perf_counter() - started)
        if sum(row.calls for row in rows) != entries:
            raise SystemExit(f"the ledger says {sum(row.calls for row in rows)} calls, not {entries}")
    return statistics.median(times)


def main() -> None:
    """Measure and print."""
    path, entries = Path(sys.argv[1]) / "ledger-bench.db", int(sys.argv[2])
    ledger = SqliteLedger(path)
    wall_s, cpu_s = fold(ledger, entries)
    month_ms = ask(ledger, entries) * 1000
    ledger.close()
    found = {"entries": entries, "entries_per_s": entries / wall_s, "cpu_us": cpu_s * 1e6 / entries, "month_ms": month_ms}
    print(json.dumps(found | {"file_bytes": path.stat().st_size}))


if __name__ == "__main__":
    main()
