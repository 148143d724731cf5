"""The bill as people and programs read it: a table on a terminal, aligned text elsewhere, JSON on demand."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from gateway.cli.demo.bill import Bill, BillRow, Side
from gateway.cli.screen import fits, printable, show_whole
from gateway.units import usd_text

if TYPE_CHECKING:
    from rich.table import Table

HEAD = ("team", "model", "tier", "calls", "input", "cached", "output", "of it reasoning", "ledger USD", "simulator USD", "")
LEFT = (0, 1, 2, 10)
JUDGED = (8, 9, 10)
NARROW = (0, 1, 2, 3, 8, 9, 10)  # on a terminal of 80 characters: the tokens were in the table before
DIFFERENCES_SHOWN = 10


def show(bill: Bill) -> None:
    """Print it on stdout."""
    if sys.stdout.isatty():
        _show_table(bill)
        return
    print("THE BILL")
    cells = [HEAD, *(_cells(row) for row in (*bill.rows, bill.total))]
    widths = [max(len(row[place]) for row in cells) for place in range(len(HEAD))]
    for row in cells:
        padded = (row[place].ljust(width) if place in LEFT else row[place].rjust(width) for place, width in enumerate(widths))
        print("  ".join(padded).rstrip())
    print()
    for line in verdict_lines(bill):
        print(line)


def verdict_lines(bill: Bill) -> Iterator[str]:
    """Equal or not, and in what; then what was refused."""
    calls, cost = bill.total.booked.calls, _usd(bill.total.booked)
    if bill.equal:
        yield f"EQUAL to the last digit: {calls} calls, ${cost} in the gateway's ledger and in the simulator's own account."
    elif not bill.rows:
        yield "NOTHING WAS USED: no call reached the simulator, so there is nothing to compare."
    else:
        ids = {difference.exchange_id for difference in bill.differences}
        served = _usd(bill.total.served)
        yield f"NOT EQUAL: ${cost} in the gateway's ledger, ${served} in the simulator's own account; {len(ids)} exchanges differ."
        for found in bill.differences[:DIFFERENCES_SHOWN]:
            yield f"  {found.exchange_id}  {found.what}: served {found.served}, booked {found.booked} ({found.kind})"
        if len(bill.differences) > DIFFERENCES_SHOWN:
            yield f"  and {len(bill.differences) - DIFFERENCES_SHOWN} more"
    refused = ", ".join(f"{team} {count}" for team, count in bill.refused.items())
    yield f"Refused at their limits, and not billed: {refused}."
    for failure in bill.failures:
        yield f"Failed: {printable(failure)}"


def as_json_value(bill: Bill) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "equal": bill.equal,
        "rows": [_json(row) for row in bill.rows],
        "total": _json(bill.total),
        "differences": bill.differences,
        "refused": bill.refused,
        "failures": bill.failures,
    }


def _json(row: BillRow) -> dict[str, Any]:
    group = {"team": row.team, "model": row.model, "service_tier": row.service_tier}
    costs = {f"{name}_usd": _usd(side) for name, side in (("booked", row.booked), ("served", row.served))}
    return {**(group if row.model else {}), "booked": row.booked, "served": row.served, **costs, "equal": row.equal}


def _usd(side: Side) -> str:
    return "unpriced" if side.cost_picousd is None else usd_text(side.cost_picousd)


def _cells(row: BillRow) -> tuple[str, ...]:
    """The row as text. A quantity on which the two differ shows both."""
    booked, served = row.booked, row.served
    pairs = (
        (booked.calls, served.calls),
        (booked.input_tokens, served.input_tokens),
        (booked.cached_tokens, served.cached_tokens),
        (booked.output_tokens, served.output_tokens),
        (booked.reasoning_tokens, served.reasoning_tokens),
    )
    quantities = (f"{ours:,}" if ours == theirs else f"{ours:,}/{theirs:,}" for ours, theirs in pairs)
    names = (printable(row.team), printable(row.model), printable(row.service_tier))
    return (*names, *quantities, _usd(booked), _usd(served), "equal" if row.equal else "DIFFERS")


def _show_table(bill: Bill) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console()
    table = _table(bill, range(len(HEAD)), gap=1)
    if not fits(table, console):
        table = _table(bill, NARROW, gap=0)
    show_whole(table, console)
    first, *others = verdict_lines(bill)
    console.print(Text(first, style="bold green" if bill.equal else "bold red"), soft_wrap=True)
    for line in others:
        console.print(Text(line), soft_wrap=True)


def _table(bill: Bill, places: Sequence[int], gap: int) -> Table:
    """The columns at these places of HEAD."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title="The bill", title_style="bold", header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, gap))
    for place in places:
        table.add_column(HEAD[place], justify="left" if place in LEFT else "right", no_wrap=True)
    for row in (*bill.rows, bill.total):
        if row is bill.total:
            table.add_section()
        style, cells = "green" if row.equal else "bold red", _cells(row)
        table.add_row(*(Text(cells[place], style=style if place in JUDGED else "") for place in places))
    return table
