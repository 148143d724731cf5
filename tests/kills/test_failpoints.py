"""Every seam by its name: it exists, it is reached, and a process that is killed there loses no call."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest

from gateway import failpoints
from gateway.failpoints import NAMES, SEAMS, BadFailpoint, Order, Seam, arm, owner_of, parse

LONG = bool(os.environ.get("CI"))
LIVES = 3 if LONG else 2  # of each role on one gateway: `serve` waits longer each time before it starts a role again
BATCHES = None if LONG else 1  # None: until all failpoints have killed
AT_START = {"take_snapshot", "listen_control", "make_segment", "next_segment", "ledger.open", "greet", "push", "refill"}
SELDOM = {"delete_segments", "ledger.orphans", "ledger.supersede", "ledger.events", "reload", "rule", "drain", "journal.close"}
AT_END = {"journal.close": "worker", "drain": "books"}  # reached by a role that is asked to stop
HOUSE = Path(failpoints.__file__).parent


# The table


@pytest.mark.parametrize("seam", SEAMS, ids=lambda seam: seam.name)
def test_every_seam_is_there(seam: Seam) -> None:
    owner, name = owner_of(seam)
    assert callable(vars(owner)[name])


def test_names_are_unique_and_so_are_places() -> None:
    assert len(set(NAMES)) == len(NAMES) == 2 * len(SEAMS)
    assert len({seam.where for seam in SEAMS}) == len(SEAMS)


def test_a_seam_that_is_gone_says_what_to_do() -> None:
    with pytest.raises(AttributeError, match="rename the seam 'gone'"):
        owner_of(Seam("gone", "worker", "gateway.journal.writer:JournalWriter.no_more"))


def test_off_means_that_nothing_is_there() -> None:
    """No wrapper, and nothing on the path that asks: the room is named by those who arm it, and by nobody else."""
    before = [vars(owner)[name] for owner, name in map(owner_of, SEAMS)]
    assert arm("worker", "") == arm("books", "") == arm("serve", " ; ") == ()
    assert [vars(owner)[name] for owner, name in map(owner_of, SEAMS)] == before
    naming = {str(path.relative_to(HOUSE)) for path in HOUSE.rglob("*.py") if re.search(r"\bfailpoints\b", path.read_text())}
    assert naming == {"failpoints.py", "worker.py", "books/__main__.py", "cli/serve.py"}


@pytest.mark.parametrize(
    "text, order",
    [
        ("chunk.before=kill", Order("chunk.before", "kill")),
        ("chunk.after=kill@17", Order("chunk.after", "kill", 17, 17)),
        ("make_segment.before=enospc@3-8", Order("make_segment.before", "enospc", 3, 8)),
        ("read.after=eio%0.25:7", Order("read.after", "eio", 1, None, 0.25, 7)),
        (" chunk.after=jump:-7200@2 ;", Order("chunk.after", "jump:-7200", 2, 2)),
    ],
)
def test_an_order_is_read(text: str, order: Order) -> None:
    assert parse(text) == (order,)


def test_a_star_is_every_name() -> None:
    assert [order.name for order in parse("*=tell@1")] == list(NAMES)


@pytest.mark.parametrize(
    "text, said",
    [
        ("journal.entri.after=kill@17", r"no failpoint 'journal.entri.after'; did you mean journal.entry.after\? There are admit.before, "),
        ("nothing=kill", r"no failpoint 'nothing'; There are admit.before, "),
        ("chunk.before", r"'chunk.before' is not <failpoint>=<action>.*actions are kill, exit, enospc, "),
        ("chunk.before=explode", "is not <failpoint>=<action>"),
        ("chunk.before=kill@0", "never acts"),
        ("chunk.before=kill@5-4", "never acts"),
        ("chunk.before=kill%1.5:3", "is not <failpoint>=<action>"),
        ("chunk.before=kill%0.5", "is not <failpoint>=<action>"),
    ],
)
def test_an_order_that_cannot_be_meant_says_what_can(text: str, said: str) -> None:
    with pytest.raises(BadFailpoint, match=said):
        parse(text)


def test_a_file_of_orders_that_cannot_be_read_is_named_with_the_variable(tmp_path: Path) -> None:
    with pytest.raises(BadFailpoint, match=r"^GATEWAY_FAILPOINTS: the file '.*none' cannot be read: No such file or directory$"):
        arm("serve", f"file:{tmp_path / 'none'}")
    (tmp_path / "binary").write_bytes(b"\xff")
    with pytest.raises(BadFailpoint, match=r"^GATEWAY_FAILPOINTS: the file '.*binary' cannot be read: 'utf-8' codec"):
        arm("serve", f"file:{tmp_path / 'binary'}")


def test_serve_does_not_start_with_an_order_that_cannot_be_read(armed: Any) -> None:
    place = armed.place
    argv = [sys.executable, "-m", "gateway", "serve", "--config", str(place.config)]
    env = {**os.environ, "UPSTREAM_KEY": "sk", failpoints.VARIABLE: "journal.entri.after=kill@17"}
    ended = subprocess.run(argv, env=env, cwd=place.root, capture_output=True, timeout=60, check=False)
    assert ended.returncode != 0
    assert b"did you mean journal.entry.after?" in ended.stderr
    assert b"Traceback" not in ended.stderr


# Each action, in a process of its own

CHILD = """
import sys, time, asyncio
from gateway import failpoints
from gateway.process import configure_logs
configure_logs()
class Place:
    def work(self): return 7
    async def wait(self): return 8
sys.modules["somewhere"] = sys.modules["__main__"]
failpoints.SEAMS = (failpoints.Seam("work", "worker", "somewhere:Place.work"), failpoints.Seam("wait", "worker", "somewhere:Place.wait"))
failpoints.NAMES = ("work.before", "work.after", "wait.before", "wait.after")
failpoints.arm("worker", sys.argv[1])
for turn in range(4):
    before = time.time()
    try:
        print(Place().work(), asyncio.run(Place().wait()), round(time.time() - before, -2))
    except Exception as error:
        print(type(error).__name__, getattr(error, "errno", None))
    sys.stdout.flush()
"""


@pytest.mark.parametrize(
    "text, said, status",
    [
        ("work.before=kill@3", ["7 8 0.0"] * 2, -signal.SIGKILL),
        ("wait.after=exit@2", ["7 8 0.0"], failpoints.EXIT_STATUS),
        ("work.after=enospc@2-3", ["7 8 0.0", "OSError 28", "OSError 28", "7 8 0.0"], 0),
        ("wait.before=eio@1", ["OSError 5", *["7 8 0.0"] * 3], 0),
        ("wait.before=error", ["FailpointError None"] * 4, 0),
        ("work.before=tell;wait.before=jump:-7200@2", ["7 8 0.0", "7 8 -7200.0", "7 8 0.0", "7 8 0.0"], 0),
        ("work.before=jump:7200@1;work.after=jump:-7200@1", ["7 8 0.0"] * 4, 0),
    ],
)
def test_an_action_does_what_it_says(text: str, said: list[str], status: int) -> None:
    ended = subprocess.run([sys.executable, "-c", CHILD, text], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.stdout.splitlines(), ended.returncode) == (said, status), ended.stderr


def test_the_same_seed_is_the_same_chance() -> None:
    def told(seed: int) -> list[str]:
        argv = [sys.executable, "-c", CHILD.replace("range(4)", "range(100)"), f"work.before=error%0.3:{seed}"]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()

    assert told(7) == told(7) != told(8)
    assert 10 < told(7).count("FailpointError None") < 60


# On the gateway


def test_every_failpoint_is_reached(armed: Any, kit: Any, killer: Any) -> None:
    """By the load, a worker that dies, a reload, and a gateway that stops. Without that, none of them tests anything."""
    armed.serve("*=tell@1")
    load = kit.load(armed.place)

    async def story() -> None:
        async with load:
            reloading = asyncio.create_task(armed.reload_for_ever())
            await load.more_whole(20 * kit.callers)
            await killer.kill(armed.place, "worker")
            await load.more_whole(kit.callers)
            reloading.cancel()

    asyncio.run(story())
    kit.check_books(armed.place, load)
    kit.check_log(armed.place)
    assert armed.place.process.stop() == 0
    armed.acted()
    assert armed.reached == set(NAMES)


def when(name: str, chance: Random) -> str:
    """The order to kill at a failpoint, at a moment that a life of a second or two reaches."""
    seam = name.rpartition(".")[0]
    most = 1 if seam in AT_START | SELDOM else 120 if seam in ("chunk", "body") else 15
    return f"{name}=kill@{chance.randint(1, most)}"


def test_killed_at_every_failpoint_no_call_is_lost(armed: Any, kit: Any, killer: Any, chance: Random) -> None:
    """Each role dies at one failpoint after the other, both at once, under load and reloads. A plain run takes a sample."""
    left = {
        role: [name for seam in SEAMS for name in NAMES if seam.role == role and name.rpartition(".")[0] == seam.name]
        for role in ("worker", "books")
    }
    for names in left.values():
        chance.shuffle(names)
    batch = 0
    while any(left.values()) and batch != BATCHES:
        batch += 1
        todo = {role: [names.pop() for _ in range(min(LIVES, len(names)))] for role, names in left.items()}
        load = kit.load(armed.place)
        armed.serve("")
        asyncio.run(batch_story(armed, kit, killer, chance, load, todo))
        kit.check_books(armed.place, load)
        kit.check_log(armed.place)
        assert armed.place.process.stop() == 0


async def batch_story(armed: Any, kit: Any, killer: Any, chance: Random, load: Any, todo: dict[str, list[str]]) -> None:
    """Both roles through their failpoints: whoever has died finds the next one in the file."""
    async with load:
        reloading = asyncio.create_task(armed.reload_for_ever())
        await load.more_whole(kit.callers)
        orders = {role: when(names[0], chance) for role, names in todo.items() if names}
        armed.order(";".join(orders.values()))
        pids = {role: await asyncio.to_thread(armed.place.role, role) for role in orders}
        for pid in pids.values():  # so that the next ones read the file
            os.kill(pid, signal.SIGKILL)
        killer.kills.update(pids.keys())
        end_s = time.monotonic() + kit.patience_s * 2
        while orders:
            assert time.monotonic() < end_s, f"not reached: {orders}\n{armed.place.process.log.read_text()[-4000:]}"
            for name in await asyncio.to_thread(armed.acted):
                for role in [role for role, names in todo.items() if names and names[0] == name]:
                    killer.kills[role] += 1
                    todo[role].pop(0)
                    orders.pop(role)
                    if todo[role]:
                        orders[role] = when(todo[role][0], chance)
                    armed.order(";".join(orders.values()))
            await provoke(armed, kit, orders)
            await asyncio.sleep(0.01)
        await killer.back(armed.place, {"worker": -1, "books": -1})
        reloading.cancel()
        await load.more_whole(kit.callers)


async def provoke(armed: Any, kit: Any, orders: dict[str, str]) -> None:
    """What is reached only by a role that is asked to stop, or by books that meet a dead worker."""
    for order in list(orders.values()):
        seam = order.partition("=")[0].rpartition(".")[0]
        victim = AT_END.get(seam) or ("worker" if seam in ("refill", "ledger.orphans") and not orders.get("worker") else None)
        if victim is None:
            continue
        pid = kit.pid_of(armed.place, victim)
        if pid is not None and await kit.is_ready(armed.place):
            os.kill(pid, signal.SIGTERM if seam in AT_END else signal.SIGKILL)
            await asyncio.sleep(0.5)
