"""The path without sockets: calls from `data_received` to `write`, in one process, so that a profiler sees only our code.

    python bench/path.py [--calls 20000] [--stream | --paced] [--steps | --profile]

`--steps` says where they go, step by step of the path; each step that is timed costs 0.2 µs more. Says µs of CPU, which move
with the machine's other load, and the same in a yardstick's time, which moves much less.
Both transports are stand-ins that keep nothing; the journal, the store, the snapshot and all rooms are real.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import os
import pstats
import statistics
import tempfile
import time
from contextlib import ExitStack
from functools import wraps
from hashlib import sha256
from importlib import import_module
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

import uvloop

from gateway.config.load import Loaded, load
from gateway.config.snapshot import encode_snapshot
from gateway.journal.writer import JournalWriter
from gateway.relay.pool import Pool
from gateway.relay.upstream import Upstream
from gateway.server.connection import Bounds, ClientConnection
from gateway.server.open_connections import OpenConnections
from gateway.worker import Worker, WorkerOptions, exchange

TOOLS = Path(__file__).parent / "tools"
KEY = "gk-bench-" + "a" * 43
CLIENTS = 16  # that call at once
EVENTS = 54  # of a stream, as many as the upstream of bench/run.py sends

STEPS = (  # each holds those indented below it
    ("from the client's bytes to the request on its way", "gateway.server.connection:ClientConnection.data_received"),
    ("  1 read: httptools, head, framing", "gateway.server.connection:ClientConnection._parse"),
    ("  2 identify: the key", "gateway.exchange:identify"),
    ("  3, 4 understand: body, model, worst case, its price", "gateway.exchange:understand"),
    ("    the body", "gateway.job:_read_body"),
    ("    the price of the worst case", "gateway.job:cost_of_ask"),
    ("  5 admit: three buckets", "gateway.admission.shares:AccountShares.reserve"),
    ("  5 x-ratelimit headers", "gateway.exchange:ratelimit_headers"),
    ("  10 intent into the journal", "gateway.exchange:_intended"),
    ("  6 head towards OpenAI", "gateway.exchange:_request_head"),
    ("  6 write", "gateway.relay.upstream:Upstream.send"),
    ("from the answer's bytes to the client's", "gateway.relay.upstream:Upstream.data_received"),
    ("  6 read: head, framing", "gateway.relay.answer:AnswerReader.feed"),
    ("  6 head for the client", "gateway.exchange:_begin"),
    ("  7, 8 observe, price, make the entry", "gateway.exchange:close_exchange"),
    ("    usage from the answer", "gateway.metering.sse:AnswerObserver.finish"),
    ("    the price", "gateway.closing:cost_served"),
    ("  9 settle: three buckets", "gateway.house:House._settle"),
    ("  10 entry into the journal", "gateway.journal.writer:JournalWriter.append"),
    ("  6 last bytes, connection back", "gateway.relay.carry:Carry.release"),
)

ANSWER_HEAD = (
    b"HTTP/1.1 200 OK\r\nDate: Fri, 14 Nov 2025 10:00:00 GMT\r\nServer: cloudflare\r\nContent-Type: %b\r\n%b\r\n"
    b"openai-organization: org-x\r\nopenai-processing-ms: 412\r\nopenai-version: 2020-10-01\r\nx-ratelimit-limit-requests: 10000\r\n"
    b"x-ratelimit-limit-tokens: 200000\r\nx-ratelimit-remaining-requests: 9999\r\nx-ratelimit-remaining-tokens: 199500\r\n"
    b"x-request-id: req_0123456789abcdef0123456789abcdef\r\n\r\n"
)
USAGE = (
    b'{"prompt_tokens":187,"completion_tokens":96,"total_tokens":283,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},'
    b'"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}'
)
BODY = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1763114400,"model":"gpt-4o-mini-2024-07-18","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"' + b"word " * 120 + b'","refusal":null},"logprobs":null,"finish_reason":"stop"}],'
    b'"usage":' + USAGE + b',"service_tier":"default"}'
)
CHUNK = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1763114400,"model":"gpt-4o-mini-2024-07-18",'
    b'"service_tier":"default","system_fingerprint":"fp_1","choices":[%b],"usage":%b}\n\n'
)
DELTA = b'{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":%b}'


def answer(*, streams: bool) -> list[bytes]:
    """What the upstream says: a head, then what would come one by one at a writing pace."""
    if not streams:
        return [ANSWER_HEAD % (b"application/json", b"Content-Length: %d" % len(BODY)) + BODY]
    events = [CHUNK % (DELTA % b"null", b"null")] * (EVENTS - 3)
    events += [CHUNK % (DELTA % b'"stop"', b"null"), CHUNK % (b"", USAGE), b"data: [DONE]\n\n"]
    chunks = [b"%x\r\n%b\r\n" % (len(event), event) for event in events]
    return [ANSWER_HEAD % (b"text/event-stream", b"Transfer-Encoding: chunked"), *chunks, b"0\r\n\r\n"]


def request(*, streams: bool) -> bytes:
    """A call as the official client sends it."""
    body = (TOOLS / ("chat_stream.json" if streams else "chat.json")).read_bytes()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost:8080\r\nAccept: application/json\r\nContent-Type: application/json\r\n"
        b"User-Agent: OpenAI/Python 3.54.0\r\nX-Stainless-Lang: python\r\nX-Stainless-Retry-Count: 0\r\n"
        b"Authorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b" % (KEY.encode(), len(body), body)
    )


def configure(folder: Path) -> Path:
    """One team with three limits, out of reach."""
    config = folder / "config"
    (config / "teams").mkdir(parents=True)
    (config / "gateway.yaml").write_text(
        "accounts:\n  openai: {base_url: http://127.0.0.1:1/v1, api_key: sk-upstream}\n"
        f"journal: {{folder: {folder}/journal}}\nledger: sqlite:{folder}/ledger.db\n"
    )
    (config / "teams" / "bench.yaml").write_text(
        f'team: bench\ntier: tier-5\nkeys:\n  - {{id: bench, hash: "sha256:{sha256(KEY.encode()).hexdigest()}"}}\nmodels: ["*"]\n'
        "limits:\n  gpt-4o-mini: {rpm: 25000000, rpd: 25000000, tpm: 30000000000}\n"
    )
    return config


def yardstick() -> None:
    """A fixed piece of Python, measured in turn with the calls: their ratio holds still on a machine that does not."""
    kept: dict[bytes, tuple[int, bytes]] = {}
    for number in range(4_000):
        name = b"header-%d" % (number % 97)
        kept[name] = (len(name) + number, name.upper())
    assert len(kept) == 97


def timed(where: str) -> list[int]:
    """Nanoseconds of each time the function runs, from now on."""
    module, _, name = where.partition(":")
    *owner, last = name.split(".")
    holder: Any = import_module(module)
    for part in owner:
        holder = getattr(holder, part)
    function, spent_ns = getattr(holder, last), list[int]()

    @wraps(function)
    def run(*given: Any, **named: Any) -> Any:
        started_ns = time.perf_counter_ns()
        try:
            return function(*given, **named)
        finally:
            spent_ns.append(time.perf_counter_ns() - started_ns)

    @wraps(function)
    async def run_coroutine(*given: Any, **named: Any) -> Any:
        started_ns = time.perf_counter_ns()
        try:
            return await function(*given, **named)
        finally:
            spent_ns.append(time.perf_counter_ns() - started_ns)

    setattr(holder, last, run_coroutine if iscoroutinefunction(function) else run)
    return spent_ns


class Nowhere(asyncio.Transport):
    """Takes what is written, and may answer it."""

    def __init__(self, protocol: Upstream | None = None, answer: list[bytes] | None = None) -> None:
        super().__init__()
        self.protocol, self.answer, self.ends = protocol, answer or [], 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.ends += data[-5:] == b"0\r\n\r\n" or data[-1:] == b"}"
        if self.protocol is not None:
            for piece in self.answer:
                asyncio.get_running_loop().call_soon(self.protocol.data_received, piece)

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return 16_384, 65_536

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...


def connect(pool: Pool, worker: Worker, answer: list[bytes]) -> None:
    """One more connection to the upstream that is not there."""
    loop = asyncio.get_running_loop()
    upstream = Upstream(loop, worker._deadlines, first_byte_timeout_ms=10_000, stall_timeout_ms=10_000)
    upstream.connection_made(Nowhere(upstream, answer))
    pool._open += 1
    upstream.idle_since_s = loop.time()
    pool._idle.append(upstream)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--paced", action="store_true")
    parser.add_argument("--steps", action="store_true")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    loop, profile, broken = asyncio.get_running_loop(), cProfile.Profile(), list[BaseException]()
    steps = [(text, timed(where)) for text, where in STEPS] if options.steps else []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        loaded = load(configure(folder), os.environ)
        assert isinstance(loaded, Loaded), loaded
        journal = stack.enter_context(JournalWriter(folder / "journal", "w0", commit_by="process"))
        worker = Worker(WorkerOptions("w0", str(folder / "journal"), ()), loop, journal)
        worker.drained.set()  # no listener: calls come from here
        await worker.take_snapshot(encode_snapshot(loaded.snapshot(time.time_ns() // 1000)))
        bounds = Bounds(65_536, 10**8, 10_000, 10_000, 10_000, 10_000)
        streams = options.stream or options.paced
        pieces = answer(streams=streams)
        if not options.paced:
            pieces = [b"".join(pieces)]
        out, clients, call = Nowhere(), [], request(streams=streams)
        for _ in range(CLIENTS):
            connect(worker.house.pools["openai"], worker, pieces)
            clients.append(
                ClientConnection(
                    loop, bounds, lambda c, a: exchange(c, a, worker.house), worker._deadlines, OpenConnections(), broken.append
                )
            )
            clients[-1].connection_made(out)

        async def batch() -> None:
            for client in clients:
                client.data_received(call)
            await asyncio.sleep(0)
            await asyncio.sleep(0)

        for _ in range(50):
            await batch()
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)  # as the worker does
        before, batches, spent_s, ratios = out.ends, options.calls // (CLIENTS * 8), 0.0, list[float]()
        if options.profile:
            profile.enable()
        for _ in range(batches):
            started_s = time.thread_time()
            for _ in range(8):
                await batch()
            ended_s = time.thread_time()
            yardstick()
            spent_s += ended_s - started_s
            ratios.append((ended_s - started_s) / (time.thread_time() - ended_s))
        profile.disable()
        served = batches * CLIENTS * 8
        assert out.ends - before == served, (out.ends - before, served, broken[:1])
        a_call = statistics.median(ratios) / CLIENTS / 8
        print(f"{spent_s * 1e6 / served:.1f} µs of CPU a call, without sockets; {a_call:.4f} yardsticks")
        for text, spent_ns in steps:
            print(f"{statistics.median(spent_ns) / 1000:6.1f}  {text}")
        if options.profile:
            pstats.Stats(profile).sort_stats(os.environ.get("SORT", "tottime")).print_stats(45)


if __name__ == "__main__":
    uvloop.run(main())
