"""Where the answer of one call goes: the `Client` port on a client's socket."""

from __future__ import annotations

import asyncio
import math
import secrets
from typing import Protocol

from gateway.errors import ApiError
from gateway.relay.call import Call, Gone, Source
from gateway.relay.head import status_line


class Finished(Protocol):
    """Told once when an answer has gone out, or its connection is beyond use."""

    def __call__(self, call: Call, *, reusable: bool) -> None: ...


class MakeAnswer(Protocol):
    """How the answer to a call is made."""

    def __call__(self, call: Call, transport: asyncio.Transport, finished: Finished, *, close: bool) -> Answer: ...


class Answer:
    """Frames one answer: with Content-Length, chunked, or to the close for HTTP/1.0. The head goes with the first bytes."""

    __slots__ = (
        "_begun", "_call", "_chunked", "_close", "_finished", "_has_body", "_head", "_left", "_over", "_source", "_transport", "_watcher",
        "gone",
    )  # fmt: skip

    def __init__(self, call: Call, transport: asyncio.Transport, finished: Finished, *, close: bool) -> None:
        self.gone = False
        self._call = call
        self._transport = transport
        self._finished = finished
        self._close = close or not call.keep_alive
        self._begun = self._over = False
        self._head = b""
        self._left: float = math.inf  # bytes that Content-Length still promises
        self._chunked = False
        self._has_body = True
        self._source: Source | None = None
        self._watcher: Gone | None = None

    # the Client port

    def refuse(self, error: ApiError, header_lines: bytes = b"") -> None:
        """Answer with an error of the gateway's own."""
        self._close = self._close or error.close
        body = error.body()
        lines = b"\r\ncontent-type: application/json" + header_lines
        if b"\r\nx-request-id: " not in header_lines:  # every answer has one, as OpenAI's do
            lines += b"\r\nx-request-id: req_" + secrets.token_hex(16).encode()
        for name, value in error.retry_headers():
            lines += b"\r\n%b: %b" % (name, value)
        self.begin(error.status, lines, len(body), has_body=True)
        self.finish(body)

    def begin(self, status: int, header_lines: bytes, content_length: int | None, *, has_body: bool) -> None:
        """The head, kept until the first bytes of the body or `write(b"")`."""
        self._begun = True
        self._has_body = has_body and self._call.method != "HEAD"
        framing = b""
        if content_length is not None:
            framing = b"\r\ncontent-length: %d" % content_length
            self._left = content_length
        elif self._has_body and not self._call.http_10:
            framing = b"\r\ntransfer-encoding: chunked"
            self._chunked = True
        elif self._has_body:
            self._close = True
        if self._close:
            framing += b"\r\nconnection: close"
        elif self._call.http_10:
            framing += b"\r\nconnection: keep-alive"
        self._head = status_line(status) + header_lines + framing + b"\r\n\r\n"

    def write(self, data: bytes) -> None:
        """Some of the body; the head goes out even when there is none yet."""
        if self.gone or self._transport.is_closing():
            return
        out = self._framed(data)
        if out:
            self._transport.write(out)

    def finish(self, data: bytes = b"") -> None:
        """The last of the body, and the end of the answer."""
        if self.gone:
            return
        out = self._framed(data)
        if self._chunked:
            out += b"0\r\n\r\n"
        if out and not self._transport.is_closing():
            self._transport.write(out)
        whole = not self._has_body or self._left == math.inf or self._left == 0
        self._end(reusable=whole and not self._close)

    def abort(self) -> None:
        """Break the connection: a chunked or counted answer without its end tells the client that it is cut."""
        if self.gone:
            return
        if self._chunked or self._left != math.inf:
            self._end(reusable=False)
        else:  # to the close: only a reset tells a cut answer from a whole one
            self._transport.abort()

    def fed_by(self, source: Source | None, watcher: Gone | None) -> None:
        """Who feeds the answer, and who wants to know that the client has left."""
        if self.gone:
            if watcher is not None:
                watcher.client_gone()  # and is not kept: the two would hold each other, and all of an answer, until a collection
            return
        self._source = source
        self._watcher = watcher
        if source is not None and self._transport.get_write_buffer_size() > self._transport.get_write_buffer_limits()[1]:
            source.pause()

    # the connection's side

    def client_left(self) -> None:
        """The socket is gone."""
        self.gone = True
        watcher, self._source, self._watcher = self._watcher, None, None
        if watcher is not None:
            watcher.client_gone()

    def hold_source(self) -> None:
        """The client does not read: neither do we."""
        if self._source is not None:
            self._source.pause()

    def free_source(self) -> None:
        """It reads again."""
        if self._source is not None:
            self._source.resume()

    def fail(self) -> None:
        """The exchange broke inside the gateway."""
        if self.gone or self._over:
            return
        if self._begun:
            self._transport.abort()
        else:
            self.refuse(ApiError(500, "server_error", "The gateway failed to carry this call. It was logged; try again.", close=True))

    def be_last(self) -> None:
        """No other answer is to go out here. Once its head is made the client was promised one more, and that will be the last."""
        if not self._begun:
            self._close = True

    def may_stay(self, *, last: bool) -> None:
        """The connection can carry another answer after all, if the client wants that; `last`: and if the gateway does not drain."""
        self._close = last or not self._call.keep_alive

    def _framed(self, data: bytes) -> bytes:
        head, self._head = self._head, b""
        if not data or not self._has_body:
            return head
        if self._chunked:
            return b"%b%x\r\n%b\r\n" % (head, len(data), data)
        self._left -= len(data)
        return head + data if head else data

    def _end(self, *, reusable: bool) -> None:
        self._over = True
        self._source = self._watcher = None
        self._finished(self._call, reusable=reusable)
