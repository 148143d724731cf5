"""What tests of several rooms share."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, TypeVar, cast

import httptools
import pytest
import uvloop

T = TypeVar("T")
PATIENCE_S = 10  # for what happens within milliseconds; only a failing test waits so long


class AssertOpenaiError(Protocol):
    """`headers` have lower-case names. Gives back the error object, for what only one test looks at."""

    def __call__(
        self, status_seen: int, headers: dict[str, str], body: bytes, status: int, code: str | None = None, type: str | None = None
    ) -> dict[str, Any]: ...


@pytest.fixture(scope="session")
def assert_openai_error() -> AssertOpenaiError:
    """The one checker of errors that callers see: OpenAI's shape, with all four keys and nothing else."""

    def check(
        status_seen: int, headers: dict[str, str], body: bytes, status: int, code: str | None = None, type: str | None = None
    ) -> dict[str, Any]:
        assert status_seen == status, f"{status_seen}: {body!r}"
        assert headers.get("content-type", "").startswith("application/json")
        error: dict[str, Any] = json.loads(body)["error"]
        assert list(json.loads(body)) == ["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["code"] == code
        assert isinstance(error["type"], str)
        assert error["type"] in ({type} if type else {"invalid_request_error", "server_error", "requests", "tokens"})
        assert error["message"].endswith((".", ")")) or " " in error["message"]
        if status == 429:
            retryable = headers.get("x-should-retry") != "false"
            assert "retry-after" in headers or not retryable
            assert ("retry-after" in headers) == ("retry-after-ms" in headers)
        return error

    return check


async def until(condition: Callable[[], bool]) -> None:
    """Turn the loop until it is so."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  # nothing tells one end of a socket what the other has seen
            await asyncio.sleep(0)


def run(test: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a test's coroutine on the loop that the product runs on."""

    async def bounded() -> T:
        async with asyncio.timeout(PATIENCE_S):
            return await test()

    return uvloop.run(bounded())


@dataclass
class Asked:
    """A request as OpenAI sees it."""

    method: str = ""
    target: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    whole: bool = False

    def header(self, name: str) -> str | None:
        found = [value for key, value in self.headers if key == name]
        assert len(found) < 2, f"{name} is there {len(found)} times"
        return found[0] if found else None


class MemoryClient:
    """The `Client` port in memory: what an exchange answers, as events in their order."""

    def __init__(self) -> None:
        self.gone = False
        self.events: list[str] = []
        self.status: int | None = None
        self.header_lines = b""
        self.content_length: int | None = None
        self.body = b""
        self.error: Any = None  # the gateway's own refusal
        self.source: Any = None
        self._watcher: Any = None

    @property
    def over(self) -> bool:
        """Whether the answer has ended, one way or the other."""
        return bool({"refuse", "finish", "abort"} & set(self.events))

    def header(self, name: str) -> str | None:
        lines = self.header_lines.decode("latin-1").split("\r\n")[1:]
        found = [line.partition(":")[2].strip() for line in lines if line.lower().startswith(name + ":")]
        assert len(found) < 2, f"{name} is there {len(found)} times"
        return found[0] if found else None

    def leave(self) -> None:
        """The client goes away."""
        self.gone = True
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.client_gone()

    def refuse(self, error: Any, header_lines: bytes = b"") -> None:
        assert not self.over
        if self.gone:
            return
        self.events.append("refuse")
        self.error, self.status, self.header_lines = error, error.status, header_lines

    def begin(self, status: int, header_lines: bytes, content_length: int | None, *, has_body: bool) -> None:
        assert self.status is None
        if self.gone:
            return
        self.events.append("begin")
        self.status, self.header_lines, self.content_length = status, header_lines, content_length

    def write(self, data: bytes) -> None:
        assert not self.over
        if not self.gone:
            self.events.append("write")
            self.body += data

    def finish(self, data: bytes = b"") -> None:
        assert not self.over
        self.events.append("finish")
        if not self.gone:
            self.body += data

    def abort(self) -> None:
        assert not self.over
        self.events.append("abort")

    def fed_by(self, source: Any, watcher: Any) -> None:
        self.source, self._watcher = source, watcher
        if self.gone and watcher is not None:
            watcher.client_gone()


class OriginConnection(asyncio.Protocol):
    """OpenAI's end of one connection."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.transport: asyncio.Transport | None = None
        self.asked: list[Asked] = []
        self.closed = False
        self._parser = httptools.HttpRequestParser(self)

    def send(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def close(self) -> None:
        assert self.transport is not None
        self.transport.close()

    def abort(self) -> None:
        assert self.transport is not None
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.origin.connections.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True

    def data_received(self, data: bytes) -> None:
        if not self.origin.deaf:
            self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.asked.append(Asked())

    def on_url(self, url: bytes) -> None:
        self.asked[-1].target += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.asked[-1].headers.append((name.decode().lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self.asked[-1].method = self._parser.get_method().decode()

    def on_body(self, data: bytes) -> None:
        self.asked[-1].body += data

    def on_message_complete(self) -> None:
        self.asked[-1].whole = True
        if self.origin.answers:
            answer = self.origin.answers.popleft()
            if isinstance(answer, bytes):
                self.send(answer)
            else:
                answer(self)


class Origin:
    """An OpenAI on loopback that does as a test says: by `answers`, one for each request, or by hand on `connections`."""

    def __init__(self, tls: Any = None) -> None:
        self.connections: list[OriginConnection] = []
        self.answers: deque[bytes | Callable[[OriginConnection], None]] = deque()
        self.deaf = False  # nothing is read of what comes
        self._tls = tls

    @property
    def asked(self) -> list[Asked]:
        """All requests so far, by connection."""
        return [asked for connection in self.connections for asked in connection.asked]

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: OriginConnection(self), "127.0.0.1", 0, ssl=self._tls)
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in self.connections:
            if not connection.closed:
                connection.abort()
        await until(lambda: all(connection.closed for connection in self.connections))
        await self._server.wait_closed()


@pytest.fixture(scope="session")
def loopback() -> Any:
    """A scripted OpenAI, and running a coroutine against it: test modules do not import each other."""

    class Names:
        origin = Origin
        client = MemoryClient
        run = staticmethod(run)
        until = staticmethod(until)

    return Names
