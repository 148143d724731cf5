"""Mixed traffic against the gateway as users start it, for minutes or an hour. At its end the books must be right and nothing left over.

    python bench/soak.py [--minutes 5] [--rate 30] [--kill-every-s 0] [--seed 1] [--keep]

The simulator stands in for OpenAI and keeps its own account. Clients call, stream, leave, are refused, read slowly, upload,
pipeline, poll background responses and idle; files of the configuration change, come, go and break all the while. Then, or exit
status 1: the ledger says what the account says, to the digit; whatever a client had whole is booked as reported; the rollups are what
a recount gives; memory of worker and books is flat over the last two thirds; files are open as at the start; journal and spool hold
nothing but what lives; the log holds no error but those that were asked for.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
from mixed import ACTS, Clients

from gateway.ledger.questions import SqliteQuestions
from gateway.ledger.sqlite import CACHE_KIB
from gateway.simulator.account import compare, read_account

GROWTH_KIB_MAX = 12_288  # of anonymous memory over the last two thirds: what 200 bytes an act make of an hour at rate 30
LEDGER_BYTES = 700  # of an entry in SQLite, indexes included
CACHES: dict[str, tuple[tuple[int, int], ...]] = {  # (entries kept at most, bytes of each): growth that ends
    "worker": ((16_384, 1_400), (100_000, 250)),  # decisions of exchanges (admission/decided.py), owners of answers (house.py)
    "books": ((CACHE_KIB * 1024 // LEDGER_BYTES, LEDGER_BYTES),),  # pages of the ledger
}
SAMPLE_EVERY_S = 2.0
RELOAD_EVERY_S = 7.0
AT_ONCE_MAX = 400  # acts under way; beyond, an act is left out and counted
QUIET_S = 60.0  # how long leftovers may take to go, once all clients have left
SEGMENTS_MAX = 3  # the one that is written, its spare, and one more when it is nearly full
FILES_OF_A_SEGMENT = 2  # its descriptor, and its pages
TOKENS_PER_SECOND = 400
GATEWAY_YAML = """\
proxy:
  listen: "127.0.0.1:0"
  idle_timeout_ms: 5000
  head_timeout_ms: 5000
  body_timeout_ms: 5000
  write_timeout_ms: 3000
  drain_timeout_ms: 10000
admin: {{listen: "127.0.0.1:0"}}
accounts:
  openai: {{base_url: "{upstream}", api_key: sk-soak-account, tier: tier-5, idle_timeout_ms: 5000}}
  hasty: {{base_url: "{upstream}", api_key: sk-soak-account, first_byte_timeout_ms: 1000, stall_timeout_ms: 1000, idle_timeout_ms: 5000}}
journal: {{folder: "{root}/journal", segment_bytes: 4194304}}
ledger: "sqlite:{root}/ledger.db"
"""
TEAMS: dict[str, dict[str, Any]] = {
    "voice": {},
    "search": {"on_client_gone": "drain", "drain_seconds_max": 5},
    "hasty": {"account": "hasty"},
    "narrow": {"limits": {"gpt-4o": {"rpm": 20}}},
    "uploads": {"unmetered_paths": "allow"},
}


class House:
    """Simulator and gateway in a folder of their own, and what there is to look at."""

    def __init__(self, root: Path) -> None:
        self.root, self.config, self.log, self.account = root, root / "config", root / "gateway.log", root / "account.jsonl"
        self.keys = {name: f"gk-{name}-{sha256(name.encode()).hexdigest()}" for name in TEAMS}
        self.ledger = SqliteQuestions(root / "ledger.db")
        self.base_url = self.admin_url = ""
        self.broken_files = 0

    @asynccontextmanager
    async def serving(self) -> Any:
        """Both run; on leaving they are asked to end, and must."""
        (self.root / "spool").mkdir()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
        environment["TMPDIR"] = f"{self.root}/spool"
        simulator = ["simulator", "--listen", "127.0.0.1:0", "--journal", str(self.account), "--tokens-per-second", str(TOKENS_PER_SECOND)]
        async with AsyncExitStack() as stack:
            _, ready = await stack.enter_async_context(_running(simulator, environment, self.root / "simulator.log"))
            self.write("gateway.yaml", GATEWAY_YAML.format(upstream=ready.split()[-1], root=self.root))
            for name in TEAMS:
                self.team(name)
            serve = ["serve", "--config", str(self.config)]
            self.process, ready = await stack.enter_async_context(_running(serve, environment, self.log))
            found = re.fullmatch(r"gateway: ready on (\S+) \(admin (\S+)\)", ready)
            assert found, ready
            self.base_url, self.admin_url = f"{found[1]}/v1", found[2]
            yield self

    def write(self, name: str, text: str) -> Path:
        """A file of the configuration, put in its place whole."""
        path = self.config / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".new").write_text(text)
        return path.with_suffix(".new").rename(path)

    def team(self, name: str, **settings: Any) -> Path:
        """A team's file; the teams of this traffic keep their key and policies."""
        key = self.keys.get(name, f"gk-{name}")
        keys = [{"id": f"{name}-1", "hash": f"sha256:{sha256(key.encode()).hexdigest()}"}]
        return self.write(f"teams/{name}.yaml", json.dumps({"team": name, "tier": "tier-5", "keys": keys} | TEAMS.get(name, {}) | settings))

    def pid(self, role: str) -> int | None:
        """The process that has this role now: "worker" or "books"."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for child in children:
            with suppress(OSError):
                if f"gateway.{role}" in Path(f"/proc/{child}/cmdline").read_bytes().decode().split("\0"):
                    return int(child)
        return None

    def errors(self) -> Counter[str]:
        """What the log tells as wrong, by event."""
        lines = [json.loads(line) if line.startswith("{") else {"event": line} for line in self.log.read_text().splitlines()]
        return Counter(line["event"] for line in lines if line.get("level") not in ("debug", "info", "warning"))


@asynccontextmanager
async def _running(argv: list[str], environment: dict[str, str], log: Path) -> Any:
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", *argv),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=log.parent,
            start_new_session=True,
        )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            ready = (await process.stdout.readline()).decode().strip()
        yield process, ready
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        async with asyncio.timeout(60):
            await process.wait()


async def change_files(house: House, chance: Random) -> None:
    """Teams come, change and go, and now and then one is broken for a while."""
    while True:
        name = f"guest-{chance.randrange(20)}"
        path = house.team(name, limits_all_models={"rpm": chance.randint(1, 999)})
        await asyncio.sleep(RELOAD_EVERY_S)
        fate = chance.random()
        if fate < 0.3:
            path.unlink()
        elif fate < 0.45:
            house.write("teams/broken.yaml", '{"team": "broken", "tier": "teir-5"}')
            house.broken_files += 1
            await asyncio.sleep(RELOAD_EVERY_S)
            (house.config / "teams/broken.yaml").unlink()


async def kill_worker(house: House, every_s: float, kills: list[int]) -> None:
    """SIGKILL, again and again."""
    while True:
        await asyncio.sleep(every_s)
        pid = house.pid("worker")
        if pid is not None:
            kills.append(pid)
            os.kill(pid, signal.SIGKILL)


def anonymous_kib(pid: int) -> int:
    """Memory of its own: without the journal's segments, which are mapped files."""
    found = re.search(r"^Anonymous:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def open_files(pid: int) -> Counter[str]:
    """What a process holds open, by kind; each file by its name."""
    kinds: Counter[str] = Counter()
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        with suppress(OSError):
            target = os.readlink(f"/proc/{pid}/fd/{descriptor}")
            kinds[re.sub(r":\[\d+\]|[0-9a-f-]{8,}", "", target)] += 1
    return kinds


class Watch:
    """Samples of memory, by process, every SAMPLE_EVERY_S."""

    def __init__(self, house: House) -> None:
        self.samples: dict[tuple[str, int], list[tuple[float, int]]] = {}
        self._house = house

    async def run(self) -> None:
        while True:
            for role in ("worker", "books"):
                pid = self._house.pid(role)
                if pid is not None:
                    with suppress(OSError):
                        self.samples.setdefault((role, pid), []).append((time.monotonic(), anonymous_kib(pid)))
            await asyncio.sleep(SAMPLE_EVERY_S)

    def growth_kib(self, role: str) -> tuple[int, int, int] | None:
        """(first, last, growth by a fitted line) over the last two thirds; None: it did not live through them."""
        lives = [kept for (of, _), kept in self.samples.items() if of == role]
        kept = lives[-1][len(lives[-1]) // 3 :]
        if len(lives) > 1 or len(kept) < 10:
            return None
        slope, _ = statistics.linear_regression([at for at, _ in kept], [kib for _, kib in kept])
        return kept[0][1], kept[-1][1], round(slope * (kept[-1][0] - kept[0][0]))


async def drive(clients: Clients, minutes: float, rate: float, chance: Random) -> None:
    """Begin `rate` acts a second, whatever becomes of those before; wait for the last."""
    names, weights = list(ACTS), list(ACTS.values())
    begun_s, number, running = time.monotonic(), 0, set[asyncio.Task[None]]()
    while (due_s := number / rate) < minutes * 60:
        await asyncio.sleep(max(0.0, begun_s + due_s - time.monotonic()))
        number += 1
        if len(running) >= AT_ONCE_MAX:
            clients.seen["left out"] += 1
            continue
        task = asyncio.create_task(clients.act(chance.choices(names, weights)[0]))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)


async def until_quiet(what: Callable[[], Any], within_s: float = QUIET_S) -> Any:
    """What is left when it is nothing, or when the time is over."""
    end_s = time.monotonic() + within_s
    while True:
        left = await asyncio.to_thread(what)
        if not left or time.monotonic() > end_s:
            return left
        await asyncio.sleep(0.5)


def books_wrong(house: House, whole: set[str]) -> list[str]:
    """Where the ledger is not what was served and seen; prints the sums."""
    entries, account = list(house.ledger.entries()), [line for line in read_account(house.account) if line.client_request_id]
    wrong = [str(found) for found in compare(entries, account)]
    sources: Counter[str] = Counter()
    costs: Counter[str] = Counter()
    for entry in entries:
        sources[entry["usage_source"]] += 1
        costs[entry["usage_source"]] += entry["cost_picousd"] or 0
    by_id = {entry["exchange_id"]: entry for entry in entries}
    wrong += [f"{seen}: a client had it whole, and it is {by_id[seen]['usage_source']}" for seen in whole & by_id.keys()
              if by_id[seen]["usage_source"] != "reported"]  # fmt: skip
    wrong += [f"{seen}: a client had it whole, and it is in no ledger" for seen in whole - by_id.keys()]
    reported = {entry["exchange_id"] for entry in entries if entry["usage_source"] == "reported"}
    served = sum(line.cost_picousd or 0 for line in account if line.client_request_id in reported)
    if served != costs["reported"]:
        wrong.append(f"reported exchanges cost {costs['reported']} picoUSD in the ledger and {served} in the account")
    print(f"ledger: {len(entries)} entries {dict(sources)}; reported {costs['reported']} picoUSD, the account of the same {served}")
    recount = house.ledger.recount()
    return wrong + [f"rollup: {found}" for found in recount.differences]


async def soak(options: argparse.Namespace, root: Path) -> list[str]:
    """What is wrong at the end; nothing, if all is well."""
    house, chance, kills = House(root), Random(options.seed), list[int]()
    async with house.serving(), aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=3)) as session:
        clients, watch = Clients(house.base_url, house.keys, session, chance), Watch(house)
        await clients.act("call")
        await asyncio.sleep(1)
        at_start = {role: open_files(house.pid(role) or 0) for role in ("worker", "books")}
        others: list[Awaitable[None]] = [watch.run(), change_files(house, Random(options.seed))]
        if options.kill_every_s:
            others.append(kill_worker(house, options.kill_every_s, kills))
        tasks = [asyncio.ensure_future(other) for other in others]
        driving = asyncio.create_task(drive(clients, options.minutes, options.rate, chance))
        await asyncio.wait([driving, *tasks], return_when=asyncio.FIRST_COMPLETED)  # none of the others ends by itself
        for task in tasks:
            task.cancel()
        await asyncio.gather(driving, *tasks, return_exceptions=True)
        failed = [task.exception() for task in (driving, *tasks) if not task.cancelled()]
        wrong = [f"the driver itself failed: {error!r}" for error in failed if error]
        for name, count in sorted(clients.seen.items()):
            print(f"  {name:40}{count:8}")
        wrong += await leftovers(house, at_start)
        wrong += memory_wrong(watch, sum(1 for _ in house.ledger.entries()))
        wrong += await asyncio.to_thread(books_wrong, house, clients.whole)
        expected = Counter({"configuration_refused": house.broken_files, "role died and is started again": len(kills)})
        errors = house.errors()
        wrong += [f"logged: {event} ({count}, {expected[event]} expected)" for event, count in errors.items() if count > expected[event]]
    if house.process.returncode:
        wrong.append(f"gateway serve ended with status {house.process.returncode}")
    return wrong


async def leftovers(house: House, at_start: dict[str, Counter[str]]) -> list[str]:
    """What is there that should not be, when everybody has left and had time to go."""

    def left() -> list[str]:
        found = [f"open intent {intent}" for intent in house.ledger.open_intents("w0")]
        for role, files in at_start.items():
            pid = house.pid(role)
            if pid is None:
                found.append(f"there is no {role}")
                continue
            now = open_files(pid)
            more = {name: FILES_OF_A_SEGMENT if name.endswith(".journal") else 0 for name in now}  # the second spare
            found += [f"{role} holds {now[n]} of {n}, {files[n]} at the start" for n in now if now[n] > files[n] + more[n]]
        segments = [path for path in (house.root / "journal" / "w0").iterdir() if path.suffix == ".journal"]
        found += [f"{len(segments)} journal segments, {SEGMENTS_MAX} are alive"] if len(segments) > SEGMENTS_MAX else []
        return found + [f"spool file {path}" for path in (house.root / "spool").iterdir()]

    return await until_quiet(left)


def memory_wrong(watch: Watch, exchanges: int) -> list[str]:
    """Roles that grow."""
    wrong = []
    for role in ("worker", "books"):
        found = watch.growth_kib(role)
        if found is None:
            print(f"{role}: memory not judged, it was started again or lived too shortly")
            continue
        first, last, growth = found
        kept = [kib for (of, _), samples in watch.samples.items() if of == role for _, kib in samples]
        print(f"{role}: KiB now and then: {' '.join(str(kib) for kib in kept[:: len(kept) // 20 + 1])}")
        filled = sum((min(exchanges, most) - min(exchanges // 3, most)) * size for most, size in CACHES[role])  # since a third of the time
        allowed = GROWTH_KIB_MAX + filled // 1024
        print(f"{role}: {first} KiB a third in, {last} KiB at the end; by a fitted line {growth:+} KiB, {allowed} allowed")
        if growth > allowed:
            wrong.append(f"{role} grew by {growth} KiB over the last two thirds")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--rate", type=float, default=30, help="acts a second; 30 take a quarter of a core for the clients alone")
    parser.add_argument("--kill-every-s", type=float, default=0, help="kill the worker with -9 this often; 0: never")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="leave the folder for a look")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        wrong = asyncio.run(soak(options, root))
        for line in wrong[:50]:
            print(f"WRONG: {line}")
        print(f"{len(wrong)} things wrong" if wrong else "all is well")
        sys.exit(1 if wrong else 0)
    finally:
        print(f"kept {root}") if options.keep else shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
