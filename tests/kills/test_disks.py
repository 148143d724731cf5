"""Disks that are full, read-only, broken or lying: calls are refused or go on, by the promise; a name says which; and it ends by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.ledger.questions import SqliteQuestions

AWAY = "degraded unavailable"
LONG = pytest.mark.skipif(not os.environ.get("CI"), reason="minutes of it: runs where CI is set")


def checks(place: Any) -> tuple[int, dict[str, str]]:
    """Status of /readyz, and each check as "level state"."""
    answer = place.admin("/readyz")
    split = [line.split(" ", 2) for line in answer.body.decode().splitlines()]
    return answer.status, {name: f"{level} {state.partition(':')[0]}" for level, name, state in split}


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """A small file system, or a read-only view of one; skips where that is not permitted."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting needs root: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(ballast: Path) -> None:
    """Leave no byte on a file system."""
    done = subprocess.run(["dd", "if=/dev/zero", f"of={ballast}", "bs=4096"], capture_output=True, check=False)
    assert b"No space" in done.stderr


# The journal's disk


async def through_without_room(armed: Any, kit: Any, load: Any, make_room: Callable[[], None]) -> None:
    """Load until the journal takes no more: 503, and a name in /readyz. With room it is back by itself."""
    place = armed.place

    def named() -> Any:
        status, found = checks(place)
        return status == 503 and found["workers"] == "failed none_serving" and found["worker:w0"] == "failed journal_full"

    async with load:
        await load.refused_for("journal_full")
        await asyncio.to_thread(kit.until, named, bool, "no room, by its name", kit.patience_s)
        make_room()
        await asyncio.to_thread(kit.until, lambda: checks(place)[0], lambda status: status == 200, "ready again by itself", kit.patience_s)
        await load.more_whole(kit.callers)


def test_a_journal_that_gets_no_room_for_a_while_refuses_and_comes_back(armed: Any, kit: Any) -> None:
    armed.serve("make_segment.before=enospc@3-8")  # tried once a second
    load = kit.load(armed.place)
    asyncio.run(through_without_room(armed, kit, load, make_room=lambda: None))
    kit.check_books(armed.place, load)
    kit.check_log(armed.place)
    assert set(armed.acted()) == {"make_segment.before"}


@LONG
def test_a_ledger_that_is_away_until_the_journals_disk_is_full(armed: Any, kit: Any) -> None:
    """Segments cannot go while the ledger does not hold them; once it does, they make the room."""
    with ExitStack() as disk:
        disk.enter_context(mounted(armed.place.root / "journal", "-t", "tmpfs", "-o", "size=512k", "tmpfs"))
        disk.callback(lambda: armed.place.process.stop())
        armed.serve("")
        lock = ExitStack()
        lock.enter_context(locked(armed.place.root / "ledger.db"))
        load = kit.load(armed.place)
        asyncio.run(through_without_room(armed, kit, load, make_room=lock.close))
        kit.check_books(armed.place, load)
        kit.check_log(armed.place, "ledger_state")


@LONG
def test_a_journal_whose_disk_does_not_sync_ends_the_worker_and_loses_nothing(armed: Any, kit: Any) -> None:
    """After a failed sync nothing can be trusted to be durable: no more is admitted, and it is for people to start it again."""
    armed.serve("journal.sync.before=eio@30")
    place, load = armed.place, kit.load(armed.place)

    async def story() -> None:
        async with load:
            await asyncio.to_thread(
                kit.until, lambda: checks(place), lambda found: found[1].get("worker:w0") == "failed journal_failed", "failed"
            )

    asyncio.run(story())
    assert checks(place)[0] == 503
    kit.until(lambda: place.metric("gateway_degraded", check="worker:w0", state="journal_failed"), lambda value: value == 1, "a metric")
    os.kill(place.role("worker"), signal.SIGTERM)
    kit.until(lambda: checks(place)[0], lambda status: status == 200, "ready again", kit.patience_s)
    kit.check_books(armed.place, load)


def test_a_process_that_syncs_the_journal_and_is_killed_is_followed_by_another(armed: Any, kit: Any) -> None:
    armed.serve("")
    place, load = armed.place, kit.load(armed.place)
    worker = place.role("worker")

    def syncers() -> list[int]:
        """What the worker has started: nothing but that."""
        return [int(pid) for task in Path(f"/proc/{worker}/task").iterdir() for pid in (task / "children").read_text().split()]

    async def story() -> None:
        async with load:
            for _ in range(3):
                await load.more_whole(kit.callers)
                (killed,) = syncers()
                os.kill(killed, signal.SIGKILL)
                await asyncio.to_thread(
                    kit.until, syncers, lambda found, killed=killed: found and killed not in found, "another", kit.patience_s
                )
            await load.more_whole(kit.callers)

    asyncio.run(story())
    assert place.role("worker") == worker
    assert (checks(place)[0], checks(place)[1]["worker:w0"]) == (200, "ok ok")
    assert sum("journal_syncer_died" in line for line in place.complaints()) == 3
    kit.check_books(place, load)
    kit.check_log(place, "journal_syncer_died")


# The ledger's disk


@contextmanager
def locked(ledger: Path) -> Iterator[None]:
    """Another process writes, and does not end."""
    database = sqlite3.connect(ledger, isolation_level=None, timeout=20)
    try:
        database.execute("BEGIN EXCLUSIVE")
        yield
    finally:
        database.close()


@contextmanager
def full(ledger: Path) -> Iterator[None]:
    ballast = ledger.with_name("ballast")
    fill(ballast)
    try:
        yield
    finally:
        ballast.unlink()


@contextmanager
def read_only(ledger: Path) -> Iterator[None]:
    """Seen from the moment the ledger is opened: a file that is open for writing keeps its file system writable."""
    with mounted(ledger.parent, "--bind", str(ledger.parent)) as folder:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        yield


LEDGER_TROUBLE = [
    pytest.param(locked, id="locked", marks=LONG),
    pytest.param(full, id="full", marks=LONG),
    pytest.param(read_only, id="read-only", marks=LONG),
]


@pytest.mark.parametrize("trouble", LEDGER_TROUBLE)
def test_while_the_ledger_is_away_calls_go_on_and_the_books_catch_up(
    armed: Any, kit: Any, trouble: Callable[[Path], Any], tmp_path: Path
) -> None:
    place, folder = armed.place, tmp_path / "books"
    config = (place.config / "gateway.yaml").read_text()
    place.write("gateway.yaml", config.replace(f"sqlite:{place.root}/ledger.db", f"sqlite:{folder}/ledger.db"))
    place.ledger = SqliteQuestions(folder / "ledger.db")
    load = kit.load(armed.place)
    with ExitStack() as disk:
        disk.enter_context(mounted(folder, "-t", "tmpfs", "-o", "size=4m", "tmpfs"))
        disk.callback(lambda: place.process.stop())
        armed.serve("")
        asyncio.run(through(armed, kit, load, trouble, folder / "ledger.db"))
        kit.check_books(armed.place, load)


async def through(armed: Any, kit: Any, load: Any, trouble: Callable[[Path], Any], ledger: Path) -> None:
    """Load before, during and after the trouble, which has a name for as long as it lasts, and only then."""
    place = armed.place
    async with load:
        await load.more_whole(kit.callers)
        with trouble(ledger):
            if trouble is read_only:
                os.kill(place.role("books"), signal.SIGKILL)
            await asyncio.to_thread(
                kit.until, lambda: checks_or_none(place), lambda found: found and found[0] == 200 and found[1]["ledger"] == AWAY, "named"
            )
            before = len(load.exact)
            await load.more_whole(2 * kit.callers)
            status, named = await asyncio.to_thread(checks, place)
            assert (status, named["ledger"]) == (200, AWAY)
            metric = await asyncio.to_thread(lambda: place.metric("gateway_degraded", check="ledger", state="unavailable"))
            assert metric == 1
            assert len(load.exact) >= before + 2 * kit.callers
        await asyncio.to_thread(
            kit.until, lambda: checks_or_none(place), lambda found: found and found[1]["ledger"] == "ok ok", "back", kit.patience_s
        )
        await load.more_whole(kit.callers)


def checks_or_none(place: Any) -> tuple[int, dict[str, str]] | None:
    try:
        return checks(place)
    except OSError:
        return None  # books that have just been killed


# A journal that lies


@LONG
def test_a_flipped_bit_in_the_middle_of_the_journal_is_an_alarm(armed: Any, kit: Any) -> None:
    """What is lost is an entry: its intent stays, so its call is booked at the ask when the worker has ended."""
    armed.serve("")
    place = armed.place
    place.settled()
    books = place.role("books")
    os.kill(books, signal.SIGSTOP)
    bodies = [armed.send("POST", "/chat/completions", kit.chat) for _ in range(5)]
    ids = [answer.headers["x-gateway-request-id"] for answer in bodies]
    segment = max((place.root / "journal" / "w0").glob("*.journal"), key=lambda path: (path.stat().st_mtime_ns, path.name))
    content = bytearray(segment.read_bytes())
    place_of_entry = content.find(ids[2].encode(), content.find(ids[2].encode()) + 1)
    assert place_of_entry > 0
    content[place_of_entry] ^= 1
    with segment.open("r+b") as file:
        file.seek(place_of_entry)
        file.write(content[place_of_entry : place_of_entry + 1])
    os.kill(books, signal.SIGCONT)
    kit.until(lambda: checks(place)[1].get("journal:w0"), lambda state: state == "degraded gap_found", "the alarm")
    assert place.metric("gateway_journal_gaps_total", worker="w0") == 1
    assert [event.facts["missing"] for event in place.ledger.events("journal_gap")] == [1]
    kit.until(lambda: {entry["exchange_id"] for entry in place.entries()}, lambda found: found == {*ids} - {ids[2]}, "the others")
    os.kill(place.role("worker"), signal.SIGTERM)
    kit.until(
        lambda: {entry["exchange_id"] for entry in place.entries()}, lambda found: found == {*ids}, "and the lost one", kit.patience_s
    )
    lost = next(entry for entry in place.entries() if entry["exchange_id"] == ids[2])
    assert (lost["usage_source"], "orphan" in lost["marks"], lost["cost_picousd"] > 0) == ("unknown", True, True)
    assert any("journal_gap" in line for line in place.complaints())
