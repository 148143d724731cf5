"""`gateway serve`: the gateway itself."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gateway.cli.configuration import DEFAULT_FOLDER, ConfigOption, load_or_stop
from gateway.cli.screen import stop

if TYPE_CHECKING:
    from gateway.config.snapshot import Settings
    from gateway.serve import Bound


def serve(config: ConfigOption = DEFAULT_FOLDER) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish what runs. Changed configuration files are taken without a restart."""
    settings = load_or_stop(config, "serve", warn=True).settings

    from gateway import failpoints
    from gateway.process import configure_logs
    from gateway.serve import ServeError

    configure_logs()
    try:
        failpoints.arm("serve", os.environ.get(failpoints.VARIABLE, ""))
    except (failpoints.BadFailpoint, OSError) as error:
        stop(str(error))
    try:
        status = asyncio.run(_serve(config, settings))
    except ServeError as error:
        stop(str(error))
    raise typer.Exit(status)


async def _serve(config: Path, settings: Settings) -> int:
    from gateway.serve import serve as serve_until

    stop_now = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop_now.set)
    return await serve_until(config, settings, announce=_announce, stop=stop_now)


def _announce(bound: Bound) -> None:
    print(f"gateway: ready on {bound.proxy_url} (admin {bound.admin_url})", flush=True)
