"""`gateway serve`: the gateway itself."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.configuration import DEFAULT_FOLDER, ConfigOption, load_or_stop
from gateway.cli.screen import stop

if TYPE_CHECKING:
    from gateway.serve import Bound


def serve(
    config: ConfigOption = DEFAULT_FOLDER,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only find out whether it would start with this configuration.")] = False,
) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish what runs. Changed configuration files are taken without a restart.

    SIGUSR2 restarts it without a refused connection: for another release, or for settings that are read once.
    """
    settings = load_or_stop(config, "serve", warn=True).settings

    from gateway import failpoints
    from gateway.process import configure_logs
    from gateway.serve import ServeError, try_out
    from gateway.serve import serve as serve_until_told

    if dry_run:
        try:
            try_out(settings)
        except ServeError as error:
            stop(str(error))
        return
    configure_logs()
    try:
        failpoints.arm("serve", os.environ.get(failpoints.VARIABLE, ""))
    except (failpoints.BadFailpoint, OSError) as error:
        stop(str(error))
    try:
        status = asyncio.run(serve_until_told(config, settings, announce=_announce))
    except ServeError as error:
        stop(str(error))
    raise typer.Exit(status)


def _announce(bound: Bound) -> None:
    print(f"gateway: ready on {', '.join(bound.proxy_urls)} (admin {bound.admin_url})", flush=True)
