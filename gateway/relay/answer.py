"""The strict reader of OpenAI's answers: head and framing of HTTP/1.1, bytes in, payload out. Sans-io.

The one hand-written parser of the product (design section 4): it reads one trusted upstream, saves 12 µs a call, and is
held against httptools as its oracle. What it does not know to be right it refuses, and the connection is closed.
"""

from __future__ import annotations

import re
from functools import lru_cache

import msgspec

HEAD_BYTES_MAX = 65_536
LINE_BYTES_MAX = 1_024  # of a chunk's size with its extensions
TRAILER_BYTES_MAX = 16_384

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_TEXT = rb"[^\x00-\x08\x0a-\x1f\x7f]*"  # no control characters but the tab
_HEAD = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: " + _TEXT + rb")?((?:\r\n" + _TOKEN + rb":" + _TEXT + rb")*)\r\n\r\n")
_TRAILER = re.compile(rb"(?!(?i:content-length|transfer-encoding):)" + _TOKEN + rb":" + _TEXT)  # RFC 9110 section 6.5.1: no framing
_FRAMING = re.compile(
    rb"\r\n(content-length|transfer-encoding|connection|content-type|content-encoding|x-request-id):[ \t]*([^\r\n]*)",
    re.IGNORECASE,
)
_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})(?:;" + _TOKEN + rb"(?:=(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?)*")
_DIGITS = re.compile(rb"[0-9]{1,15}")

_CONNECTION_OPTIONS = {b"", b"close", b"keep-alive"}
_NONE: frozenset[bytes] = frozenset()

# Where the reader stands in an answer.
_AT_HEAD, _AT_LENGTH, _AT_CHUNK_LINE, _AT_CHUNK, _AT_CHUNK_END, _AT_TRAILER, _TO_CLOSE, _AT_END = range(8)


class BadAnswer(Exception):
    """The upstream sent what HTTP/1.1 does not allow, or this reader does not know to be right."""


class AnswerHead(msgspec.Struct, frozen=True):
    """Status and header lines of an answer. `lines` is `\\r\\nName: value` repeated, as it came."""

    status: int
    lines: bytes
    content_type: bytes
    content_encoding: bytes
    request_id: bytes
    content_length: int | None
    chunked: bool
    keep_alive: bool
    hop_by_hop: frozenset[bytes] = frozenset()  # headers that Connection names, in lower case


class AnswerReader:
    """Feed it what a socket gives, cut anywhere; it gives back the payload without its framing.

    `head` is there once the head is complete, `complete` when the answer is; bytes beyond the answer are `BadAnswer`,
    since nothing was asked that they could answer.
    """

    __slots__ = ("_at", "_buffer", "_left", "_no_body", "complete", "head")

    def __init__(self, *, answers_head_request: bool = False) -> None:
        self.head: AnswerHead | None = None
        self.complete = False
        self._no_body = answers_head_request
        self._at = _AT_HEAD
        self._buffer = b""
        self._left = 0

    def feed(self, data: bytes) -> bytes:
        """The payload in these bytes. Raises BadAnswer."""
        if self._at == _AT_HEAD:
            data = self._buffer + data if self._buffer else data
            rest = self._read_head(data)
            if rest is None:
                return b""
            data = rest
        if self._at == _AT_LENGTH:
            return self._read_length(data)
        if self._at == _TO_CLOSE:
            return data
        if self._at == _AT_END:
            if data:
                raise BadAnswer("bytes after the end of the answer")
            return b""
        return self._read_chunks(data)

    def eof(self) -> None:
        """The upstream closed its side. Raises BadAnswer when the answer was not complete."""
        if self._at == _TO_CLOSE:
            self.complete = True
            self._at = _AT_END
        elif self._at != _AT_END:
            raise BadAnswer("the connection closed inside the answer")

    def _read_head(self, data: bytes) -> bytes | None:
        while True:
            end = data.find(b"\r\n\r\n")
            if end < 0 or end > HEAD_BYTES_MAX:
                if end >= 0 or len(data) > HEAD_BYTES_MAX + 3:  # three bytes of its end may be there
                    raise BadAnswer(f"head longer than {HEAD_BYTES_MAX} bytes")
                self._buffer = data
                return None
            match = _HEAD.match(data)
            if match is None or match.end() != end + 4:
                raise BadAnswer("malformed head")
            data = data[end + 4 :]
            status = int(match[2])
            if status == 101:
                raise BadAnswer("switching protocols was not asked for")
            head = _read_framing(status, match[3], http_10=match[1] == b"0")
            if status >= 200:
                break  # before it came 100 Continue or 103 Early Hints, if anything
            if not head.keep_alive:
                raise BadAnswer("an interim answer that ends the connection")
        self._buffer = b""
        self.head = head
        if self._no_body or status in (204, 304):
            self._end()
            if status == 204 and head.content_length is not None:  # it may have none, and must not be told on (RFC 9110 section 8.6)
                self.head = msgspec.structs.replace(head, content_length=None)
        elif head.chunked:
            self._at = _AT_CHUNK_LINE
        elif head.content_length is not None:
            self._at, self._left = _AT_LENGTH, head.content_length
            if not head.content_length:
                self._end()
        else:
            self._at = _TO_CLOSE
        return data

    def _read_length(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left <= 0:
            if self._left < 0:
                raise BadAnswer("more bytes than Content-Length")
            self._end()
        return data

    def _read_chunks(self, data: bytes) -> bytes:
        """Walk the chunks in these bytes. A chunk's own bytes are sliced once; only its size line is ever kept over."""
        payload: list[bytes] = []
        if self._buffer:
            data, self._buffer = self._buffer + data, b""
        position, size = 0, len(data)
        while position < size:
            if self._at == _AT_CHUNK_LINE:
                position = self._take_whole_chunks(data, position, payload)
            elif self._at == _AT_CHUNK:
                piece = data[position : position + self._left]
                position += len(piece)
                self._left -= len(piece)
                payload.append(piece)
                if not self._left:
                    self._at = _AT_CHUNK_END
                continue
            elif self._at == _AT_END:
                raise BadAnswer("bytes after the end of the answer")
            end = data.find(b"\r\n", position)
            if end < 0:
                self._keep(data[position:])
                break
            self._read_line(data[position:end])
            position = end + 2
        return payload[0] if len(payload) == 1 else b"".join(payload)

    def _take_whole_chunks(self, data: bytes, position: int, payload: list[bytes]) -> int:
        """Take the chunks that lie whole in these bytes, as most do; gives back where the first that does not begins."""
        find = data.find
        while True:
            end = find(b"\r\n", position)
            if end < 0:
                return position
            size = _chunk_size(data[position:end])
            after = end + 2 + size
            if not size or data[after : after + 2] != b"\r\n":
                return position
            payload.append(data[end + 2 : after])
            position = after + 2

    def _read_line(self, line: bytes) -> None:
        if self._at == _AT_CHUNK_LINE:
            self._left = _chunk_size(line)
            self._at = _AT_CHUNK if self._left else _AT_TRAILER
            if not self._left:
                self._left = TRAILER_BYTES_MAX
        elif self._at == _AT_CHUNK_END:
            if line:
                raise BadAnswer("chunk longer than its size")
            self._at = _AT_CHUNK_LINE
        elif line:  # a trailer: bounded, and dropped as hop-by-hop
            self._left -= len(line) + 2
            if self._left < 0:
                raise BadAnswer(f"trailers longer than {TRAILER_BYTES_MAX} bytes")
            if not _TRAILER.fullmatch(line):
                raise BadAnswer("malformed trailer")
        else:
            self._end()

    def _keep(self, rest: bytes) -> None:
        longest = TRAILER_BYTES_MAX if self._at == _AT_TRAILER else LINE_BYTES_MAX
        if len(rest) > longest + 1:  # the CR of its end may be there
            raise BadAnswer("line too long in chunked framing")
        if self._at == _AT_CHUNK_END and rest != b"\r":
            raise BadAnswer("chunk longer than its size")
        self._buffer = rest

    def _end(self) -> None:
        self._at = _AT_END
        self.complete = True


@lru_cache(maxsize=4_096)  # streams have chunks of few sizes
def _chunk_size(line: bytes) -> int:
    """Of the line before a chunk. Raises BadAnswer."""
    match = _CHUNK_SIZE.fullmatch(line) if len(line) <= LINE_BYTES_MAX else None
    if match is None:
        raise BadAnswer("malformed chunk size")
    return int(match[1], 16)


def _read_framing(status: int, lines: bytes, *, http_10: bool) -> AnswerHead:
    length: bytes | None = None
    coding: bytes | None = None
    connection = content_type = content_encoding = request_id = b""
    for name, value in _FRAMING.findall(lines):
        name, value = name.lower(), value.rstrip(b" \t")
        if name == b"content-length":
            if length is not None or not _DIGITS.fullmatch(value):
                raise BadAnswer("malformed or repeated Content-Length")
            length = value
        elif name == b"transfer-encoding":
            coding = value if coding is None else coding + b"," + value
        elif name == b"connection":
            connection += b"," + value.lower()
        elif name == b"content-type":
            content_type = value
        elif name == b"content-encoding":
            content_encoding = value
        else:
            request_id = value
    if coding is not None and (coding.lower() != b"chunked" or length is not None):
        raise BadAnswer("Transfer-Encoding other than chunked, or beside Content-Length")
    tokens = {token.strip() for token in connection.split(b",")}
    return AnswerHead(
        status=status,
        lines=lines,
        content_type=content_type,
        content_encoding=content_encoding,
        request_id=request_id,
        content_length=None if length is None else int(length),
        chunked=coding is not None,
        keep_alive=b"close" not in tokens and (not http_10 or b"keep-alive" in tokens),
        hop_by_hop=frozenset(tokens - _CONNECTION_OPTIONS) if connection else _NONE,
    )
