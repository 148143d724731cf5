"""One client connection: requests in, one exchange at a time in their order, answers out."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, cast

import httptools
import msgspec

from gateway.errors import ApiError
from gateway.relay.call import Call, Client
from gateway.relay.deadlines import NEVER, Deadlines
from gateway.relay.gate import Steps
from gateway.server.answer import Answer

PIPELINED_MAX = 32  # requests read ahead on one connection; further ones wait in the socket
DISCARDED_BYTES_MAX = 8_388_608  # of what was refused, read and dropped so that the client sees the answer
LINGER_MS = 2_000  # for a client that still sends after its connection was refused further service

_MALFORMED = ApiError(
    400, "invalid_request_error", "This is not a valid HTTP/1.1 request. Check its request line, headers and framing.", close=True
)
_CUT = ApiError(400, "invalid_request_error", "The request ended before its body was whole. Send it again.", close=True)


class _Refuse(Exception):
    """Leaves a parser callback: the request is answered with this error."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.message)
        self.error = error


def _head_too_large(head_bytes_max: int) -> ApiError:
    message = f"The request's URL and headers are longer than {head_bytes_max} bytes. Send fewer or shorter headers."
    return ApiError(431, "invalid_request_error", message, close=True)


def _body_too_large(body_bytes_max: int) -> ApiError:
    message = f"The request body is longer than the {body_bytes_max} bytes that this gateway takes (proxy.body_bytes_max)."
    return ApiError(413, "invalid_request_error", message, close=True)


ServeCall = Callable[[Call, Client], Coroutine[Any, None, None]]


class Bounds(msgspec.Struct, frozen=True):
    """What a client may take: bytes and time."""

    head_bytes_max: int
    body_bytes_max: int
    head_timeout_ms: int
    body_timeout_ms: int
    idle_timeout_ms: int
    write_timeout_ms: int


class OpenConnections:
    """The clients that are connected now."""

    def __init__(self) -> None:
        self._open: set[ClientConnection] = set()
        self._none_left = asyncio.Event()
        self._none_left.set()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: ClientConnection) -> None:
        """It has connected."""
        self._open.add(connection)
        self._none_left.clear()

    def remove(self, connection: ClientConnection) -> None:
        """It has left."""
        self._open.discard(connection)
        if not self._open:
            self._none_left.set()

    async def drain(self, timeout_ms: int) -> None:
        """Let what runs come to its end; break off what has not after this time."""
        for connection in list(self._open):
            connection.drain()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_ms / 1000):
                await self._none_left.wait()
        for connection in list(self._open):
            connection.abort()
        await self._none_left.wait()


class ClientConnection(asyncio.Protocol):
    """Reads requests with httptools, holds them to the bounds, and steps their exchanges."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        bounds: Bounds,
        serve_call: ServeCall,
        deadlines: Deadlines,
        open_connections: OpenConnections,
        broke: Callable[[BaseException], None],
    ) -> None:
        self._loop = loop
        self._bounds = bounds
        self._serve_call = serve_call
        self._deadlines = deadlines
        self._open_connections = open_connections
        self._broke = broke
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._answer: Answer | None = None  # of the exchange that runs now
        self._running: Call | None = None  # its call
        self._waiting: deque[Call] = deque()  # whole or partial requests behind it
        self._arriving: Call | None = None  # whose body is still coming
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._in_head = False
        self._completed = False  # a request, by the bytes fed last
        self._fed_bytes = 0
        self._refusal: ApiError | None = None  # of bytes that make no call; answered behind the calls before it
        self._draining = False
        self._broken = False  # nothing further is read
        self._discarded = 0
        self.deadline_s = NEVER

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        self._transport = cast(asyncio.Transport, transport)
        self._open_connections.add(self)
        self._deadlines.add(self)
        self._expect_within(self._bounds.head_timeout_ms)

    def data_received(self, data: bytes) -> None:
        """Some of a request."""
        if self._broken:
            self._discard(len(data))
            return
        began_before = self._in_head
        self._completed = False
        self._fed_bytes = len(data)
        if began_before:
            self._head_bytes += len(data)
        elif self._arriving is not None:
            self._expect_within(self._bounds.body_timeout_ms)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:  # offered (h2c, a WebSocket), and not taken: the call is served as it is
            self._parser = httptools.HttpRequestParser(self)
            if rest := data[upgrade.args[0] :]:
                self.data_received(rest)
        except httptools.HttpParserCallbackError as error:
            self._refuse(error.__context__.error if isinstance(error.__context__, _Refuse) else _MALFORMED)
        except httptools.HttpParserError:
            self._refuse(_MALFORMED)
        if self._in_head and not began_before and not self._completed:
            self._head_bytes = len(data)  # all of it is head; behind a whole request it may not be, and the next read tells
        if self._in_head and self._head_bytes > self._bounds.head_bytes_max:
            self._refuse(_head_too_large(self._bounds.head_bytes_max))
        if len(self._waiting) > PIPELINED_MAX and self._transport is not None:
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """The client sends no more. It may still be reading: a running exchange goes on (RFC 9112 section 9.6)."""
        self._broken = True
        if self._arriving is not None:
            self._arriving.received.open(_CUT)
            return False
        return self._answer is not None

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has left."""
        self._transport = None
        self._broken = True
        self._open_connections.remove(self)
        self._deadlines.remove(self)
        for call in self._waiting:
            call.close()
        self._waiting.clear()
        answer, arriving = self._answer, self._arriving
        if answer is not None:
            answer.client_left()
        if arriving is not None:
            arriving.received.open(_CUT)

    def pause_writing(self) -> None:
        """The client does not take what was sent."""
        if self._answer is not None:
            self._answer.hold_source()
        self._expect_within(self._bounds.write_timeout_ms)

    def resume_writing(self) -> None:
        """It takes again."""
        self.deadline_s = NEVER
        if self._answer is not None:
            self._answer.free_source()

    def expired(self) -> None:
        """Too slow in a head or a body, idle too long, or not reading."""
        self.deadline_s = NEVER
        if self._transport is None:
            return
        if self._arriving is not None or self._in_head:
            self._refuse(
                ApiError(408, "invalid_request_error", "The request did not arrive in time. Send it again, without pauses.", close=True)
            )
        elif self._answer is not None:
            self._transport.abort()
        else:
            self._transport.close()

    # httptools callbacks

    def on_message_begin(self) -> None:
        """A request line begins."""
        self._url = b""
        self._headers = []
        self._head_bytes = 0
        self._in_head = True
        self._expect_within(self._bounds.head_timeout_ms)

    def on_url(self, url: bytes) -> None:
        """Some of the request target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header line; also a trailer, which is dropped."""
        if self._in_head:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is whole: begin the exchange; its body may still be coming."""
        self._in_head = False
        head_bytes_max = self._bounds.head_bytes_max
        if self._head_bytes > head_bytes_max or self._fed_bytes > head_bytes_max:  # what was fed may hold more than the head
            lines = [len(name) + len(value) + 4 for name, value in self._headers]
            if len(self._url) + sum(lines) > head_bytes_max:
                raise _Refuse(_head_too_large(head_bytes_max))
        call = self._call_from_head()
        self._arriving = call
        self._expect_within(self._bounds.body_timeout_ms)
        self._check_framing(call)
        if self._answer is None:
            self._start(call)
        else:
            self._waiting.append(call)

    def on_body(self, data: bytes) -> None:
        """Some of a body."""
        call = self._arriving
        if call is None:
            return
        if call.received.opened:  # refused already: read on a little, so that the client sees the answer
            self._discard(len(data))
            return
        if call.body_bytes + len(data) > self._bounds.body_bytes_max:
            raise _Refuse(_body_too_large(self._bounds.body_bytes_max))
        call.add(data)

    def on_message_complete(self) -> None:
        """The request is whole."""
        call, self._arriving = self._arriving, None
        self._completed = True
        self.deadline_s = NEVER
        if call is not None:
            call.received.open(None)
        if self._answer is None:
            self._next()

    # inside

    def _call_from_head(self) -> Call:
        try:
            url = httptools.parse_url(self._url)
        except httptools.HttpParserInvalidURLError:
            raise _Refuse(_MALFORMED) from None
        http_10 = self._parser.get_http_version() == "1.0"
        return Call(
            self._parser.get_method().decode(),
            url.path or b"/",
            url.query or b"",
            self._headers,
            http_10=http_10,
            keep_alive=self._parser.should_keep_alive(),
        )

    def _check_framing(self, call: Call) -> None:
        length: bytes | None = None
        chunked = hosts = 0
        for name, value in call.headers:
            if name == b"content-length":
                if length is not None or not value.isdigit():
                    raise _Refuse(_MALFORMED)
                length = value
            elif name == b"transfer-encoding":
                chunked += 1
                if value.strip().lower() != b"chunked":
                    raise _Refuse(_MALFORMED)
            elif name == b"host":
                hosts += 1
        if chunked > 1 or (chunked and (length is not None or call.http_10)) or hosts > 1 or (hosts == 0 and not call.http_10):
            raise _Refuse(_MALFORMED)
        if length is not None and (len(length) > 15 or int(length) > self._bounds.body_bytes_max):
            raise _Refuse(_body_too_large(self._bounds.body_bytes_max))
        if call.method == "CONNECT" or (self._parser.should_upgrade() and (chunked or (length or b"0") != b"0")):
            # llhttp ends a message that asks for an upgrade at its head: its body would be read as the next request
            raise _Refuse(_MALFORMED)

    def _start(self, call: Call) -> None:
        transport = self._transport
        if transport is None:
            return
        self._running = call
        self._answer = answer = Answer(call, transport, self._finished, close=self._draining)
        if not call.http_10 and not call.received.opened and (call.header(b"expect") or b"").lower() == b"100-continue":
            transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

        def ended(error: BaseException | None) -> None:
            if error is not None:
                self._broke(error)
                answer.fail()

        Steps(self._serve_call(call, answer), ended).step()

    def _finished(self, call: Call, *, reusable: bool) -> None:
        """An answer has gone out whole, or its connection is beyond use."""
        self._answer = self._running = None
        call.close()
        if call is self._arriving:
            call.received.open(_CUT)  # refused before its body was there: the rest of it is read and dropped
        transport = self._transport
        if transport is None:
            return
        if self._broken and not reusable and transport.can_write_eof():
            transport.write_eof()  # a close with bytes unread would reset the connection, and the client lose the answer
            self._expect_within(LINGER_MS)
        elif not reusable or self._draining:
            self._broken = True
            transport.close()
        elif call is not self._arriving:
            if self._waiting or self._refusal is not None:
                self._loop.call_soon(self._next)  # not from inside the exchange that ends here
            else:
                self._next()

    def _next(self) -> None:
        transport = self._transport
        if self._answer is not None or transport is None:
            return
        if self._waiting:
            call = self._waiting.popleft()
            if len(self._waiting) == PIPELINED_MAX // 2:
                transport.resume_reading()
            self._start(call)
        elif self._refusal is not None:
            refusal, self._refusal = self._refusal, None
            nothing = Call("GET", b"", b"", [], http_10=False, keep_alive=False)
            Answer(nothing, transport, self._finished, close=True).refuse(refusal)
        elif self._broken:
            transport.close()
        elif self._arriving is None and not self._in_head:
            self._expect_within(self._bounds.idle_timeout_ms)

    def _refuse(self, error: ApiError) -> None:
        """What cannot be parsed, or is out of bounds, is answered behind what came before it, and ends the connection."""
        if self._broken:
            return
        self._broken = True
        self._in_head = False
        arriving, self._arriving = self._arriving, None
        if arriving is not None and not arriving.received.opened and (arriving is self._running or arriving in self._waiting):
            arriving.received.open(error)  # its own exchange answers
        else:
            self._refusal = error
            if self._answer is None:
                self._next()

    def _discard(self, size: int) -> None:
        """Bytes that nobody will read: a bounded number, so that a client that still sends can see its answer."""
        self._discarded += size
        if self._discarded > DISCARDED_BYTES_MAX and self._transport is not None and self._answer is None:
            self._transport.abort()

    def _expect_within(self, timeout_ms: int) -> None:
        self.deadline_s = self._loop.time() + timeout_ms / 1000

    def abort(self) -> None:
        """Break off whatever runs: the deadline of a drain has passed."""
        if self._transport is not None:
            self._transport.abort()

    def drain(self) -> None:
        """Take no further request: idle connections close now, busy ones after their answer."""
        self._draining = True
        if self._answer is None and self._transport is not None:
            self._transport.close()
