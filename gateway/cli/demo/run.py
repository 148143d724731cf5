"""The demo in order: simulator, gateway, traffic; then everything ends, and the bill is made of what is left on disk."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

from gateway.cli.demo.bill import Bill, make_bill
from gateway.cli.demo.folder import write_configuration
from gateway.cli.demo.gateway import DemoError, DemoGateway
from gateway.cli.demo.table import show_live
from gateway.cli.demo.traffic import Traffic, calling
from gateway.cli.screen import say
from gateway.ledger import LedgerError
from gateway.ledger.questions import SqliteQuestions
from gateway.simulator import Pace, Simulator

PACE = Pace(tokens_per_second=400, first_token_ms=60)
TEMPORARY_BYTES_MAX = 50  # of the temp folder's path: below it lies a Unix socket, whose path holds 104 bytes on macOS


async def run_demo(seconds: int, *, plant_fault: bool, live: bool) -> Bill:
    """Let two teams call for so many seconds, or until SIGINT or SIGTERM. Nothing it made is left. Raises DemoError."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with TemporaryDirectory(prefix="gateway-demo-", dir=_temporary()) as folder:
        home = Path(folder)
        traffic = Traffic()
        async with Simulator(journal=home / "account.jsonl", pace=PACE) as simulator:
            keys = write_configuration(home / "config", simulator.base_url, plant_fault=plant_fault)
            say(f"a simulated OpenAI listens on {simulator.base_url}; starting the gateway in {home}")
            try:
                async with DemoGateway(home, home / "config") as gateway, calling(traffic, gateway.proxy_url, keys, stop):
                    await _until(stop, seconds, traffic, home, gateway.admin_url, live=live)
            except ExceptionGroup as group:
                raise group.exceptions[0] from group
            account = simulator.account()
        try:
            entries = list(SqliteQuestions(home / "ledger.db").entries())
        except LedgerError as error:
            raise DemoError(str(error)) from error
    seen = traffic.seen
    failures = [f"{name}: {one.failed} calls, the last {one.last_failure}" for name, one in seen.items() if one.failed]
    return make_bill(entries, account, traffic.asked, refused={name: one.refused for name, one in seen.items()}, failures=failures)


def _temporary() -> str:
    """Where the demo's folder is made: the temp folder, or /tmp when that one's path is too long."""
    temporary = gettempdir()
    return temporary if len(os.fsencode(temporary)) <= TEMPORARY_BYTES_MAX or not os.access("/tmp", os.W_OK) else "/tmp"


async def _until(stop: asyncio.Event, seconds: int, traffic: Traffic, home: Path, admin_url: str, *, live: bool) -> None:
    """Wait for the end, and show what happens meanwhile."""
    if not live:
        say(f"two teams call the gateway for {seconds} s; Ctrl-C ends it with the bill so far")
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), seconds)
        return
    asyncio.get_running_loop().call_later(seconds, stop.set)
    await show_live(traffic, home / "ledger.db", admin_url, seconds, stop)
    say("the calls that run are finished, and the gateway ends")
