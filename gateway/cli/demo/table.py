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
from gateway.cli.demo.paper import fits
from gateway.cli.demo.traffic import Traffic
from gateway.ledger import LedgerError
from gateway.ledger.questions import SqliteQuestions
from gateway.units import usd_text

REFRESH_S = 0.5


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
    table = _table(traffic, used, limits, left_s, gap=1)
    return table if fits(table, console) else _table(traffic, used, limits, left_s, gap=0)


def _table(traffic: Traffic, used: Mapping[str, Side], limits: Sequence[Mapping[str, Any]], left_s: int, gap: int) -> Table:
    title = f"{left_s} s left; Ctrl-C ends it with the bill"
    table = Table(title=title, header_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, gap, 0, 0))
    table.add_column("team")
    for name in ("calls", "refused", "input", "cached", "output", "reasoning", "cost USD"):
        table.add_column(name, justify="right")
    table.add_column("limits in use", no_wrap=True)
    for team in TEAMS:
        side, seen = used.get(team.name, Side()), traffic.seen[team.name]
        quantities = (side.calls, seen.refused, side.input_tokens, side.cached_tokens, side.output_tokens, side.reasoning_tokens)
        cost = "unpriced" if side.cost_picousd is None else usd_text(side.cost_picousd)
        table.add_row(f"{team.name}\n{team.tier}", *(f"{n:,}" for n in quantities), cost, _limits_text(team.name, limits))
    return table


def _limits_text(team: str, limits: Sequence[Mapping[str, Any]]) -> str:
    """The team's own buckets over all models, a line each: "rpm 20/20", "tpm 6,120/40,000"."""
    return "\n".join(
        f"{reading['kind']} {reading['used_units']:,}/{reading['capacity_units']:,}"
        for reading in sorted(limits, key=lambda reading: str(reading["kind"]))
        if reading["team"] == team and reading["scope"] == "team"
    )
