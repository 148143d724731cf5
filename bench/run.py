"""The table of what the gateway costs, beside its peers: all in one interleaved run, medians of several rounds.

    python3 bench/run.py [--quick] [--rounds 5] [--seconds 2] [--rows calls,pace,...] [--candidates nginx,gateway,...]
                         [--python INTERPRETER]... [--litellm COMMAND | --install-litellm] [--ledger-entries N] [--json FILE]

Needs Linux and a C compiler. An interpreter that has the gateway is the running one, or those named with --python, else an
environment is made for it. What is not installed is left out, and the output says so. All traffic is on loopback, ports are the
kernel's choice, and nothing is left running. bench/README.md says what each figure means.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from candidates import CANDIDATES, TEAMS_MANY, TOOLS, Candidate, Setting, Upstream, gateway, stub
from environments import gateway_python, has_gateway, install_litellm, litellm_command, program, python_facts
from processes import StartError
from rows import ROWS, Bench, Figures, Row, SlotError, take_part
from table import client_table, cpu_table, target_table

OPEN_FILES = 16_384  # 1,000 connections on both sides, of the load generator and of each candidate
Found = dict[str, dict[str, list[Figures]]]


def say(text: str) -> None:
    """What is going on, away from the tables."""
    print(text, file=sys.stderr, flush=True)


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names, rows = list(CANDIDATES), [row.name for row in ROWS]
    parser.add_argument("--quick", action="store_true", help="2 rounds of 0.7 s and 50,000 ledger entries: to see that it works")
    parser.add_argument("--rounds", type=int, help="default 5")
    parser.add_argument("--seconds", type=float, help="of each slot; default 2")
    parser.add_argument("--rows", type=lambda text: text.split(","), default=rows, help=",".join(rows))
    parser.add_argument("--candidates", type=lambda text: text.split(","), default=names, help=",".join(names))
    parser.add_argument("--python", action="append", default=[], help="interpreter with the gateway; several are compared")
    parser.add_argument("--litellm", default=os.environ.get("BENCH_LITELLM"), help="LiteLLM's command; also from BENCH_LITELLM")
    parser.add_argument("--install-litellm", action="store_true", help="make an environment with LiteLLM from PyPI, kept for the next run")
    parser.add_argument("--ledger-entries", type=int, help="for the books alone; default 300,000; 0: none; 10000000: 10 minutes")
    parser.add_argument("--no-memory", action="store_true", help="leave out the memory of open streams")
    parser.add_argument("--json", type=Path, help="where every figure of every round goes")
    given = parser.parse_args()
    for unknown in {*given.rows} - {*rows} | {*given.candidates} - {*names}:
        parser.error(f"{unknown!r} is none of {', '.join(rows)} or {', '.join(names)}")
    for python in given.python:
        if not has_gateway(program(python)):
            parser.error(f"{python} cannot import the gateway")
    given.python, given.litellm = [program(python) for python in given.python], given.litellm and program(given.litellm)
    given.rounds = given.rounds or (2 if given.quick else 5)
    given.seconds = given.seconds or (0.7 if given.quick else 2.0)
    if given.ledger_entries is None:
        given.ledger_entries = 50_000 if given.quick else 300_000
    return given


def compile_tools(folder: Path) -> Path | None:
    """Load generator and stub; the stub's certificate with its key, or None where there is no TLS to be had."""
    if not shutil.which("cc"):
        sys.exit("bench: no C compiler: install gcc")
    compiled = ["cc", "-O2", "-o"]
    subprocess.run([*compiled, str(folder / "loadgen"), str(TOOLS / "loadgen.c")], check=True)
    source, stub_path = str(TOOLS / "mock_upstream.c"), str(folder / "mock_upstream")
    with_tls = subprocess.run([*compiled, stub_path, "-DTLS", source, "-lssl", "-lcrypto"], capture_output=True)
    if with_tls.returncode or not shutil.which("openssl"):
        say("left out: rows with TLS to the upstream (libssl-dev and openssl are needed)")
        subprocess.run([*compiled, stub_path, source], check=True)
        return None
    key, certificate, both = folder / "key.pem", folder / "certificate.pem", folder / "both.pem"
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    argv += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(argv, check=True, capture_output=True)
    both.write_text(certificate.read_text() + key.read_text())
    return certificate


def place(folder: Path, name: str) -> Path:
    """A folder of a candidate's own, which nginx's unprivileged worker may enter."""
    mine = folder / name
    mine.mkdir()
    mine.chmod(0o755)
    return mine


def start(stack: ExitStack, folder: Path, setting: Setting, names: Sequence[str], *, tls: bool, many_teams: bool) -> list[Candidate]:
    """All candidates that can be had; the others are named with the reason."""
    starts: dict[str, Callable[[Path], AbstractContextManager[Candidate]]] = {}
    for name in names:
        begin, missing = CANDIDATES[name]
        reason = missing(setting)
        if reason and not tls:
            say(f"left out: {name}: {reason}")
        if not reason:
            starts[name] = partial(begin, setting)
        if name == "gateway":
            for number, python in enumerate(setting.pythons[1:], 2):
                starts[f"gateway-{number}"] = partial(gateway, setting, python=python, name=f"gateway [{number}]")
            if many_teams:
                starts["gateway-many-teams"] = partial(gateway, setting, name="gateway, 10,000 teams", teams=TEAMS_MANY)
    found = []
    for name, starter in starts.items():
        say(f"starting {name}{' over TLS' if tls else ''}")
        mine = place(folder, f"{name}{'-tls' if tls else ''}")
        try:
            found.append(stack.enter_context(starter(mine)))
        except StartError as error:
            if name.startswith("gateway"):
                raise
            say(f"left out: {name}: {error}")
    return found


class Run:
    """The figures of all rounds, and what failed on the way."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.found: Found = defaultdict(lambda: defaultdict(list))
        self.memory_kib: dict[str, float] = {}
        self.failed: set[str] = set()

    def measure(self, row: Row, candidate: Candidate, name: str) -> None:
        """One slot. What failed once is not measured in this row again: half of its rounds would be held against others' halves."""
        if f"{row.name}: {name}" in self.failed:
            return
        try:
            self.found[row.name][name].append(self.bench.slot(row, candidate))
        except SlotError as error:
            say(f"FAILED {row.name}: {error}")
            self.failed.add(f"{row.name}: {name}")
            self.found[row.name].pop(name, None)

    def round(self, rows: Sequence[Row], plain: Sequence[Candidate], tls: Sequence[Candidate], many: Sequence[Candidate]) -> None:
        """Each row of each candidate once."""
        for row in rows:
            if row.many_teams:
                for candidate in many:
                    self.measure(row, candidate, "gateway")
            else:
                for candidate in take_part(row, tls if row.tls else plain):
                    self.measure(row, candidate, candidate.name)

    def memory(self, candidates: Sequence[Candidate]) -> None:
        """Before all else: memory that was used once would be used again, and not grow."""
        for candidate in candidates:
            if candidate.name != "direct":
                say(f"memory of open streams: {candidate.name}")
                try:
                    self.memory_kib[candidate.name] = self.bench.stream_kib(candidate)
                except SlotError as error:
                    say(f"FAILED memory: {error}")
                    self.failed.add(f"memory: {candidate.name}")


def books_alone(python: str, folder: Path, entries: int) -> dict[str, Any] | None:
    """Entries into SQLite and a month's usage, in a process of its own."""
    if not entries:
        return None
    say(f"books alone: {entries:,} entries")
    argv = [python, str(Path(__file__).with_name("ledger.py")), str(folder), str(entries)]
    found: dict[str, Any] = json.loads(subprocess.run(argv, check=True, stdout=subprocess.PIPE).stdout)
    return found


def machine() -> str:
    """What the figures belong to."""
    models = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    return f"{models[0] if models else 'unknown CPU'}, {cores} cores, Linux {os.uname().release}; load average before: {load:.2f}"


def measured(given: argparse.Namespace, stack: ExitStack, pythons: Sequence[str]) -> tuple[Run, dict[str, Any] | None, list[str]]:
    """Start everything, measure, and give what was found with the names of those who took part."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-bench-")))
    folder.chmod(0o755)
    certificate = compile_tools(folder)
    rows = [row for row in ROWS if row.name in given.rows and (certificate or not row.tls)]
    books = books_alone(pythons[0], folder, given.ledger_entries)
    pem = folder / "both.pem" if certificate else None
    port, tls_port = stack.enter_context(stub(place(folder, "stub"), folder / "mock_upstream", pem))
    bench = Bench(folder / "loadgen", port, given.seconds)
    setting = Setting(Upstream(port), port, pythons, given.litellm)
    names = given.candidates
    many_teams = any(row.many_teams for row in rows)
    run = Run(bench)
    started = start(stack, folder, setting, names, tls=False, many_teams=many_teams)
    many = [candidate for candidate in started if candidate.name == "gateway, 10,000 teams"]
    plain = [candidate for candidate in started if candidate not in many]
    over_tls: list[Candidate] = []
    if any(row.tls for row in rows):
        secured = dataclasses.replace(setting, upstream=Upstream(tls_port, certificate))
        over_tls = start(stack, folder, secured, names, tls=True, many_teams=False)
    for candidate in [*started, *over_tls]:
        bench.warm(candidate)
    if not given.no_memory:
        run.memory(plain)
    for number in range(given.rounds):
        say(f"round {number + 1} of {given.rounds}")
        run.round(rows, plain, over_tls, many)
    return run, books, [candidate.name for candidate in plain]


def main() -> int:
    """Measure and print. The exit status: 1 when calls failed."""
    given = options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is ended in order
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY and hard < OPEN_FILES else OPEN_FILES, hard))
    pythons = given.python or [gateway_python(say)]
    given.litellm = given.litellm or (install_litellm(say) if given.install_litellm else litellm_command())
    about = machine()
    try:
        with ExitStack() as stack:
            run, books, names = measured(given, stack, pythons)
    except StartError as error:
        sys.exit(f"bench: {error}")
    print(f"{about}; {given.rounds} rounds of {given.seconds} s")
    for number, python in enumerate(pythons, 1):
        print(f"{'gateway' if number == 1 else f'gateway [{number}]'}: {python_facts(python)}")
    shown = [name for name in names if name != "direct"]
    found = {row: dict(rounds) for row, rounds in run.found.items()}
    tables = [cpu_table(found, shown), client_table(found, run.memory_kib, shown), target_table(found, books)]
    print("\n" + "\n\n".join("\n".join(table) for table in tables))
    if given.json:
        raw = {row: {name: [dataclasses.asdict(one) for one in all_] for name, all_ in rounds.items()} for row, rounds in found.items()}
        given.json.write_text(json.dumps({"about": about, "rows": raw, "memory_kib": run.memory_kib, "books": books}, indent=1))
    for failed in sorted(run.failed):
        print(f"\nFAILED: {failed}")
    return 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(main())
