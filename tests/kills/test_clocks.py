"""The clock is set, by hours, while calls run: no crash, nobody locked out, no entry lost or doubled, and limits still hold."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

HOURS_S = 7_200
RPM = 60
LONG = pytest.mark.skipif(not os.environ.get("CI"), reason="minutes of it: runs where CI is set")


@LONG
@pytest.mark.parametrize("seconds", [-HOURS_S, HOURS_S], ids=["back", "forward"])
@pytest.mark.parametrize("place", ["journal.intent.after", "read.after"], ids=["of the worker", "of the books"])
def test_the_clock_jumps_and_no_call_is_lost(armed: Any, kit: Any, place: str, seconds: int) -> None:
    """Between the intent and the entry of a call; and back again later."""
    armed.serve(f"{place}=jump:{seconds}@40;{place}=jump:{-seconds}@120")
    load = kit.load(armed.place)

    async def story() -> None:
        async with load:
            await load.more_whole(12 * kit.callers)

    asyncio.run(story())
    entries = kit.check_books(armed.place, load)
    assert armed.acted() == [place, place]
    kit.check_log(armed.place)
    assert kit.request(armed.place.admin_url, "GET", "/readyz").status == 200
    assert all(0 <= entry["timings_us"].get("sent", 0) < 60_000_000 for entry in entries.values())  # of a clock that only goes on


@pytest.mark.parametrize("seconds", [pytest.param(-HOURS_S, id="back"), pytest.param(HOURS_S, id="forward", marks=LONG)])
def test_a_team_at_its_limit_waits_no_longer_when_the_clock_jumps(armed: Any, kit: Any, seconds: int) -> None:
    """A bucket must go on leaking when the clock was set back: a minute's limit would hold for hours else."""
    armed.place.team("voice", limits={"gpt-4o": {"rpm": RPM}})
    armed.serve(f"journal.intent.after=jump:{seconds}@{RPM // 2}")

    def call() -> int:
        status: int = armed.send("POST", "/chat/completions", kit.chat | {"max_completion_tokens": 1}).status
        return status

    statuses = [call() for _ in range(RPM)]
    assert set(statuses) <= {200, 429}
    assert len(armed.acted()) == 1
    kit.until(call, lambda status: status == 429, "at the limit")  # a bucket may have leaked meanwhile, but it is one
    kit.until(call, lambda status: status == 200, "there is room again")
    armed.place.settled()
    assert {entry["usage_source"] for entry in armed.place.entries()} == {"reported"}
    kit.check_log(armed.place)


@LONG
@pytest.mark.parametrize("seconds", [-HOURS_S, HOURS_S], ids=["back", "forward"])
def test_a_worker_that_starts_at_another_hour_keeps_the_days_limit(armed: Any, kit: Any, killer: Any, seconds: int) -> None:
    """The clock is set while it is down: what the ledger holds of the last day, or of hours to come, is in its bucket."""
    armed.place.team("voice", limits={"gpt-4o": {"rpd": 6}})
    armed.serve("")
    body = ("POST", "/chat/completions", kit.chat)
    assert [armed.send(*body).status for _ in range(4)] == [200] * 4
    armed.place.settled()
    assert armed.place.process.stop() == 0
    armed.serve(f"listen_control.before=jump:{seconds}@1;ledger.open.before=jump:{seconds}@1")
    statuses = [armed.send(*body).status for _ in range(3)]
    assert statuses == [200, 200, 429]
    armed.place.settled()
    kit.check_log(armed.place)
