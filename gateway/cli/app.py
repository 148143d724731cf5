"""Every command by its name."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli.check import check
from gateway.cli.demo.command import demo
from gateway.cli.entries import entries
from gateway.cli.init import init
from gateway.cli.keys import keys
from gateway.cli.limits import limits
from gateway.cli.models import models
from gateway.cli.serve import serve
from gateway.cli.simulator import simulator
from gateway.cli.usage import usage

app = typer.Typer(
    name="gateway",
    help="A gateway in front of the OpenAI API: meters, prices and limits what every team uses.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a traceback is a fault of ours, and is wanted whole
    context_settings={"help_option_names": ["-h", "--help"]},
)

START, RUN, ASK = "Start here", "Configure and run", "Ask"

app.command(rich_help_panel=START)(demo)
app.command(rich_help_panel=START)(init)
app.command(rich_help_panel=RUN)(check)
app.command(rich_help_panel=RUN)(serve)
app.add_typer(keys, name="keys", rich_help_panel=RUN)
app.command(rich_help_panel=RUN)(simulator)
app.command(rich_help_panel=ASK)(usage)
app.command(rich_help_panel=ASK)(entries)
app.command(rich_help_panel=ASK)(limits)
app.add_typer(models, name="models", rich_help_panel=ASK)


def _version(wanted: bool) -> None:
    if wanted:
        from gateway import VERSION

        print(f"gateway {VERSION}")
        raise typer.Exit


@app.callback()
def _gateway(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")] = False,
) -> None:
    """A gateway in front of the OpenAI API: meters, prices and limits what every team uses."""
