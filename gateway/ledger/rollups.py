"""Sums by hour and by day: added up in Python for a batch, then laid onto the tables; and the recount that checks them."""

from __future__ import annotations

import sqlite3

from gateway.journal.records import Entry
from gateway.ledger.schema import CALLS, EFFECTIVE, METERS, MONEY_BASE, ROLLUP_TABLES
from gateway.units import HOUR_US

HOURS_PER_DAY = 24
DIMENSIONS = ("team", "key", "account", "endpoint", "model", "service_tier")
DIMENSIONS_CACHED_MAX = 100_000  # some 30 MB; beyond it the cache starts anew

_UNPRICED = len(CALLS)
_COST = _UNPRICED + 1
_FIRST_METER = _COST + 1
_CALL_AT = {source: place for place, source in enumerate(CALLS)}
_METER_AT = {meter: _FIRST_METER + place for place, meter in enumerate(METERS)}
_WIDTH = _FIRST_METER + len(METERS)

COUNTS = (*CALLS, "unpriced")
SUMMED = (*COUNTS, "cost_high", "cost_low", *METERS)

Names = tuple[str, str, str, str, str, str]  # in the order of DIMENSIONS


def names_of(entry: Entry) -> Names:
    """The group an entry is added to."""
    model = entry.model_served or entry.model_asked or ""
    return entry.team, entry.key, entry.account, entry.endpoint, model, entry.service_tier or "default"


class Delta:
    """What a batch changes in the rollups, by hour and group."""

    def __init__(self) -> None:
        self.by_hour: dict[tuple[int, Names], list[int]] = {}

    def add(self, entry: Entry, sign: int = 1) -> None:
        """Count an entry in, or with sign -1 out."""
        place = (entry.admitted_at_us // HOUR_US, names_of(entry))
        sums = self.by_hour.get(place)
        if sums is None:
            sums = self.by_hour[place] = [0] * _WIDTH
        sums[_CALL_AT[entry.usage_source]] += sign
        if entry.cost_picousd is None:
            sums[_UNPRICED] += sign
        else:
            sums[_COST] += sign * entry.cost_picousd
        for meter, quantity in entry.usage.items():
            sums[_METER_AT[meter]] += sign * quantity

    def by_day(self) -> dict[tuple[int, Names], list[int]]:
        """The same by day."""
        days: dict[tuple[int, Names], list[int]] = {}
        for (hour, names), sums in self.by_hour.items():
            place = (hour // HOURS_PER_DAY, names)
            day = days.get(place)
            days[place] = list(sums) if day is None else [a + b for a, b in zip(day, sums, strict=True)]
        return days


class Rollups:
    """Lays deltas onto the tables. Knows the ids of groups by heart: `forget` after a rollback."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._ids: dict[Names, int] = {}

    def forget(self) -> None:
        """Ids given in a transaction that was rolled back do not exist."""
        self._ids.clear()

    def apply(self, delta: Delta) -> None:
        """Within the caller's transaction."""
        for (table, column), sums_at in zip(ROLLUP_TABLES.items(), (delta.by_hour, delta.by_day()), strict=True):
            rows = [(at, self._id(names), *_stored(sums)) for (at, names), sums in sums_at.items()]
            self._database.executemany(_upsert(table, column), rows)

    def _id(self, names: Names) -> int:
        known = self._ids.get(names)
        if known is not None:
            return known
        if len(self._ids) >= DIMENSIONS_CACHED_MAX:
            self._ids.clear()
        columns = f"({', '.join(DIMENSIONS)})"
        self._database.execute(f"INSERT INTO dimensions {columns} VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", names)
        row = self._database.execute(f"SELECT id FROM dimensions WHERE {columns} = (?, ?, ?, ?, ?, ?)", names).fetchone()
        self._ids[names] = row[0]
        return int(row[0])


def _stored(sums: list[int]) -> list[int]:
    high, low = divmod(sums[_COST], MONEY_BASE)  # low is never negative, so the tables' own carry works for corrections too
    return [*sums[:_COST], high, low, *sums[_FIRST_METER:]]


def _upsert(table: str, column: str) -> str:
    plain = ", ".join(f"{name} = {name} + excluded.{name}" for name in (*COUNTS, *METERS))
    return (
        f"INSERT INTO {table} ({column}, dimension, {', '.join(SUMMED)}) VALUES ({', '.join('?' * (len(SUMMED) + 2))}) "
        f"ON CONFLICT ({column}, dimension) DO UPDATE SET {plain}, "
        f"cost_high = cost_high + excluded.cost_high + (cost_low + excluded.cost_low) / {MONEY_BASE}, "
        f"cost_low = (cost_low + excluded.cost_low) % {MONEY_BASE}"
    )


def recount_differences(database: sqlite3.Connection) -> list[str]:
    """Groups whose rollup is not the sum of its effective entries, in words. SQL adds up here, not the code above."""
    calls = ", ".join(f"sum(usage_source = '{source}') AS {source}" for source in CALLS)
    meters = ", ".join(f"sum(coalesce(json_extract(usage, '$.{meter}'), 0)) AS {meter}" for meter in METERS)
    database.execute(f"""
        CREATE TEMP TABLE recounted AS
        SELECT admitted_at_us / {HOUR_US} AS hour, team, key, account, endpoint,
               coalesce(nullif(model_served, ''), model_asked, '') AS model,
               coalesce(nullif(service_tier, ''), 'default') AS service_tier,
               {calls}, sum(cost_picousd IS NULL) AS unpriced,
               sum(coalesce(cost_picousd, 0) / {MONEY_BASE}) AS high, sum(coalesce(cost_picousd, 0) % {MONEY_BASE}) AS low,
               {meters}
        FROM entries WHERE {EFFECTIVE} GROUP BY 1, 2, 3, 4, 5, 6, 7""")
    groups = ", ".join(DIMENSIONS)
    some = f"{' + '.join(CALLS)} <> 0 OR cost_high <> 0 OR cost_low <> 0 OR {' OR '.join(f'{meter} <> 0' for meter in METERS)}"
    money = f"sum(high) + sum(low) / {MONEY_BASE}, sum(low) % {MONEY_BASE}"
    sums = ", ".join([*(f"sum({name})" for name in COUNTS), money, *(f"sum({name})" for name in METERS)])
    found = []
    for table, column in ROLLUP_TABLES.items():
        at = "hour" if column == "hour" else f"hour / {HOURS_PER_DAY}"
        recounted = f"SELECT {at}, {groups}, {sums} FROM recounted GROUP BY {at}, {groups}"
        rolled = f"SELECT {column}, {groups}, {', '.join(SUMMED)} FROM {table} JOIN dimensions ON id = dimension WHERE {some}"
        for title, left, right in (("the entries say", recounted, rolled), (f"{table} says", rolled, recounted)):
            for row in database.execute(f"{left} EXCEPT {right}"):
                values = {name: value for name, value in zip((column, *DIMENSIONS, *SUMMED), row, strict=True) if value}
                found.append(f"{title} {values}")
    return found
