"""Every command has help, and the help of all is there at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

from gateway import VERSION
from gateway.cli.app import app

HEAVY = ("aiohttp", "pydantic", "prometheus_client", "msgspec", "structlog", "uvloop", "yaml", "sqlite3", "gateway.serve", "gateway.config")


def commands(command: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with the words that call it."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, *path, name)


ALL = list(commands(get_command(app)))


def test_the_commands_of_the_design_are_there() -> None:
    assert {" ".join(path) for path, _ in ALL if path} >= {
        "demo", "init", "check", "serve", "usage", "entries", "limits", "models", "models show", "simulator",
        "keys", "keys create", "keys list", "keys revoke",
    }  # fmt: skip


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(path) or "gateway" for path, _ in ALL])
def test_every_command_and_option_has_help(call: Any, path: tuple[str, ...], command: Any) -> None:
    shown = call(*path, "--help")
    assert shown.exit_code == 0
    assert command.help
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{path}: {parameter.name}"


@pytest.mark.parametrize("path", [path for path, command in ALL if path and not hasattr(command, "commands")], ids=" ".join)
def test_what_prints_data_prints_it_as_json_too(path: tuple[str, ...]) -> None:
    options = {option for parameter in dict(ALL)[path].params for option in parameter.opts}
    assert "--json" in options or path in {("serve",), ("simulator",)}


def test_help_imports_no_room_that_takes_time() -> None:
    code = f"import sys, gateway.cli.app; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout == "[]\n"


def test_version(call: Any) -> None:
    assert call("--version").stdout == f"gateway {VERSION}\n"


def test_no_colour_reaches_what_is_no_terminal(run: Any) -> None:
    for arguments in (("models",), ("check",), ("--help",)):
        ended = run(*arguments)
        assert "\x1b" not in ended.stdout + ended.stderr
