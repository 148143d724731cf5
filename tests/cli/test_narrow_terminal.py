"""Tables on a terminal of 80 columns: no cost, name or head is folded or cut, since half of a number reads like another number."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import termios
from fcntl import ioctl
from pathlib import Path
from struct import pack
from typing import Any

import pytest
from rich.console import Console

from gateway.cli.demo import table
from gateway.cli.demo.bill import Side
from gateway.cli.demo.folder import TEAMS
from gateway.cli.demo.traffic import Traffic
from gateway.journal.format import Position
from gateway.journal.records import Entry
from gateway.ledger.sqlite import SqliteLedger
from gateway.units import Meter, usd_text

COLUMNS = 80
ROWS = {("search", "gpt-4o-mini-2024-07-18"): 15_700_005, ("support", "text-embedding-3-small"): 1_234_567_890_123}  # picoUSD


def entry(number: int, team: str, model: str, cost_picousd: int) -> Entry:
    usage = {Meter.INPUT_TEXT: 1_234_567, Meter.CACHED_TEXT: 512, Meter.OUTPUT_TEXT: 7_654_321, Meter.INPUT_AUDIO: 9, Meter.OUTPUT_AUDIO: 9}
    return Entry(
        exchange_id=f"gx-{number}", session_id=None, team=team, key=f"{team}-1", account="openai", endpoint="chat/completions",
        model_asked=model, model_served=model, service_tier="default", usage=usage, details={}, usage_source="reported",
        cost_picousd=cost_picousd, price_version="x", status=200, error_code=None, upstream_request_id=None, client_request_id=None,
        admitted_at_us=1_777_593_600_000_000, ended_at_us=1_777_593_600_000_005, timings_us={}, retry_count=None, outcome="ok",
        ask_tokens=1,
    )  # fmt: skip


def on_terminal(*arguments: str, columns: int = COLUMNS) -> list[str]:
    """The lines of a command whose stdout is a terminal so wide."""
    ours, its = pty.openpty()
    ioctl(its, termios.TIOCSWINSZ, pack("HHHH", 50, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")} | {"TERM": "xterm"}
    process = subprocess.Popen([sys.executable, "-m", "gateway", *arguments], stdin=its, stdout=its, stderr=its, env=environment)
    os.close(its)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65_536)
        except OSError:  # Linux's word for the end of a terminal
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait() == 0, shown
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).splitlines()


@pytest.fixture
def ledger(call: Any, home: Path) -> None:
    call("init")
    ledger = SqliteLedger(home / "var" / "ledger.db")
    entries = [entry(number, team, model, cost) for number, ((team, model), cost) in enumerate(ROWS.items())]
    ledger.fold("w0", Position(1, 1, 100, len(entries)), entries)
    ledger.close()


@pytest.mark.usefixtures("ledger")
def test_usage_shows_every_cost_and_model_whole_on_80_columns() -> None:
    lines = on_terminal("usage")
    for (team, model), cost_picousd in ROWS.items():
        (line,) = (line for line in lines if line.startswith(team))
        assert {model, usd_text(cost_picousd)} <= set(line.split())
        assert len(line) <= COLUMNS
    assert lines[0].split()[:4] == ["team", "model", "calls", "input"]
    assert lines[0].rstrip().endswith("cost usd")
    (left_out,) = (line for line in lines if line.startswith("No room for:"))
    assert "output audio" in left_out


@pytest.mark.usefixtures("ledger")
def test_usage_leaves_nothing_out_where_there_is_room() -> None:
    lines = on_terminal("usage", columns=200)
    assert "output audio" in lines[0]
    assert not any(line.startswith("No room for:") for line in lines)


@pytest.mark.usefixtures("ledger")
def test_names_are_not_cut_where_nothing_more_can_be_left_out() -> None:
    text = "\n".join(on_terminal("usage", columns=30))
    for (_, model), cost_picousd in ROWS.items():
        assert re.search(rf"{model} .* {usd_text(cost_picousd)}", text)


@pytest.mark.parametrize("width", [60, COLUMNS, 120])
def test_the_demo_shows_costs_whole(width: int) -> None:
    used = {team.name: Side(calls=12_345, input_tokens=1_234_567, output_tokens=1_234_567, cost_picousd=123_456_789_012) for team in TEAMS}
    limits = [
        {"team": team.name, "scope": "team", "kind": kind, "used_units": 345_678, "capacity_units": 400_000}
        for team in TEAMS
        for kind in ("rpm", "tpm")
    ]
    console = Console(file=io.StringIO(), width=width)
    console.print(table._shown(console, Traffic(), used, limits, left_s=9))
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert sum("0.123456789012" in line.split() for line in lines) == len(TEAMS)
    assert any("cost USD" in line for line in lines)
    assert ("reasoning" in console.file.getvalue()) is (width == 120)
