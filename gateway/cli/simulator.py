"""`gateway simulator`: an OpenAI to develop against without spending."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.screen import BAD, stop


def simulator(
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where to listen; port 0 takes a free one.")] = "127.0.0.1:8090",
    journal: Annotated[Path, typer.Option(metavar="FILE", help="Its account of what it served: one JSON line a request.")] = Path(
        "simulator.jsonl"
    ),
    seed: Annotated[int, typer.Option(help="The same seed draws the same usage for the same request.")] = 0,
    tokens_per_second: Annotated[int, typer.Option(min=0, help="How fast answers are generated; 0: as fast as possible.")] = 0,
    api_key: Annotated[str | None, typer.Option(metavar="KEY", help="Accept only this key; left out: any that is not empty.")] = None,
) -> None:
    """Run an OpenAI stand-in that keeps its own account. Point an account's base_url at it."""
    from gateway.simulator import run

    try:
        run(
            listen,
            journal,
            seed=seed,
            tokens_per_second=tokens_per_second,
            api_key=api_key,
            announce=lambda text: print(text, flush=True),
        )
    except ValueError as error:
        stop(f"--listen: {error}", BAD)
    except OSError as error:
        stop(f"the simulator cannot start: {error.strerror or error}")
