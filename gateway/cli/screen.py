"""What commands print: tables for people, tab-separated lines for programs, errors as sentences. And how they exit."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import typer

if TYPE_CHECKING:
    from gateway.config.problems import Problem

FAILED = 1  # it could not be done, or what should be equal is not
BAD = 2  # the arguments or the configuration are wrong: trying again will not help


class Column(NamedTuple):
    """A column of a table."""

    name: str
    right: bool = False  # numbers


def stop(message: str, status: int = FAILED) -> NoReturn:
    """Say on stderr why it cannot be done, and exit."""
    say(message)
    raise typer.Exit(status)


def say(message: str) -> None:
    """A line for people, on stderr: stdout is for what was asked."""
    print(f"gateway: {message}", file=sys.stderr, flush=True)


def say_problems(problems: Iterable[Problem]) -> None:
    """Problems of the configuration on stderr, a line each."""
    for problem in problems:
        print(printable(problem.text()), file=sys.stderr)


def show_json(value: Any) -> None:
    """One JSON document on stdout, indented where a person looks at it."""
    import msgspec

    text = msgspec.json.encode(value)
    print((msgspec.json.format(text, indent=2) if sys.stdout.isatty() else text).decode())


def show_table(columns: Sequence[Column], rows: Sequence[Sequence[str]], *, title: str = "", empty: str = "") -> None:
    """Rows on stdout: a table on a terminal, else a head and tab-separated lines. `empty` is said where there is no row."""
    if not sys.stdout.isatty():
        for row in [[column.name for column in columns], *rows]:
            print("\t".join(map(printable, row)))
        return
    if not rows and empty:
        print(empty)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column.name, justify="right" if column.right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))  # Text: a name from outside is no markup
    Console().print(table)


def printable(text: str) -> str:
    """Without control characters: names come from callers, and a terminal obeys what it is sent."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
