"""What the demo shows while the teams call: usage and cost from the ledger, limits from the admin port, refusals as clients see them."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from gateway.cli.demo.bill import Side
from gateway.cli.demo.folder import TEAMS
from gateway.cli.demo.traffic import Traffic
from gateway.cli.screen import fits
from gateway.ledger import LedgerError
from gateway.ledger.questions import SqliteQuestions
from gateway.units import usd_text

REFRESH_S = 0.5
COUNTS = ("calls", "refused", "input", "cached", "output", "reasoning")
SPARE = ("reasoning", "cached", "input", "output", "limits in use")  # what a narrow terminal does without, first to last


async def show_live(traffic: Traffic, ledger: Path, admin_url: str, seconds: int, stop: asyncio.Event) -> None:
    """Keep a table on the terminal fresh until `stop` is set, then take it away."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + seconds
    questions = SqliteQuestions(ledger)
    console = Console()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
        with Live(console=console, transient=True, auto_refresh=False) as live:
            while not stop.is_set():
                used, limits = await asyncio.gather(asyncio.to_thread(_used, questions), _limits(session, admin_url))
                live.update(_shown(console, traffic, used, limits, max(0, round(end_s - loop.time()))), refresh=True)
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), REFRESH_S)


def _used(ledger: SqliteQuestions) -> dict[str, Side]:
    """By team, what is booked; empty where the ledger cannot answer yet."""
    used: dict[str, Side] = {}
    with suppress(LedgerError, sqlite3.Error):
        for entry in ledger.entries():
            used.setdefault(entry["team"], Side()).add(entry["usage"], entry["details"], entry["cost_picousd"])
    return used


async def _limits(session: aiohttp.ClientSession, admin_url: str) -> list[dict[str, Any]]:
    with suppress(aiohttp.ClientError, TimeoutError):
        async with session.get(f"{admin_url}/admin/v1/limits") as answer:
            if answer.status == 200:
                limits: list[dict[str, Any]] = (await answer.json())["limits"]
                return limits
    return []


def _shown(console: Console, traffic: Traffic, used: Mapping[str, Side], limits: Sequence[Mapping[str, Any]], left_s: int) -> Table:
    """The widest table that fits: a cost that is cut reads like another one."""
    title = f"{left_s} s left; Ctrl-C ends it with the bill"
    table = _table(title, traffic, used, limits)
    for count in range(1, len(SPARE) + 1):
        if fits(table, console):
            break
        table = _table(title, traffic, used, limits, without=SPARE[:count])
    return table


def _table(
    title: str, traffic: Traffic, used: Mapping[str, Side], limits: Sequence[Mapping[str, Any]], without: Sequence[str] = ()
) -> Table:
    table = Table(title=title, header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    shown = [name for name in ("team", *COUNTS, "cost USD", "limits in use") if name not in without]
    for name in shown:
        table.add_column(name, justify="left" if name in ("team", "limits in use") else "right", no_wrap=True)
    for team in TEAMS:
        side, seen = used.get(team.name, Side()), traffic.seen[team.name]
        counts = (side.calls, seen.refused, side.input_tokens, side.cached_tokens, side.output_tokens, side.reasoning_tokens)
        cells = {name: f"{count:,}" for name, count in zip(COUNTS, counts, strict=True)}
        cells["team"] = f"{team.name}\n{team.tier}"
        cells["cost USD"] = "unpriced" if side.cost_picousd is None else usd_text(side.cost_picousd)
        cells["limits in use"] = _limits_text(team.name, limits)
        table.add_row(*(cells[name] for name in shown))
    return table


def _limits_text(team: str, limits: Sequence[Mapping[str, Any]]) -> str:
    """The team's own buckets over all models, a line each: "rpm 20/20", "tpm 6,120/40,000"."""
    return "\n".join(
        f"{reading['kind']} {reading['used_units']:,}/{reading['capacity_units']:,}"
        for reading in sorted(limits, key=lambda reading: str(reading["kind"]))
        if reading["team"] == team and reading["scope"] == "team"
    )
