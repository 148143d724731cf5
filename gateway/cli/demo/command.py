"""The command `gateway demo`."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer

from gateway.cli.configuration import JsonOption
from gateway.cli.screen import FAILED, show_json, stop


def demo(
    seconds: Annotated[int, typer.Option(min=1, max=3600, help="How long the teams call.")] = 15,
    plant_fault: Annotated[
        bool, typer.Option("--plant-fault", help="Make one price in the gateway's model card wrong: the bill must turn red.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """See it work, without a key: two teams, a simulated OpenAI, live usage, and the bill held against what was really served.

    Exits with 0 when the gateway's ledger equals the simulator's own account to the last digit, else with 1. Ctrl-C ends it early.
    """
    from gateway.cli.demo.gateway import DemoError
    from gateway.cli.demo.paper import as_json_value, show
    from gateway.cli.demo.run import run_demo

    try:
        bill = asyncio.run(run_demo(seconds, plant_fault=plant_fault, live=sys.stdout.isatty() and not as_json))
    except DemoError as error:
        stop(str(error))
    except OSError as error:  # no temporary folder, no room, no port
        stop(f"the demo cannot run here: {error}")
    if as_json:
        show_json(as_json_value(bill))
    else:
        show(bill)
    if not bill.equal:
        raise typer.Exit(FAILED)
