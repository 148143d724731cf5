"""What a client asked, and where its answer goes."""

from __future__ import annotations

import tempfile
from typing import IO, Protocol

from gateway.errors import ApiError
from gateway.relay.gate import Gate

SPOOL_BYTES = 1_048_576  # a body beyond this waits on disk, so that slow uploads do not fill memory

Body = bytes | IO[bytes]


class Call:
    """One request as it came. Header names are lower case. The body may still be arriving: wait at `received`."""

    __slots__ = (
        "_by_name",
        "_chunks",
        "_spool",
        "body_bytes",
        "headers",
        "http_10",
        "keep_alive",
        "method",
        "path",
        "query",
        "received",
        "repeats_headers",
        "waited_ns",
    )

    def __init__(
        self, method: str, path: bytes, query: bytes, headers: list[tuple[bytes, bytes]], *, http_10: bool, keep_alive: bool
    ) -> None:
        self.method = method
        self.path = path
        self.query = query  # without the question mark
        self.headers = headers
        self.http_10 = http_10
        self.keep_alive = keep_alive
        self.received: Gate[ApiError | None] = Gate()  # opened when the body is whole, or cannot be
        self.body_bytes = 0
        self.waited_ns = 0  # by its exchange: for this body, and for a connection; time that is not the gateway's own
        self._by_name = dict(headers)
        self.repeats_headers = len(self._by_name) != len(headers)
        if self.repeats_headers:
            self._by_name = dict(reversed(headers))  # the first of a name
        self._chunks: list[bytes] = []
        self._spool: IO[bytes] | None = None

    def header(self, name: bytes) -> bytes | None:
        """The first header of this name."""
        return self._by_name.get(name)

    @property
    def is_preflight(self) -> bool:
        """A browser asks whether a page may call; it bears no key. Source: the Fetch standard, CORS-preflight request."""
        return self.method == "OPTIONS" and None not in (self.header(b"origin"), self.header(b"access-control-request-method"))

    def add(self, data: bytes) -> None:
        """More of the body."""
        self.body_bytes += len(data)
        if self._spool is not None:
            self._spool.write(data)
            return
        self._chunks.append(data)
        if self.body_bytes > SPOOL_BYTES:
            self._spool = tempfile.TemporaryFile()  # noqa: SIM115  # closed by close()
            self._spool.writelines(self._chunks)
            self._chunks.clear()

    def body(self) -> bytes:
        """The whole body in memory."""
        if self._spool is not None:
            self._spool.seek(0)
            return self._spool.read()
        if len(self._chunks) != 1:
            self._chunks = [b"".join(self._chunks)]
        return self._chunks[0]

    def body_to_send(self) -> Body:
        """The body as it is kept: bytes, or the file it was spooled to, at its beginning."""
        if self._spool is None:
            return self.body()
        self._spool.seek(0)
        return self._spool

    def close(self) -> None:
        """Give back what the body holds."""
        self._chunks.clear()
        if self._spool is not None:
            self._spool.close()
            self._spool = None


class Source(Protocol):
    """What feeds an answer: told to wait while the client does not read."""

    def pause(self) -> None:
        """Read nothing more for now."""

    def resume(self) -> None:
        """Read on."""


class Gone(Protocol):
    """Who wants to know that the client has left."""

    def client_gone(self) -> None:
        """Called once."""


class Client(Protocol):
    """Where the answer of one call goes. After the client left, writes go nowhere."""

    gone: bool

    def refuse(self, error: ApiError, header_lines: bytes = b"") -> None:
        """Answer with an error of the gateway's own. `header_lines` each begin with CRLF."""

    def begin(self, status: int, header_lines: bytes, content_length: int | None, *, has_body: bool) -> None:
        """The answer's head; `header_lines` each begin with CRLF. Without a length it is chunked, or to the close for HTTP/1.0."""

    def write(self, data: bytes) -> None:
        """Some of the body, as soon as possible."""

    def finish(self, data: bytes = b"") -> None:
        """The last of the body; the answer is whole."""

    def abort(self) -> None:
        """The answer cannot be whole: break the connection, so that the client sees that."""

    def fed_by(self, source: Source | None, watcher: Gone | None) -> None:
        """Who feeds the answer from now on, and who wants to know when the client leaves."""
