"""One client connection: requests in, one exchange at a time in their order, answers out."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, cast

import httptools
import msgspec

from gateway.errors import ApiError
from gateway.relay.call import Call, Client
from gateway.relay.deadlines import NEVER, Deadlines
from gateway.relay.gate import Steps
from gateway.server import refusals
from gateway.server.answer import Answer, MakeAnswer
from gateway.server.heads import call_of
from gateway.server.open_connections import OpenConnections

PIPELINED_MAX = 32  # requests read ahead on one connection; further ones wait in the socket
PIPELINED_AT_ONCE_MAX = 256  # with what one read brings more: of a read of 256 KiB, 10,000 calls of the shortest would be 8 MiB
PIPELINED_BYTES_MAX = 4_194_304  # and so much of their bodies
DISCARDED_BYTES_MAX = 8_388_608  # of what was refused, read and dropped so that the client sees the answer
LINGER_MS = 2_000  # for a client that still sends after its connection was refused further service
DRAIN_IDLE_MS = 1_000  # in a drain, for a request on a connection that was never said to end: closed at once, it could cross the close
DRAIN_FIRST_MS = 5_000  # and for the first one of a connection: whoever has just connected has something to say


class _Refuse(Exception):
    """Leaves a parser callback: the request is answered with this error."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.message)
        self.error = error


ServeCall = Callable[[Call, Client], Coroutine[Any, None, None]]


class Bounds(msgspec.Struct, frozen=True):
    """What a client may take: bytes and time."""

    head_bytes_max: int
    body_bytes_max: int
    head_timeout_ms: int
    body_timeout_ms: int
    idle_timeout_ms: int
    write_timeout_ms: int
    connections_max: int = 10_000


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
        make_answer: MakeAnswer = Answer,
    ) -> None:
        self._loop = loop
        self._bounds = bounds
        self._serve_call = serve_call
        self._deadlines = deadlines
        self._open_connections = open_connections
        self._broke = broke
        self._make_answer = make_answer
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._answer: Answer | None = None  # of the exchange that runs now
        self._running: Call | None = None  # its call
        self._waiting: deque[Call] = deque()  # whole or partial requests behind it
        self._arriving: Call | None = None  # whose body is still coming
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_bytes = self._fed_bytes = self._discarded = 0
        self._in_head = False
        self._completed = False  # a request, by the bytes fed last
        self._got_body = False  # by the bytes fed last
        self._refusal: ApiError | None = None  # of bytes that make no call; answered behind the calls before it
        self._draining = False
        self._broken = False  # nothing further is read
        self._leaving = False  # closes once what was written has gone
        self._held = False  # the client does not take what was written: nothing further is begun for it
        self._paused = False  # so much waits that we do not read: then it is not the client who is slow
        self.deadline_s = NEVER

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        self._transport = cast(asyncio.Transport, transport)
        self._deadlines.add(self)
        self._expect_within(self._bounds.head_timeout_ms)
        self._open_connections.add(self)
        if len(self._open_connections) > self._bounds.connections_max:
            self._refuse(refusals.TOO_MANY)

    def data_received(self, data: bytes) -> None:
        """Some of a request."""
        if self._broken:
            self._discard(len(data))
            return
        in_head_before, in_body_before = self._in_head, self._arriving is not None
        self._completed = self._got_body = False
        self._fed_bytes = len(data)
        if in_head_before:
            self._head_bytes += len(data)
        elif in_body_before:
            self._expect_within(self._bounds.body_timeout_ms)
        try:
            self._parse(data)
        except httptools.HttpParserCallbackError as error:
            why = error.__context__
            if not isinstance(why, _Refuse):
                self._broke(why or error)  # ours: no room to spool a body, say
            self._refuse(why.error if isinstance(why, _Refuse) else refusals.FAILED)
        except httptools.HttpParserError:
            self._refuse(refusals.MALFORMED)
        if self._answer is None:
            self._next()
        if self._in_head:
            if not in_head_before and not self._completed:
                self._head_bytes = len(data)  # all of it is head; behind a whole request it may not be, and the next read tells
            if self._head_bytes > self._bounds.head_bytes_max:
                self._refuse(refusals.head_too_large(self._bounds.head_bytes_max))
        elif self._arriving is not None:  # chunk extensions and trailers, which nobody needs, are bounded as a head is
            self._head_bytes = self._head_bytes + len(data) if in_body_before and not self._got_body else 0
            if self._head_bytes > self._bounds.head_bytes_max:
                self._refuse(refusals.MALFORMED)
        if self._waiting and self._transport is not None and not self._leaving and self._reads_ahead_more_than(PIPELINED_MAX):
            self._transport.pause_reading()
            self._paused = True
            self._expect_what_is_due()

    def _parse(self, data: bytes) -> None:
        while data:
            try:
                return self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:  # offered (h2c, a WebSocket), and not taken: the call is served as it is
                self._parser = httptools.HttpRequestParser(self)
                data = data[upgrade.args[0] :]

    def eof_received(self) -> bool:
        """The client has left. One that only stopped sending looks the same; but whoever waits for an answer keeps its side open,
        and a call that nobody waits for must not run on at OpenAI."""
        self._broken = True
        if self._arriving is not None:
            self._arriving.received.open(refusals.CUT)
        elif self._answer is not None:
            self._answer.client_left()
        self._close()
        return False

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
        self._answer = self._running = None
        del self._parser  # it and this hold each other, and the last call of a client should not wait for a collection
        if answer is not None:
            answer.client_left()
        if arriving is not None:
            arriving.received.open(refusals.CUT)

    def pause_writing(self) -> None:
        """The client does not take what was sent."""
        if self._answer is not None:
            self._answer.hold_source()
        self._expect_within(self._bounds.write_timeout_ms)
        self._held = True

    def resume_writing(self) -> None:
        """It takes again."""
        self._held = False
        if self._answer is not None:
            self._answer.free_source()
        self._expect_what_is_due()
        if self._answer is None:
            self._next()

    def expired(self) -> None:
        """Too slow in a head or a body, idle too long, or not reading."""
        self.deadline_s = NEVER
        if self._transport is None:
            return
        if self._leaving or self._held:
            self._transport.abort()
        elif self._arriving is not None or self._in_head:
            self._refuse(refusals.TOO_SLOW)
        else:
            self._close()

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
        """The head is whole: its exchange comes next; its body may still be coming."""
        self._in_head = False
        if self._broken:
            return  # behind an answer that ended the connection, in the same read
        head_bytes_max = self._bounds.head_bytes_max
        if self._head_bytes > head_bytes_max or self._fed_bytes > head_bytes_max:  # what was fed may hold more than the head
            line_bytes = len(self._parser.get_method()) + len(self._url) + len("  HTTP/1.1\r\n\r\n")
            if line_bytes + sum([len(name) + len(value) + 4 for name, value in self._headers]) > head_bytes_max:
                raise _Refuse(refusals.head_too_large(head_bytes_max))
        call = call_of(self._parser, self._url, self._headers)
        if call is None:
            raise _Refuse(refusals.MALFORMED)
        self._arriving = call
        self._expect_within(self._bounds.body_timeout_ms)
        problem = refusals.framing_problem(call, upgrades=self._parser.should_upgrade(), body_bytes_max=self._bounds.body_bytes_max)
        if problem is not None:
            raise _Refuse(problem)
        if len(self._waiting) >= PIPELINED_AT_ONCE_MAX:
            raise _Refuse(refusals.TOO_MANY_AHEAD)
        self._waiting.append(call)  # begins once all that was read is parsed: most often its body is there by then

    def on_body(self, data: bytes) -> None:
        """Some of a body."""
        call = self._arriving
        self._got_body = True
        if call is None:
            return
        if call.received.opened:  # refused already: read on a little, so that the client sees the answer
            self._discard(len(data))
            return
        if call.body_bytes + len(data) > self._bounds.body_bytes_max:
            raise _Refuse(refusals.body_too_large(self._bounds.body_bytes_max))
        call.add(data)

    def on_message_complete(self) -> None:
        """The request is whole."""
        call, self._arriving = self._arriving, None
        self._completed = True
        self._expect_nothing()
        if call is not None:
            call.received.open(None)

    # inside

    def _start(self, call: Call) -> None:
        transport = self._transport
        if transport is None:
            return
        self._running = call
        expects = None if call.http_10 else call.header(b"expect")
        # A client that is refused before it was told to continue may send its body or not: what comes next cannot be told apart.
        waits = expects is not None and not call.received.opened
        self._answer = answer = self._make_answer(call, transport, self._finished, close=self._draining or waits)

        def ended(error: BaseException | None) -> None:
            if error is not None:
                self._broke(error)
                answer.fail()
            if answer.gone:
                call.close()  # nobody was there for `_finished` to be called

        if expects and expects.lower() != b"100-continue":
            answer.refuse(refusals.EXPECTATION)
            return
        Steps(self._serve_call(call, answer), ended).step()
        if waits and self._answer is answer and not call.received.opened:  # its head was not refused: the body is wanted
            answer.may_stay(last=self._draining)
            transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _finished(self, call: Call, *, reusable: bool) -> None:
        """An answer has gone out whole, or its connection is beyond use."""
        self._answer = self._running = None
        call.close()
        still_arriving = call is self._arriving
        if still_arriving:
            call.received.open(refusals.CUT)  # refused before its body was there: the rest of it is read and dropped
        if not reusable:
            self._close(linger=self._broken or still_arriving)
        elif not still_arriving:
            if self._waiting or self._refusal is not None:
                self._loop.call_soon(self._next)  # not from inside the exchange that ends here
            else:
                self._next()

    def _next(self) -> None:
        transport = self._transport
        if self._answer is not None or self._held or self._leaving or transport is None:
            return
        if self._waiting:
            call = self._waiting.popleft()
            self._start(call)
            if self._paused and not self._leaving and not self._reads_ahead_more_than(PIPELINED_MAX // 2):
                self._paused = False
                transport.resume_reading()
                self._expect_what_is_due()
        elif self._refusal is not None:
            refusal, self._refusal = self._refusal, None
            nothing = Call("GET", b"", b"", self._headers, http_10=False, keep_alive=False)
            self._make_answer(nothing, transport, self._finished, close=True).refuse(refusal)
        elif self._broken:
            self._close(linger=True)
        elif self._arriving is None and not self._in_head:
            self._expect_within(self._bounds.idle_timeout_ms)

    def _refuse(self, error: ApiError) -> None:
        """What cannot be parsed, or is out of bounds, is answered behind what came before it, and ends the connection."""
        if self._broken:
            return
        self._broken = True
        self._in_head = False
        arriving, self._arriving = self._arriving, None
        if arriving is not None and arriving.received.opened:
            self._close(linger=True)  # it has its answer
        elif arriving is not None and (arriving is self._running or arriving in self._waiting):
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
        if not self._held and not self._leaving:
            self.deadline_s = self._loop.time() + timeout_ms / 1000

    def _reads_ahead_more_than(self, calls_max: int) -> bool:
        return len(self._waiting) > calls_max or sum([call.body_bytes for call in self._waiting]) > PIPELINED_BYTES_MAX

    def _expect_what_is_due(self) -> None:
        if self._arriving is not None and not self._paused:
            self._expect_within(self._bounds.body_timeout_ms)
        elif self._in_head and not self._paused:
            self._expect_within(self._bounds.head_timeout_ms)
        elif self._answer is None and not self._waiting:
            self._expect_within(self._bounds.idle_timeout_ms)
        else:
            self._expect_nothing()

    def _expect_nothing(self) -> None:
        if not self._held and not self._leaving:
            self.deadline_s = NEVER

    def _close(self, *, linger: bool = False) -> None:
        """Read no further, and close once what was written has gone; within a bounded time, whatever the client does."""
        self._broken = True
        transport = self._transport
        if transport is None or self._leaving:
            return
        linger = linger and transport.can_write_eof()
        if linger:
            transport.write_eof()  # a close with bytes unread would reset the connection, and the client lose the answer
        else:
            transport.close()
        self._leaving = True
        self.deadline_s = self._loop.time() + (LINGER_MS if linger else self._bounds.write_timeout_ms) / 1000

    def abort(self) -> None:
        """Break off whatever runs: the deadline of a drain has passed."""
        if self._transport is not None:
            self._transport.abort()

    def drain(self) -> None:
        """One request more at most, whose answer ends the connection; without one it closes soon."""
        self._draining = True
        self._bounds = msgspec.structs.replace(self._bounds, idle_timeout_ms=min(self._bounds.idle_timeout_ms, DRAIN_IDLE_MS))
        if self._answer is not None:
            self._answer.be_last()
        elif self._arriving is None and not self._in_head:
            self._expect_within(self._bounds.idle_timeout_ms if self._url else DRAIN_FIRST_MS)
