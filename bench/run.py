"""CPU per call of the gateway's worker and books, beside nginx plain and nginx with a Lua limiter, in one interleaved run.

    python bench/run.py [--rounds 5] [--seconds 4] [--connections 32]

Needs a C compiler and the gateway installed; the nginx peers run where Debian's nginx, libnginx-mod-http-lua, lua-nginx-redis,
lua-cjson, lua-resty-core and redis-server are installed, and are left out where not. All traffic is on loopback.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from urllib.request import Request, urlopen

TOOLS = Path(__file__).parent / "tools"
TICK_US = 1_000_000 // os.sysconf("SC_CLK_TCK")
UPSTREAM_PORT, PLAIN_PORT, LUA_PORT, GATEWAY_PORT, ADMIN_PORT, REDIS_PORT = 9100, 9230, 9231, 9240, 9241, 9379
KEY = "sk-tenant-0"  # what the Lua peer knows


def cpu_us(pids: list[int]) -> int:
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) * TICK_US
    return total


def children(pid: int, module: str) -> list[int]:
    """Child processes that run this module."""
    names = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(name) for name in names if module in Path(f"/proc/{name}/cmdline").read_bytes().decode().split("\0")]


@contextmanager
def running(argv: list[str], *, env: dict[str, str] | None = None, cwd: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(argv, env={**os.environ, **(env or {})}, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(url: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    request = Request(url, headers={"Authorization": f"Bearer {KEY}"})
    while True:
        try:
            with urlopen(request, timeout=1):
                return
        except OSError as error:
            if getattr(error, "code", None) in (401, 404):
                return
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def wait_for_port(port: int, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), 1):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def configure(folder: Path) -> Path:
    config = folder / "config"
    (config / "teams").mkdir(parents=True)
    (config / "gateway.yaml").write_text(
        f"proxy: {{listen: 127.0.0.1:{GATEWAY_PORT}}}\nadmin: {{listen: 127.0.0.1:{ADMIN_PORT}}}\n"
        f"accounts:\n  openai: {{base_url: http://127.0.0.1:{UPSTREAM_PORT}/v1, api_key: sk-upstream}}\n"
        f"journal: {{folder: {folder}/journal}}\nledger: sqlite:{folder}/ledger.db\n"
    )
    digest = sha256(KEY.encode()).hexdigest()
    (config / "teams" / "bench.yaml").write_text(
        f'team: bench\ntier: tier-5\nkeys:\n  - {{id: bench, hash: "sha256:{digest}"}}\nmodels: ["*"]\n'
        "limits:\n  gpt-4o-mini: {rpm: 25000000, rpd: 25000000, tpm: 30000000000}\n"
    )
    return config


def load(loadgen: Path, port: int, mode: str, body: Path, seconds: float, connections: int) -> dict[str, float]:
    argv = [str(loadgen), "-u", f"http://127.0.0.1:{port}/v1/chat/completions", "-m", mode, "-c", str(connections), "-d", str(seconds)]
    argv += ["-w", "0.5", "-H", f"Authorization: Bearer {KEY}", "-H", "Content-Type: application/json", "-B", str(body)]
    return json.loads(subprocess.run(argv, check=True, capture_output=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--connections", type=int, default=32)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o755)  # nginx's worker runs as another user
        for name in ("loadgen", "mock_upstream"):
            subprocess.run(["cc", "-O2", "-o", str(folder / name), str(TOOLS / f"{name}.c")], check=True)
        stack.enter_context(running([str(folder / "mock_upstream"), str(UPSTREAM_PORT)]))
        peers: dict[str, tuple[int, dict[str, list[int]]]] = {}
        if shutil.which("nginx") and shutil.which("redis-server"):
            stack.enter_context(running(["redis-server", "--port", str(REDIS_PORT), "--save", "", "--bind", "127.0.0.1"]))
            for name in ("nginx.conf", "gw.lua", "limiter.lua"):
                shutil.copy(TOOLS / name, folder)
            wait_for_port(UPSTREAM_PORT)
            wait_for_port(REDIS_PORT)
            env = {"GW_LUA": str(folder / "limiter.lua"), "GW_REDIS_PORT": str(REDIS_PORT)}
            nginx = stack.enter_context(running(["nginx", "-p", str(folder), "-c", "nginx.conf"], env=env))
            wait_for_port(PLAIN_PORT)
            worker = [int(pid) for pid in Path(f"/proc/{nginx.pid}/task/{nginx.pid}/children").read_text().split()]
            peers["nginx, plain"] = (PLAIN_PORT, {"worker": worker})
            peers["nginx + Lua + Redis"] = (LUA_PORT, {"worker": worker})
        gateway = stack.enter_context(running([sys.executable, "-m", "gateway", "serve", "--config", str(configure(folder))]))
        wait_for(f"http://127.0.0.1:{ADMIN_PORT}/readyz")
        parts = {"worker": children(gateway.pid, "gateway.worker"), "books": children(gateway.pid, "gateway.books")}
        peers["gateway"] = (GATEWAY_PORT, parts)

        print(f"{'':22}{'mode':>6}{'worker µs':>11}{'books µs':>10}{'calls/s':>10}{'p50 µs':>9}")
        for mode, body in (("http", "chat.json"), ("sse", "chat_stream.json")):
            figures: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in peers}
            for _ in range(options.rounds):
                for name, (port, processes) in peers.items():
                    before = {part: cpu_us(pids) for part, pids in processes.items()}
                    result = load(folder / "loadgen", port, mode, TOOLS / body, options.seconds, options.connections)
                    if result["errors"] or result["non2xx"]:
                        sys.exit(f"{name}: {result}")
                    spent = {part: (cpu_us(pids) - before[part]) / result["done_all"] for part, pids in processes.items()}
                    figures[name].append((spent["worker"], spent.get("books", 0.0), result["rps"], result["p50_us"]))
            for name, rows in figures.items():
                worker_us, books_us, rate, p50_us = (statistics.median(column) for column in zip(*rows, strict=True))
                print(f"{name:22}{mode:>6}{worker_us:11.1f}{books_us:10.1f}{rate:10.0f}{p50_us:9.0f}")


if __name__ == "__main__":
    main()
