"""`gateway init`: a configuration to begin with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.configuration import DEFAULT_FOLDER, JsonOption
from gateway.cli.screen import BAD, say_problems, show_json, stop

if TYPE_CHECKING:
    from gateway.config.write import InitResult


def init(
    folder: Annotated[Path, typer.Argument(help="Where the configuration is to be.", show_default=True)] = DEFAULT_FOLDER,
    team: Annotated[str, typer.Option("--team", metavar="NAME", help="Name of the first team.")] = "default",
    as_json: JsonOption = False,
) -> None:
    """Make a configuration with one team and one key. Overwrites nothing."""
    from gateway.config.write import InitResult, init_folder

    result = init_folder(folder, team, env=os.environ)
    if not isinstance(result, InitResult):
        say_problems([result])
        stop("nothing was made", BAD)
    if as_json:
        show_json(
            {
                "team": team,
                "key": result.api_key,
                "written": [str(path) for path in result.written],
                "kept": [str(path) for path in result.kept],
                "problems": result.problems,
            }
        )
    else:
        _tell(result, folder, team)
    errors = [problem for problem in result.problems if problem.severity == "error"]
    said = (".api_key", "tier")  # the first of the next steps, and what the team's file says itself
    say_problems(errors or [problem for problem in result.problems if not problem.key.endswith(said)])
    if errors:
        raise typer.Exit(BAD)


def _tell(result: InitResult, folder: Path, team: str) -> None:
    for path in result.written:
        print(f"wrote {path}")
    for path in result.kept:
        print(f"kept {path}, which was there before")
    config = "" if folder == DEFAULT_FOLDER else f" --config {folder}"
    if result.api_key is None:
        print(f"\nNo key was made; `gateway keys create {team}{config}` makes one.")
        return
    print(f"\nThe key of team {team}. It is shown only now: the file keeps its SHA-256.\n\n    {result.api_key}\n")
    print("Next:")
    if os.environ.get("OPENAI_API_KEY"):
        print(f"  1. gateway serve{config}        (OPENAI_API_KEY is set; it stays in the gateway)")
    else:
        print(f"  1. export OPENAI_API_KEY=sk-...  your OpenAI account's key; it stays in the gateway\n     gateway serve{config}")
    print("  2. where your application runs:")
    print("     export OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=<the key above>")
