"""Query parameters into questions for the ledger, and its answers into what is shown."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, get_args

from gateway.ledger import By, Dimension, UsageRow
from gateway.units import usd_text

BY = get_args(By)
DIMENSIONS = get_args(Dimension)
BY_DEFAULT = "team,model"
ENTRIES_DEFAULT = 100
ENTRIES_MAX = 10_000  # of one answer, about 8 MB; page on with `until`
TIMES = "times are written 2026-05-01 or 2026-05-01T13:00:00Z, in UTC"


class BadQuestion(ValueError):
    """A query parameter that means nothing here. `parameter` names it."""

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(message)
        self.parameter = parameter


def group_by(query: Mapping[str, str]) -> tuple[By, ...]:
    """`by=team,model`: what to group usage by, each once."""
    names = [name.strip() for name in query.get("by", BY_DEFAULT).split(",") if name.strip()]
    for name in names:
        if name not in BY or names.count(name) > 1:
            raise BadQuestion("by", f"cannot group by '{name}'; allowed, each once: {', '.join(BY)}")
    return tuple(name for name in BY if name in names) if not names else tuple(names)  # type: ignore[arg-type]  # checked above


def filters_of(query: Mapping[str, str], known: tuple[str, ...], also: tuple[str, ...]) -> dict[str, str]:
    """Every parameter that names a column; anything else but `also` is refused, so that a typo does not show too much."""
    for name in query:
        if name not in known and name not in also:
            raise BadQuestion(name, f"there is no parameter '{name}'; known: {', '.join((*known, *also))}")
    return {name: query[name] for name in known if name in query}


def moment(query: Mapping[str, str], name: str) -> int | None:
    """A time as unix microseconds; None: not asked."""
    if name not in query:
        return None
    try:
        at = datetime.fromisoformat(query[name])
    except ValueError:
        raise BadQuestion(name, f"'{query[name]}' is no time; {TIMES}") from None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    since_epoch = at - datetime(1970, 1, 1, tzinfo=UTC)
    return (since_epoch.days * 86_400 + since_epoch.seconds) * 1_000_000 + since_epoch.microseconds


def entries_limit(query: Mapping[str, str]) -> int:
    """How many entries at most."""
    text = query.get("limit", str(ENTRIES_DEFAULT))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= ENTRIES_MAX):
        raise BadQuestion("limit", f"limit is a number from 1 to {ENTRIES_MAX}")
    return int(text)


def usage_shown(rows: list[UsageRow]) -> dict[str, Any]:
    """Rows with their sum. Money exact, as integer pico-dollars and as text in USD."""
    return {
        "rows": [
            {
                **row.by,
                "calls": row.calls,
                "usage": row.usage,
                "cost_picousd": row.cost_picousd,
                "cost_usd": usd_text(row.cost_picousd),
                "unpriced_calls": row.unpriced_calls,
                "reported_calls": row.reported_calls,
                "estimated_calls": row.estimated_calls,
                "unknown_calls": row.unknown_calls,
                "not_billed_calls": row.not_billed_calls,
            }
            for row in rows
        ],
        "total": {
            "calls": sum(row.calls for row in rows),
            "cost_picousd": sum(row.cost_picousd for row in rows),
            "cost_usd": usd_text(sum(row.cost_picousd for row in rows)),
            "unpriced_calls": sum(row.unpriced_calls for row in rows),
        },
    }
