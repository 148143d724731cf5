"""The configuration as commands need it: whole, or only where the ledger and the admin port are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.screen import BAD, say, say_problems, stop

if TYPE_CHECKING:
    from gateway.config.load import Loaded
    from gateway.config.settings import Purpose
    from gateway.config.snapshot import Settings
    from gateway.ledger.questions import SqliteQuestions

DEFAULT_FOLDER = Path("config")

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", metavar="FOLDER", envvar="GATEWAY_CONFIG", help="Folder of the configuration.", show_default=True)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def load_or_stop(folder: Path, purpose: Purpose = "read", *, warn: bool = False) -> Loaded:
    """Everything that is configured; exits with status 2 after every problem was said. `warn`: say the warnings too."""
    from gateway.config.load import Loaded, load

    found = load(folder, os.environ, purpose=purpose)
    if isinstance(found, Loaded):
        if warn:
            say_problems(found.warnings)
        return found
    say_problems(found)
    errors = sum(problem.severity == "error" for problem in found)
    stop(f"the configuration in {folder} has {count_text(errors, 'error')}; nothing was done", BAD)


def settings_or_stop(folder: Path) -> Settings:
    """Only gateway.yaml: a team's file that is being edited keeps nobody from reading the ledger. Exits with status 2."""
    from gateway.config.files import Files, LazySource, read_bytes
    from gateway.config.gateway_file import GatewayFile
    from gateway.config.problems import Findings
    from gateway.config.settings import SettingsReader

    if folder.is_file():
        stop(f"{folder} is a file; name the folder, here {folder.parent}", BAD)
    if not folder.is_dir():
        stop(f"there is no folder {folder}; name it with --config, or make one with `gateway init`", BAD)
    findings = Findings()
    read = Files(os.environ, {}, read_bytes, findings).read(folder / "gateway.yaml", GatewayFile, lambda file: file)
    settings = SettingsReader(LazySource(read), os.environ, "read", read_bytes, findings).settings(read.value) if read else None
    if settings is None or findings.errors:
        say_problems(findings.errors)
        stop(f"{folder / 'gateway.yaml'} has problems; nothing was done", BAD)
    return settings


def ledger_or_stop(folder: Path) -> SqliteQuestions:
    """The ledger, to be asked and never changed; also while a gateway writes it. Exits with status 1 when there is none."""
    from gateway.ledger.questions import SqliteQuestions

    path = Path(settings_or_stop(folder).ledger_url.removeprefix("sqlite:"))
    if not path.exists():
        say(f"there is no ledger at {path.absolute()} (`ledger` in {folder / 'gateway.yaml'})")
        stop("a ledger begins with the first `gateway serve`; a relative path begins in the folder where that was started")
    return SqliteQuestions(path)


def count_text(count: int, noun: str) -> str:
    """As "1 error" or "3 errors"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
