"""`gateway limits`: what is left of the limits now, asked of the running gateway."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.configuration import DEFAULT_FOLDER, ConfigOption, JsonOption, settings_or_stop
from gateway.cli.screen import BAD, FAILED, Column, printable, show_json, show_table, stop

if TYPE_CHECKING:
    from gateway.config.snapshot import AdminSettings

TIMEOUT_S = 10
UNAUTHORIZED = 401
ANY_HOST = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # listens everywhere; asked here
COLUMNS = [
    Column("team"), Column("scope"), Column("subject"), Column("kind"),
    Column("used", right=True, spare=2), Column("limit", right=True), Column("remaining", right=True),
    Column("full_again_in", right=True, spare=1),
]  # fmt: skip


def limits(
    team: Annotated[str | None, typer.Argument(help="The team; left out: all of them, and the upstream accounts.")] = None,
    config: ConfigOption = DEFAULT_FOLDER,
    as_json: JsonOption = False,
) -> None:
    """The live buckets of a team. Asks the admin port, so the gateway must be running."""
    admin = settings_or_stop(config).admin
    if not (admin.listen.path or admin.listen.port):
        stop(f"admin.listen in {config / 'gateway.yaml'} has port 0, so nobody knows where to ask; give it a port", BAD)
    status, answer = asyncio.run(_ask(admin, team))
    if status == UNAUTHORIZED:
        stop(_token_wanted(config, has_token=bool(admin.token.value)))
    if status != 200:
        message = answer.get("error", {}).get("message", f"the admin port answered {status}")
        stop(printable(message), BAD if status == 400 else FAILED)
    if as_json:
        show_json(answer)
        return
    from gateway.units import duration_text

    rows = [
        [
            reading["team"] or "-",
            reading["scope"],
            reading["subject"],
            reading["kind"],
            str(reading["used_units"]),
            str(reading["capacity_units"]),
            str(reading["remaining_units"]),
            duration_text(reading["reset_ms"] * 1000),
        ]
        for reading in answer["limits"]
    ]
    show_table(COLUMNS, rows, empty="No limit is in use: nothing was called in the last minutes, or nothing is limited.")


def _token_wanted(config: Path, *, has_token: bool) -> str:
    from gateway.config.documents import Document, read_document
    from gateway.config.settings import variable_in

    file = config / "gateway.yaml"
    document = read_document(str(file), file.read_bytes())
    name = variable_in(document.written(("admin", "token"))) if isinstance(document, Document) else ""
    missing = "another token than the one given here" if has_token else "its admin token, and none is given here"
    todo = (
        f"set {name} in this shell to what it is where the gateway runs"
        if name
        else "name the folder the gateway runs with by --config, or let it reload"
    )
    return f"the gateway wants {missing} (admin.token of {file}); {todo}"


async def _ask(admin: AdminSettings, team: str | None) -> tuple[int, dict[str, Any]]:
    """Status and JSON of the answer."""
    import aiohttp

    listen = admin.listen
    host = ANY_HOST.get(listen.host, listen.host) or "localhost"
    url = f"http://{f'[{host}]' if ':' in host else host}:{listen.port or 80}"
    shown = f"unix:{listen.path}" if listen.path else url
    connector = aiohttp.UnixConnector(path=listen.path) if listen.path else None
    headers = {"Authorization": f"Bearer {admin.token.value}"} if admin.token.value else {}
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as session,
            session.get(f"{url}/admin/v1/limits", params={"team": team} if team else {}) as answer,
        ):
            found: dict[str, Any] = await answer.json()
            return answer.status, found
    except (aiohttp.ClientConnectorError, OSError):
        stop(f"no gateway answers at {shown} (admin.listen of the configuration); start one with `gateway serve`")
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        stop(f"what answers at {shown} is no gateway, or it is in trouble: {type(error).__name__}")
