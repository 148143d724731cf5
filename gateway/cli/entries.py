"""`gateway entries`: the ledger line by line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, get_args

import typer

from gateway.cli.configuration import DEFAULT_FOLDER, ConfigOption, ledger_or_stop
from gateway.cli.screen import BAD, printable, stop

OUTCOMES = ("ok", "client_error", "upstream_error", "upstream_timeout", "client_gone", "gateway_error", "unknown")
TIMES = "A UTC date or time, as 2026-05-01 or 2026-05-01T13:37:00Z"


def entries(
    since: Annotated[str | None, typer.Option(metavar="TIME", help=f"{TIMES}; included.")] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help=f"{TIMES}; not included.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the newest so many.")] = None,
    team: Annotated[str | None, typer.Option(help="Only this team.")] = None,
    key: Annotated[str | None, typer.Option(help="Only this key's id.")] = None,
    account: Annotated[str | None, typer.Option(help="Only this upstream account.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="Only this endpoint, as chat/completions.")] = None,
    model: Annotated[str | None, typer.Option(help="Only this model, as served.")] = None,
    usage_source: Annotated[str | None, typer.Option(help="Only reported, estimated, unknown or not_billed.")] = None,
    outcome: Annotated[str | None, typer.Option(help=f"Only one of {', '.join(OUTCOMES)}.")] = None,
    exchange_id: Annotated[str | None, typer.Option(metavar="ID", help="Only this exchange (x-gateway-request-id).")] = None,
    session_id: Annotated[str | None, typer.Option(metavar="ID", help="Only this session.")] = None,
    superseded: Annotated[bool, typer.Option("--superseded", help="Also entries whose place another has taken.")] = False,
    config: ConfigOption = DEFAULT_FOLDER,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line; entries have no other form.")] = True,
) -> None:
    """Entries as JSON lines, oldest first. Reads the ledger, also while the gateway serves."""
    import msgspec

    from gateway.admin.questions import BadQuestion, moment
    from gateway.ledger import LedgerError
    from gateway.units import UsageSource

    _one_of("--usage-source", usage_source, get_args(UsageSource))
    _one_of("--outcome", outcome, OUTCOMES)
    given = {
        "team": team, "key": key, "account": account, "endpoint": endpoint, "model": model, "usage_source": usage_source,
        "outcome": outcome, "exchange_id": exchange_id, "session_id": session_id,
    }  # fmt: skip
    filters = {name: value for name, value in given.items() if value is not None}
    times = {name: value for name, value in (("since", since), ("until", until)) if value is not None}
    try:
        since_us, until_us = moment(times, "since"), moment(times, "until")
    except BadQuestion as error:
        stop(f"--{error.parameter}: {error}", BAD)
    ledger = ledger_or_stop(config)
    try:
        for entry in ledger.entries(filters, since_us, until_us, effective_only=not superseded, limit=limit):
            print(msgspec.json.encode(entry).decode())
    except LedgerError as error:
        stop(str(error))


def _one_of(option: str, given: str | None, known: Sequence[str]) -> None:
    """Exits with status 2 for a value that no entry has: an empty answer would read like nothing happened."""
    if given is not None and given not in known:
        stop(f"{option}: '{printable(given)}' is none; there are {', '.join(known)}", BAD)
