"""One connection to OpenAI: sends a request, reads its answer, tells the taker. An asyncio protocol."""

from __future__ import annotations

import asyncio
import select
from typing import IO, Literal, Protocol, cast

from gateway.relay.answer import AnswerReader, BadAnswer
from gateway.relay.call import Body
from gateway.relay.deadlines import NEVER, Deadlines

PIECE_BYTES = 262_144  # of a spooled body, read and written at a time

Lost = Literal["closed", "head_timeout", "stalled", "bad_answer"]


class Taker(Protocol):
    """Who takes an answer."""

    def take(self, reader: AnswerReader, payload: bytes) -> None:
        """More of the answer; `reader` says whether its head is there and whether it is complete."""

    def lost(self, why: Lost) -> None:
        """No more of the answer will come."""


class Upstream(asyncio.Protocol):
    """Carries one exchange at a time. After `complete` it may be reused; after anything else it is closed."""

    def __init__(self, loop: asyncio.AbstractEventLoop, deadlines: Deadlines, *, first_byte_timeout_ms: int, stall_timeout_ms: int) -> None:
        self._loop = loop
        self._deadlines = deadlines
        self._first_byte_timeout_s = first_byte_timeout_ms / 1000
        self._stall_timeout_s = stall_timeout_ms / 1000
        self._transport: asyncio.Transport | None = None
        self._reader: AnswerReader | None = None
        self._taker: Taker | None = None
        self._file: IO[bytes] | None = None
        self._paused = False
        self._last_call = False
        self.deadline_s = NEVER
        self.idle_since_s = 0.0

    @property
    def closed(self) -> bool:
        """Nothing can be sent any more."""
        return self._transport is None or self._transport.is_closing()

    def unread(self) -> bool:
        """Whether the kernel holds something the loop has not read yet. While nothing was asked that can only be the connection's end."""
        if self._transport is None:
            return True
        looked = select.poll()
        looked.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN | select.POLLRDHUP)
        return bool(looked.poll(0))

    def send(self, head: bytes, body: Body, taker: Taker, *, head_request: bool = False) -> None:
        """Send a request; its answer goes to the taker."""
        assert self._transport is not None
        self._reader = AnswerReader(answers_head_request=head_request)
        self._taker = taker
        self.deadline_s = self._loop.time() + self._first_byte_timeout_s
        if isinstance(body, bytes):
            self._transport.write(head + body if body else head)
        else:
            self._transport.write(head)
            self._file = body
            self._send_file()

    def let_go(self) -> bool:
        """The taker needs no more. Whether this connection can carry another exchange; if not, it is closed."""
        reader, unsent = self._reader, self._file
        self._taker = self._reader = self._file = None
        self.deadline_s = NEVER
        self._last_call = False
        self.resume()
        reusable = reader is None or (reader.complete and reader.head is not None and reader.head.keep_alive)  # None: never used
        if not reusable or unsent is not None or self.closed:
            self.close()
            return False
        self.idle_since_s = self._loop.time()
        return True

    def close(self) -> None:
        """Close at once, dropping what was not sent."""
        self._taker = None
        if self._transport is not None:
            self._transport.abort()

    def end_within(self, timeout_ms: int) -> None:
        """Whatever comes, the answer must end within this time."""
        self._last_call = True
        self.deadline_s = self._loop.time() + timeout_ms / 1000

    def pause(self) -> None:
        """Read nothing more for now."""
        if not self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()
            if not self._last_call:
                self.deadline_s = NEVER  # it is the client who keeps us waiting

    def resume(self) -> None:
        """Read on."""
        if self._paused:
            self._paused = False
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()
                if self._taker is not None and not self._last_call:
                    self.deadline_s = self._loop.time() + self._stall_timeout_s

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready to send."""
        self._transport = cast(asyncio.Transport, transport)
        self._deadlines.add(self)

    def data_received(self, data: bytes) -> None:
        """Some of the answer."""
        reader, taker = self._reader, self._taker
        if reader is None or taker is None:
            self.close()  # nothing was asked
            return
        if not self._last_call:
            self.deadline_s = self._loop.time() + self._stall_timeout_s
        try:
            payload = reader.feed(data)
        except BadAnswer:
            self._lose("bad_answer")
        else:
            taker.take(reader, payload)

    def eof_received(self) -> bool:
        """The upstream will send no more: the end of a close-delimited answer, or a loss."""
        self._at_eof()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._deadlines.remove(self)
        self._transport = None
        if exc is None:
            self._at_eof()
        else:
            self._lose("closed")

    def pause_writing(self) -> None:
        """Nothing to do: `_send_file` looks at the buffer itself."""

    def resume_writing(self) -> None:
        """More of a spooled body can go."""
        self._send_file()

    def expired(self) -> None:
        """Too long without a byte, or past the end that was set."""
        headless = self._reader is not None and self._reader.head is None
        self._lose("head_timeout" if headless and not self._last_call else "stalled")

    # inside

    def _at_eof(self) -> None:
        reader, taker = self._reader, self._taker
        if reader is None or taker is None or reader.complete:
            return
        try:
            reader.eof()
        except BadAnswer:
            self._lose("closed")
        else:
            taker.take(reader, b"")

    def _lose(self, why: Lost) -> None:
        taker = self._taker
        self.deadline_s = NEVER
        self.close()
        if taker is not None:
            taker.lost(why)

    def _send_file(self) -> None:
        while self._file is not None and self._transport is not None and not self._transport.is_closing():
            if self._transport.get_write_buffer_size() > PIECE_BYTES:
                return
            piece = self._file.read(PIECE_BYTES)
            if not piece:
                self._file = None
                return
            self._transport.write(piece)
