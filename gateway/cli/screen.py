"""What commands print: tables for people, tab-separated lines for programs, errors as sentences. And how they exit."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from gateway.config.problems import Problem

FAILED = 1  # it could not be done, or what should be equal is not
BAD = 2  # the arguments or the configuration are wrong: trying again will not help


class Column(NamedTuple):
    """A column of a table."""

    name: str
    right: bool = False  # numbers
    spare: int = 0  # above 0: a narrow terminal does without it, the highest first


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
    """Rows on stdout: a table on a terminal, else a head and tab-separated lines. `empty` is said where there is no row.

    No cell is ever folded or cut: half of a number reads like another number. What has no room is left out and named below.
    """
    if not sys.stdout.isatty():
        for row in [[column.name for column in columns], *rows]:
            print("\t".join(map(printable, row)))
        return
    if not rows and empty:
        print(empty)
        return
    from rich.console import Console
    from rich.text import Text

    console = Console()
    places = list(range(len(columns)))
    spare = sorted((place for place in places if columns[place].spare), key=lambda place: columns[place].spare)
    left_out: list[str] = []
    while spare and not fits(_table(columns, rows, places, title), console):
        places.remove(spare[-1])
        left_out.insert(0, _head(columns[spare.pop()]))
    show_whole(_table(columns, rows, places, title), console)
    if left_out:
        console.print(Text(f"No room for: {', '.join(left_out)}. A wider terminal or --json shows them."), soft_wrap=True)


def fits(table: Table, console: Console) -> bool:
    """Whether the table can be shown with no cell folded."""
    return _width(table, console) <= console.width


def show_whole(table: Table, console: Console) -> None:
    """Print a table. Where the terminal is too narrow its lines run on, rather than that a cell is cut."""
    console.width = max(console.width, _width(table, console))
    console.print(table)


def _width(table: Table, console: Console) -> int:
    return console.measure(table, options=console.options.update(max_width=10_000)).maximum


def _head(column: Column) -> str:
    return column.name.replace("_", " ")


def _table(columns: Sequence[Column], rows: Sequence[Sequence[str]], places: Sequence[int], title: str) -> Table:
    """The columns at these places."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=title or None,
        title_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for place in places:
        table.add_column(_head(columns[place]), justify="right" if columns[place].right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(printable(row[place])) for place in places))  # Text: a name from outside is no markup
    return table


def printable(text: str) -> str:
    """Without control characters: names come from callers, and a terminal obeys what it is sent."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
