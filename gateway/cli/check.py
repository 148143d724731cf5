"""`gateway check`: everything that is wrong with a configuration, without starting."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.configuration import DEFAULT_FOLDER, JsonOption, count_text
from gateway.cli.screen import BAD, printable, show_json


def check(
    folder: Annotated[Path, typer.Argument(help="Folder of the configuration.", envvar="GATEWAY_CONFIG")] = DEFAULT_FOLDER,
    as_json: JsonOption = False,
) -> None:
    """Read a configuration and print every problem with file and line. Exits with 2 when there are errors."""
    from gateway.config.load import Loaded, load

    found = load(folder, os.environ)
    loaded = isinstance(found, Loaded)
    problems = found.warnings if isinstance(found, Loaded) else tuple(found)
    if as_json:
        show_json({"ok": loaded, "problems": problems})
    else:
        for problem in problems:
            print(printable(problem.text()))
        errors = sum(problem.severity == "error" for problem in problems)
        said = f"{count_text(errors, 'error')}, {count_text(len(problems) - errors, 'warning')}"
        if isinstance(found, Loaded):
            said += f"; {count_text(len(found.teams), 'team')}, {count_text(len(found.catalogue.cards), 'model card')}"
        print(f"{folder}: {said}")
    if not loaded:
        raise typer.Exit(BAD)
