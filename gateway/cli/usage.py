"""`gateway usage`: usage and cost, asked of the ledger."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.configuration import DEFAULT_FOLDER, ConfigOption, JsonOption, ledger_or_stop
from gateway.cli.screen import BAD, Column, show_json, show_table, stop

if TYPE_CHECKING:
    from gateway.ledger import UsageRow

TIMES = "A UTC date or hour, as 2026-05-01 or 2026-05-01T13:00:00Z"
GROUPS = "team, key, account, endpoint, model, service_tier, day, hour"
SOURCES = ("unpriced_calls", "reported_calls", "estimated_calls", "unknown_calls", "not_billed_calls")


def usage(
    by: Annotated[str, typer.Option(metavar="NAMES", help=f"Group by these, with commas: {GROUPS}.")] = "team,model",
    since: Annotated[str | None, typer.Option(metavar="TIME", help=f"{TIMES}; included.")] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help=f"{TIMES}; not included.")] = None,
    team: Annotated[str | None, typer.Option(help="Only this team.")] = None,
    key: Annotated[str | None, typer.Option(help="Only this key's id.")] = None,
    account: Annotated[str | None, typer.Option(help="Only this upstream account.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="Only this endpoint, as chat/completions.")] = None,
    model: Annotated[str | None, typer.Option(help="Only this model, as served.")] = None,
    service_tier: Annotated[str | None, typer.Option(help="Only this service tier; `default` is standard.")] = None,
    config: ConfigOption = DEFAULT_FOLDER,
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with every meter.")] = False,
) -> None:
    """Usage and exact cost by team and model, or any other grouping. Reads the ledger, also while the gateway serves."""
    if as_json and as_csv:
        stop("--json and --csv exclude each other", BAD)
    from gateway.admin.questions import BadQuestion, group_by, moment, usage_shown
    from gateway.ledger import LedgerError

    given = {"team": team, "key": key, "account": account, "endpoint": endpoint, "model": model, "service_tier": service_tier}
    filters = {name: value for name, value in given.items() if value is not None}
    times = {name: value for name, value in (("since", since), ("until", until)) if value is not None}
    try:
        groups, since_us, until_us = group_by({"by": by}), moment(times, "since"), moment(times, "until")
    except BadQuestion as error:
        stop(f"--{error.parameter}: {error}", BAD)
    for name, at_us in (("since", since_us), ("until", until_us)):
        if at_us is not None and at_us % 3_600_000_000:
            stop(f"--{name}: usage is kept by the hour, so name a whole one; `gateway entries` takes any time", BAD)
    ledger = ledger_or_stop(config)
    try:
        rows = ledger.usage(groups, since_us, until_us, filters)  # type: ignore[arg-type]  # the names are those of Dimension
    except LedgerError as error:
        stop(str(error))
    if as_json:
        show_json({"by": groups, **usage_shown(rows)})
    elif as_csv:
        _show_csv(groups, rows)
    else:
        _show(groups, rows, usage_shown(rows)["total"])


def _show(groups: Sequence[str], rows: list[UsageRow], total: dict[str, Any]) -> None:
    from gateway.units import Meter, usd_text

    meters = [meter for meter in Meter if any(row.usage.get(meter) for row in rows)]
    marked = [name for name in SOURCES if name != "reported_calls" and any(getattr(row, name) for row in rows)]
    busiest = sorted(meters, key=lambda meter: -sum(row.usage.get(meter, 0) for row in rows))
    columns = [Column(name) for name in groups]
    columns.append(Column("calls", right=True))
    columns += [Column(meter, right=True, spare=len(SOURCES) + 1 + busiest.index(meter)) for meter in meters]
    columns += [Column(name, right=True, spare=1 + SOURCES.index(name)) for name in marked]
    columns.append(Column("cost_usd", right=True))
    shown = [
        [
            *(row.by[name] or "-" for name in groups),
            str(row.calls),
            *(str(row.usage.get(meter, 0)) for meter in meters),
            *(str(getattr(row, name)) for name in marked),
            usd_text(row.cost_picousd),
        ]
        for row in rows
    ]
    show_table(columns, shown, empty="Nothing was used in that time.")
    if sys.stdout.isatty() and rows:
        unpriced = f"; {total['unpriced_calls']} calls have no price and are not in it" if total["unpriced_calls"] else ""
        print(f"total: {total['calls']} calls, ${total['cost_usd']}{unpriced}")


def _show_csv(groups: Sequence[str], rows: list[UsageRow]) -> None:
    from gateway.units import Meter, usd_text

    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow([*groups, "calls", *Meter, "cost_picousd", "cost_usd", *SOURCES])
    for row in rows:
        quantities = [row.usage.get(meter, 0) for meter in Meter]
        sources = [getattr(row, name) for name in SOURCES]
        table.writerow(
            [*(row.by[name] or "" for name in groups), row.calls, *quantities, row.cost_picousd, usd_text(row.cost_picousd), *sources]
        )
