"""What is measured: the rows, one slot of one candidate, and memory of open streams."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from candidates import TOOLS, Candidate
from processes import cpu_us, line_of, pss_kib, wait_idle

PACE_US = 20_000  # 50 chunks a second: a model that writes fast
TOKENS = 50  # of a short answer: 54 events with the first, the last, usage and [DONE]
MEMORY_STREAMS, MEMORY_STREAMS_HEAVY = 1_000, 200
HOLD_S, HOLD_PACE_US = 60, 2_000_000
WARM_S = 0.5
CONNECTIONS = (1, 32, 128, 1_000)


@dataclass(frozen=True)
class Row:
    """A kind of load. `heavy_connections` is for candidates that are a hundred times slower; 0 leaves them out."""

    name: str
    mode: str  # http: calls; sse: streams
    connections: int
    heavy_connections: int
    pace_us: int = 0
    tokens: int = TOKENS
    tls: bool = False
    direct: bool = False  # measured without a proxy as well
    many_teams: bool = False  # of the gateway alone, with 10,000 teams


ROWS = (
    Row("calls", "http", 32, 32),
    Row("pace", "sse", 200, 8, pace_us=PACE_US),
    Row("bursts", "sse", 32, 8),
    Row("long-bursts", "sse", 32, 4, tokens=500),
    Row("latency", "http", 1, 1, direct=True),
    Row("first-byte", "sse", 1, 1, direct=True),
    Row("connections-128", "http", 128, 0),
    Row("connections-1000", "http", 1_000, 0),
    Row("teams-10000", "http", 32, 0, many_teams=True),
    Row("calls-tls", "http", 32, 32, tls=True),
    Row("pace-tls", "sse", 200, 8, pace_us=PACE_US, tls=True),
    Row("bursts-tls", "sse", 32, 8, tls=True),
    Row("latency-tls", "http", 1, 1, tls=True, direct=True),
    Row("first-byte-tls", "sse", 1, 1, tls=True, direct=True),
)


@dataclass(frozen=True)
class Figures:
    """One slot. CPU in µs for a call (http) or for an event of a stream (sse); the rest in µs, as the client saw it."""

    worker_us: float
    beside_us: float
    per_second: float  # calls or events
    p50_us: float
    p99_us: float
    first_byte_p50_us: float


class SlotError(Exception):
    """Calls failed, so the slot says nothing."""


@dataclass(frozen=True)
class Bench:
    """The programs that load and answer."""

    loadgen: Path
    stub_port: int
    seconds: float

    def pace(self, pace_us: int, tokens: int) -> None:
        """How the upstream writes its streams from now on."""
        with urlopen(f"http://127.0.0.1:{self.stub_port}/mock/set?sse_us={pace_us}&sse_n={tokens}", timeout=10) as answer:
            answer.read()

    def argv(self, candidate: Candidate, mode: str, connections: int, *more: str) -> list[str]:
        body = TOOLS / ("chat.json" if mode == "http" else "chat_stream.json")
        url = f"http://127.0.0.1:{candidate.port}/v1/chat/completions"
        return [str(self.loadgen), "-u", url, "-m", mode, "-c", str(connections), "-k", str(candidate.keys), "-B", str(body), *more]

    def load(self, candidate: Candidate, mode: str, connections: int, seconds: float, *more: str) -> dict[str, Any]:
        """Closed loop for some seconds after a warm-up. Raises SlotError when a call fails."""
        argv = self.argv(candidate, mode, connections, "-d", str(seconds), "-w", str(WARM_S), *more)
        result: dict[str, Any] = json.loads(subprocess.run(argv, check=True, capture_output=True).stdout)
        if result["errors"] or result["non2xx"]:
            raise SlotError(f"{candidate.name}, {mode}, {connections} connections: {result}")
        return result

    def warm(self, candidate: Candidate) -> None:
        """First calls are not like the others: imports, caches, pools."""
        self.pace(0, TOKENS)
        for mode in ("http", "sse"):
            self.load(candidate, mode, 8, 1.0)

    def slot(self, row: Row, candidate: Candidate) -> Figures:
        """One row of one candidate, once. The worker's CPU counts after the warm-up; all of what works beside does: it may be behind."""
        beside = candidate.beside()
        self.pace(row.pace_us, row.tokens)
        beside_before_us = cpu_us(beside)
        connections = row.heavy_connections if candidate.heavy else row.connections
        result = self.load(candidate, row.mode, connections, self.seconds, "-p", ",".join(map(str, candidate.worker())))
        wait_idle(beside)
        counted, everything = ("counted", "done_all") if row.mode == "http" else ("events_counted", "events_all")
        if not result[counted]:
            raise SlotError(f"{candidate.name} completed nothing: {self.seconds} s are too short")
        return Figures(
            worker_us=result["cpu_s"] * 1e6 / result[counted],
            beside_us=(cpu_us(beside) - beside_before_us) / result[everything],
            per_second=result[counted] / result["seconds_counted"],
            p50_us=result["p50_us"],
            p99_us=result["p99_us"],
            first_byte_p50_us=result["ttfb_p50_us"],
        )

    def stream_kib(self, candidate: Candidate) -> float:
        """Memory of the worker for each open stream, against none."""
        streams = MEMORY_STREAMS_HEAVY if candidate.heavy else MEMORY_STREAMS
        self.pace(HOLD_PACE_US, TOKENS)
        worker = candidate.worker()
        before_kib = pss_kib(worker)
        with subprocess.Popen(self.argv(candidate, "sse", streams, "-o", str(HOLD_S)), stdout=subprocess.PIPE) as clients:
            assert clients.stdout is not None
            try:
                said = line_of(clients.stdout.fileno(), HOLD_S)
                if '"holding"' not in said:
                    raise SlotError(f"{candidate.name} does not hold {streams} streams: {said}")
                return (pss_kib(worker) - before_kib) / streams
            finally:
                clients.kill()
                self._end_streams()

    def _end_streams(self) -> None:
        """Have the upstream write what is left of its streams at once, and wait until none is left."""
        self.pace(0, TOKENS)
        time.sleep(HOLD_PACE_US / 1_000_000 + 0.5)  # each stream's next chunk is due within this


def take_part(row: Row, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Who is measured in a row."""
    found = []
    for candidate in candidates:
        if (candidate.name == "direct" and not row.direct) or (candidate.heavy and not row.heavy_connections):
            continue
        found.append(candidate)
    return found
