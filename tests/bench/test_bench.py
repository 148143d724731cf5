"""The bench measures what it says: its tools count right, and its command ends with a table and leaves nothing behind."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
DEADLINE_S = 240
EVENTS = 54  # of a stream of 50 tokens: the first, the last, usage and [DONE] besides


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Load generator and stub, compiled."""
    if not shutil.which("cc"):
        assert "CI" not in os.environ, "the bench needs a C compiler: install gcc and libc6-dev"
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("bench")
    for name in ("loadgen", "mock_upstream"):
        subprocess.run(["cc", "-O1", "-Wall", "-Werror", "-o", str(folder / name), str(BENCH / "tools" / f"{name}.c")], check=True)
    return folder


@pytest.fixture
def stub_port(tools: Path) -> Iterator[int]:
    with subprocess.Popen([str(tools / "mock_upstream"), "0"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())["port"]
        finally:
            process.terminate()


@pytest.mark.parametrize(
    "mode, body, events", [("http", "chat.json", 0), ("sse", "chat_stream.json", 60 * EVENTS)], ids=["calls", "streams"]
)
def test_the_load_generator_counts_what_the_upstream_served(tools: Path, stub_port: int, mode: str, body: str, events: int) -> None:
    url = f"http://127.0.0.1:{stub_port}"
    keys = tools / "keys"
    keys.write_text("sk-1\nsk-2\n")
    argv = [str(tools / "loadgen"), "-u", f"{url}/v1/chat/completions", "-m", mode, "-c", "4", "-n", "60", "-k", str(keys)]
    argv += ["-p", str(os.getpid()), "-B", str(BENCH / "tools" / body)]
    found = json.loads(subprocess.run(argv, check=True, capture_output=True, timeout=DEADLINE_S).stdout)
    with urlopen(f"{url}/mock/stats", timeout=DEADLINE_S) as answer:
        served = json.load(answer)
    assert (found["done_all"], found["errors"], found["non2xx"], found["events_all"]) == (60, 0, 0, events)
    assert served["chat"] == 60


def test_the_command_prints_the_table_and_leaves_nothing_running(tools: Path, tmp_path: Path) -> None:
    assert (tools / "loadgen").exists()
    argv = [sys.executable, str(BENCH / "run.py"), "--rounds", "1", "--seconds", "0.3", "--rows", "calls,bursts", "--no-memory"]
    argv += ["--candidates", "gateway,aiohttp,litellm", "--ledger-entries", "3000", "--json", str(tmp_path / "figures.json")]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    environment.pop("BENCH_LITELLM", None)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "left out: litellm: not installed" in done.stderr
    assert "| µs of CPU: worker + beside | gateway | aiohttp, plain |" in done.stdout
    figures = json.loads((tmp_path / "figures.json").read_text())
    for row in ("calls", "bursts"):
        assert figures["rows"][row].keys() == {"gateway", "aiohttp, plain"}
        assert all(len(rounds) == 1 and rounds[0]["per_second"] > 0 for rounds in figures["rows"][row].values())
    assert figures["books"]["entries"] == 3000
    assert [path for path in Path("/proc").glob("[0-9]*") if _works_in(path, tmp_path)] == []


def _works_in(process: Path, folder: Path) -> bool:
    try:
        return os.readlink(process / "cwd").startswith(str(folder))
    except OSError:  # it has just ended
        return False


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("table")


def _rounds(*worker_us: float) -> list[Any]:
    figures = importlib.import_module("rows").Figures
    return [figures(worker_us=each, beside_us=0, per_second=1, p50_us=0, p99_us=0, first_byte_p50_us=0) for each in worker_us]


@pytest.mark.parametrize(
    "gateway_us, said",
    [((80.0, 160.0, 400.0), "1.00 × | yes"), ((82.0, 164.0, 400.0), "1.02 × | **no**"), ((110.0, 220.0, 100.0), "1.10 × | **no**")],
    ids=["exactly the target", "just over it", "over it, though the median of the medians is not"],
)
def test_a_target_is_held_against_the_median_of_the_ratios_within_each_round(table: Any, gateway_us: tuple[float, ...], said: str) -> None:
    peer_us = (100.0, 200.0, 125.0) if gateway_us[0] > 100 else (80.0, 160.0, 100.0)
    calls = {table.GATEWAY: _rounds(*gateway_us), table.LUA: _rounds(*peer_us)}
    assert f"| CPU per call | ≤ nginx + Lua + Redis | {said} |" in table.target_table({"calls": calls}, None)


def test_what_was_not_measured_has_no_figure_and_no_verdict(table: Any) -> None:
    calls = {table.GATEWAY: _rounds(100.0)}
    assert table.cpu_table({"calls": calls}, [table.GATEWAY, table.PLAIN])[-1] == "| call | 100.0 | – |"
    assert not [line for line in table.target_table({"calls": calls}, None) if "yes" in line or "**no**" in line]
