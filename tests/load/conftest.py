"""A gateway under load: with settings of its own, an upstream that does what a test tells it, and what its processes hold.

The gateway is started as users start it, by the parts of `tests/journeys`. `Upstream` lives in the test's process: streams go on when
the test says so and not by a clock, and it knows of each exchange what it billed.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.simulator.prices import cost_picousd
from gateway.units import Meter

_spec = importlib.util.spec_from_file_location("journeys_parts", Path(__file__).parents[1] / "journeys" / "conftest.py")
assert _spec
assert _spec.loader
_parts = sys.modules["journeys_parts"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_parts)
check_error, until = _parts.check_error, _parts.until

LONG = bool(os.environ.get("CI"))
PATIENCE_S = 120.0  # only a failing test waits so long: the machine may be busy with everything else
USUAL_OPEN_FILES = 1024  # what systems give a process unless asked
MODEL = "gpt-4o-mini"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(text: str | None, **more: Any) -> bytes:
    """One chunk of a chat stream, framed."""
    choices = [] if text is None else [{"index": 0, "delta": {"content": text}, "finish_reason": None}]
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL, "choices": choices, "usage": None}
    return chunked(b"data: " + json.dumps(chunk | more, separators=(",", ":")).encode() + b"\n\n")


class Upstream:
    """An OpenAI that waits to be told. A call's `user` says what it is: held, endless, or huge; it is billed a number of its own."""

    def __init__(self) -> None:
        self.billed: dict[str, int] = {}  # tokens of output, by exchange
        self.held = 0  # streams that have begun and wait
        self.sent_bytes: dict[str, int] = {}  # of answers that never end by themselves, by exchange: what was taken of them
        self.go_on = asyncio.Event()
        self._seen = 0
        self._tasks = set[asyncio.Task[Any]]()
        self._server: asyncio.Server | None = None
        self.base_url = ""

    async def __aenter__(self) -> Upstream:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=4096)
        self.base_url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        try:
            await self._answer(reader, writer)
        except asyncio.CancelledError:
            pass  # `__aexit__` did it; a stream protocol logs a cancelled handler as an error
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length, exchange = re.search(r"content-length: (\d+)", head), re.search(r"x-client-request-id: (\S+)", head)
                assert exchange, head
                body = json.loads(await reader.readexactly(int(length[1]) if length else 0))
                await {"held": self._held, "endless": self._endless, "huge": self._huge}[body["user"]](exchange[1], writer)

    def _bill(self, exchange: str) -> dict[str, Any]:
        self._seen += 1
        self.billed[exchange] = self._seen
        return {"usage": {"prompt_tokens": 7, "completion_tokens": self._seen, "total_tokens": 7 + self._seen}, "service_tier": "default"}

    async def _held(self, exchange: str, writer: asyncio.StreamWriter) -> None:
        """A stream that begins, waits for `go_on`, and ends."""
        writer.write(STREAM_HEAD + event("word "))
        self.held += 1
        await self.go_on.wait()
        self.held -= 1
        done = [
            event("and the last."),
            event("", choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}]),
            event(None, **self._bill(exchange)),
        ]
        writer.write(b"".join(done) + chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    async def _endless(self, exchange: str, writer: asyncio.StreamWriter) -> None:
        """A stream that never ends: as much as is taken."""
        writer.write(STREAM_HEAD)
        await self._pour(exchange, writer, event("word " * 200) * 16, 1 << 40)

    async def _huge(self, exchange: str, writer: asyncio.StreamWriter) -> None:
        """A whole answer of 16 MiB, billed as it begins."""
        begin = {"id": "chatcmpl-1", "object": "chat.completion", "model": MODEL, **self._bill(exchange)}
        body_begin, body_end = json.dumps(begin).encode()[:-1] + b',"choices":[{"index":0,"message":{"content":"', b'"}}]}'
        fill = 16 << 20
        length = len(body_begin) + fill + len(body_end)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (length, body_begin))
        await self._pour(exchange, writer, b"w" * 65_536, fill)
        writer.write(body_end)

    async def _pour(self, exchange: str, writer: asyncio.StreamWriter, piece: bytes, size: int) -> None:
        for _ in range(size // len(piece)):
            writer.write(piece)
            await writer.drain()
            self.sent_bytes[exchange] = self.sent_bytes.get(exchange, 0) + len(piece)

    def picousd(self, exchange: str) -> int:
        """What it costs, by the simulator's price table, which is not the gateway's."""
        quantities = {Meter.INPUT_TEXT: 7, Meter.OUTPUT_TEXT: self.billed[exchange]}
        cost = cost_picousd(MODEL, "default", quantities)
        assert cost is not None
        return cost


class Place(_parts.Place):  # type: ignore[misc, name-defined]  # loaded by path
    """A gateway whose gateway.yaml says more than that of the journeys."""

    def __init__(self, root: Path, settings: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__(root)
        self._settings = settings

    def write(self, name: str, text: str) -> Path:
        if name == "gateway.yaml":
            written = yaml.safe_load(text)
            for section, values in self._settings.items():
                for key, value in values.items():
                    written[section][key] = written[section].get(key, {}) | value if isinstance(value, dict) else value
            text = yaml.safe_dump(written, sort_keys=False)
        path: Path = super().write(name, text)
        return path

    def request(self, team: str, path: str, body: Any) -> bytes:
        """A request as bytes, for connections that a test holds by itself."""
        data = json.dumps(body).encode()
        head = f"POST /v1{path} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {self.keys[team]}\r\nContent-Length: {len(data)}\r\n\r\n"
        return head.encode() + data

    def call(self, method: str, path: str, body: Any, team: str = "voice", more_headers: Mapping[str, str] | None = None) -> Any:
        """One call by a plain client."""
        headers = {"Authorization": f"Bearer {self.keys[team]}", "Content-Type": "application/json"} | dict(more_headers or {})
        return _parts.request(self.base_url, method, path, json.dumps(body).encode(), headers)

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.base_url.removeprefix("http://").removesuffix("/v1").partition(":")
        return host, int(port)


@pytest.fixture
def start_gateway(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """`start_gateway(settings, tokens_per_second=0, **teams)`: a gateway with the limit of open files that users have."""
    with ExitStack() as stack:

        def start(settings: Mapping[str, Mapping[str, Any]], tokens_per_second: int = 0, **teams: dict[str, Any]) -> Place:
            place = Place(tmp_path, settings)
            for name, values in ({"voice": {}} | teams).items():
                place.team(name, **values)
            stack.callback(place.kill_all)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (USUAL_OPEN_FILES, hard))
            try:
                place.start(tokens_per_second)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
                stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
            return place

        yield start


@pytest.fixture
def load() -> Any:
    """The names of this file: test modules do not import each other."""

    class Names:
        long, patience_s, model = LONG, PATIENCE_S, MODEL
        upstream = Upstream
        anonymous_kib, open_files, eventually = staticmethod(anonymous_kib), staticmethod(open_files), staticmethod(eventually)

    return Names


async def eventually(question: Callable[[], Any], what: str) -> Any:
    """Ask until the answer is true, while the loop goes on."""
    end_s = time.monotonic() + PATIENCE_S
    while True:
        found = await asyncio.to_thread(question)
        if found:
            return found
        assert time.monotonic() < end_s, f"{what}: not within {PATIENCE_S} s; last: {found!r}"
        await asyncio.sleep(0.02)


def anonymous_kib(pid: int) -> int:
    """Memory of a process's own: without the journal's segments, which are mapped files."""
    found = re.search(r"^Anonymous:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


def open_files(pid: int) -> Counter[str]:
    """What a process holds open, by kind; files by their name without numbers."""
    kinds: Counter[str] = Counter()
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        with suppress(OSError):
            kinds[re.sub(r":\[\d+\]|[0-9a-f-]{8,}", "", os.readlink(f"/proc/{pid}/fd/{descriptor}"))] += 1
    return kinds
