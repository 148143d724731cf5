"""The path without sockets: one call from `data_received` to `write`, in one process, so that a profiler sees only our code.

    python bench/path.py [--calls 20000] [--profile]

Both transports are stand-ins that keep nothing; the journal, the store, the books' snapshot and all rooms are real.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import os
import pstats
import tempfile
import time
from pathlib import Path

import uvloop
from candidates import KEY, TOOLS, configure

from gateway.config.load import Loaded, load
from gateway.config.snapshot import encode_snapshot
from gateway.journal.writer import JournalWriter
from gateway.relay.upstream import Upstream
from gateway.server.connection import Bounds, ClientConnection
from gateway.server.open_connections import OpenConnections
from gateway.worker import Worker, WorkerOptions, exchange

ANSWER = (
    b"HTTP/1.1 200 OK\r\nDate: Fri, 14 Nov 2025 10:00:00 GMT\r\nServer: cloudflare\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n"
    b"openai-organization: org-x\r\nopenai-processing-ms: 412\r\nopenai-version: 2020-10-01\r\nx-ratelimit-limit-requests: 10000\r\n"
    b"x-ratelimit-limit-tokens: 200000\r\nx-ratelimit-remaining-requests: 9999\r\nx-ratelimit-remaining-tokens: 199500\r\n"
    b"x-request-id: req_0123456789abcdef0123456789abcdef\r\n\r\n%b"
)
BODY = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1763114400,"model":"gpt-4o-mini-2024-07-18","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"' + b"word " * 120 + b'","refusal":null},"logprobs":null,"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":187,'
    b'"completion_tokens":96,"total_tokens":283,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":'
    b'{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}},"service_tier":"default"}'
)


class Nowhere(asyncio.Transport):
    """Takes what is written, and may answer it."""

    def __init__(self, protocol: Upstream | None = None, answer: bytes = b"") -> None:
        super().__init__()
        self.protocol, self.answer, self.writes = protocol, answer, 0

    def write(self, data: object) -> None:
        self.writes += 1
        if self.protocol is not None:
            asyncio.get_running_loop().call_soon(self.protocol.data_received, self.answer)

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


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        loaded = load(configure(folder), os.environ)
        assert isinstance(loaded, Loaded), loaded
        with JournalWriter(folder / "journal", "w0") as journal:
            worker = Worker(WorkerOptions("w0", str(folder / "journal"), ()), loop, journal)
            worker.drained.set()  # no listener: calls come from here
            await worker.take_snapshot(encode_snapshot(loaded.snapshot(time.time_ns() // 1000)))
            pool = worker.house.pools["openai"]
            upstream = Upstream(loop, worker._deadlines, first_byte_timeout_ms=10_000, stall_timeout_ms=10_000)
            upstream.connection_made(Nowhere(upstream, ANSWER % (len(BODY), BODY)))
            pool._open, upstream.idle_since_s = 1, loop.time()
            pool._idle.append(upstream)
            bounds = Bounds(65_536, 10**8, 10_000, 10_000, 10_000, 10_000)
            broken: list[BaseException] = []
            client = ClientConnection(
                loop, bounds, lambda c, a: exchange(c, a, worker.house), worker._deadlines, OpenConnections(), broken.append
            )
            out = Nowhere()
            client.connection_made(out)
            body = (TOOLS / "chat.json").read_bytes()
            request = (
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost:8080\r\nAccept: application/json\r\n"
                b"Content-Type: application/json\r\n"
                b"User-Agent: OpenAI/Python 3.54.0\r\nX-Stainless-Lang: python\r\nX-Stainless-Retry-Count: 0\r\n"
                b"Authorization: Bearer %b\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (KEY.encode(), len(body), body)
            )

            async def calls(count: int) -> None:
                for _ in range(count):
                    client.data_received(request)
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)

            await calls(500)
            gc.collect()
            gc.freeze()
            before = out.writes
            profile = cProfile.Profile()
            if options.profile:
                profile.enable()
            started = time.thread_time()
            await calls(options.calls)
            spent_us = (time.thread_time() - started) * 1e6 / options.calls
            profile.disable()
            assert out.writes - before == options.calls, (out.writes - before, broken[:1])
            print(f"{spent_us:.1f} µs of CPU a call, without sockets")
            if options.profile:
                pstats.Stats(profile).sort_stats(os.environ.get("SORT", "tottime")).print_stats(45)


if __name__ == "__main__":
    uvloop.run(main())
