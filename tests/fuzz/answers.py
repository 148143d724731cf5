"""OpenAI's heads and framing. Oracle: llhttp (httptools), which must read the same, and never refuse what we take."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field

import httptools

from gateway.relay.answer import AnswerReader, BadAnswer
from gateway.relay.head import answer_lines, status_line

from .target import Seeds, control, cut


@dataclass
class Read:
    """What a reader made of an answer."""

    payload: bytes = b""
    status: int | None = None
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    keep_alive: bool = False
    complete: bool = False
    broke: bool = False


def check_answer(data: bytes) -> None:
    """The same however cut, and never laxer than llhttp; what is passed on of its head is a head again, without what must stay here."""
    flags, how, wire = control(data)
    to_head, eof = bool(flags & 1), bool(flags & 2)
    ours = _ours([wire] if wire else [], to_head=to_head, eof=eof)
    pieces = _ours(list(cut(wire, how)), to_head=to_head, eof=eof)
    if ours.broke:  # which of its bytes still went out depends on the cut; that it is broken does not
        assert pieces.broke, "what is refused in one piece is taken in several"
        return
    assert pieces == ours, "the answer depends on how its bytes are cut"
    if ours.status is None:
        return
    theirs = _llhttp(wire, to_head=to_head, eof=eof)
    if theirs.broke and not ours.complete:  # we wait for the end of a line in which llhttp has seen its fault
        assert theirs.payload.startswith(ours.payload), "llhttp refuses what we have passed on"
        return
    assert not theirs.broke, "llhttp refuses what we take"
    assert ours == theirs, "llhttp reads another answer"


def _ours(pieces: list[bytes], *, to_head: bool, eof: bool) -> Read:
    reader, read = AnswerReader(answers_head_request=to_head), Read()
    try:
        for piece in pieces:
            assert not reader.complete or reader.head is not None
            read.payload += reader.feed(piece)
        if eof:
            reader.eof()
    except BadAnswer:
        read.broke = True
    head = reader.head
    read.complete = reader.complete
    if head is not None:
        read.status, read.keep_alive = head.status, head.keep_alive
        read.headers = _header_list(head.lines)
        passed = _header_list(answer_lines(head))
        assert [header for header in read.headers if header in passed] == passed, "the head that is passed on has lines that did not come"
        for name, _ in passed:
            assert name not in _NOT_PASSED, f"{name!r} is passed on"
            assert not name.startswith(b"x-ratelimit-"), "the limits of the account are passed on"
            assert name not in head.hop_by_hop, "what Connection names is passed on"
        again = AnswerReader()
        again.feed(status_line(head.status) + answer_lines(head) + b"\r\ncontent-length: 0\r\n\r\n")
        assert again.head is not None
    return read


_NOT_PASSED = {b"connection", b"keep-alive", b"transfer-encoding", b"content-length", b"upgrade", b"te", b"trailer", b"openai-organization"}


def _header_list(lines: bytes) -> list[tuple[bytes, bytes]]:
    pairs = (line.partition(b":") for line in lines.split(b"\r\n")[1:])
    return [(name.lower(), value.strip(b" \t")) for name, _, value in pairs]


class _Messages:
    """Collects what llhttp tells: one `Read` a message."""

    def __init__(self, *, to_head: bool) -> None:
        self.read: list[Read] = []
        self.parser = httptools.HttpResponseParser(self)
        self._to_head = to_head
        self._in_head = False
        self.framed = False

    def on_message_begin(self) -> None:
        self.read.append(Read())
        self._in_head, self.framed = True, False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            self.read[-1].headers.append((name.lower(), value.strip(b" \t")))
            self.framed = self.framed or name.lower() in (b"content-length", b"transfer-encoding")

    def on_headers_complete(self) -> None:
        self._in_head = False
        self.read[-1].status = self.parser.get_status_code()
        self.read[-1].keep_alive = self.parser.should_keep_alive()

    def on_body(self, data: bytes) -> None:
        self.read[-1].payload += data

    def on_message_complete(self) -> None:
        self.read[-1].complete = True


def _llhttp(wire: bytes, *, to_head: bool, eof: bool) -> Read:
    """What llhttp reads of the first answer that is not interim. It does not know of HEAD: such an answer ends with its head."""
    messages = _Messages(to_head=to_head)
    broke = False
    try:
        messages.parser.feed_data(wire)
    except httptools.HttpParserError:
        broke = True
    final = [read for read in messages.read if read.status is None or read.status >= 200]
    if not final:
        return Read(broke=broke or eof)
    read = final[0]
    if to_head and read.status is not None:
        read.complete, read.payload, broke = True, b"", False
    read.broke = broke or len(final) > 1
    if eof and not read.complete:
        read.complete = read.status is not None and not messages.framed
        read.broke = read.broke or not read.complete
    if read.status in (204, 304):
        read.complete = True
    read.keep_alive = _keeps_alive(read, wire)
    return read


def _keeps_alive(read: Read, wire: bytes) -> bool:
    """llhttp's own word also looks at how the message ends; ours only at version and Connection, since the end is known besides."""
    last_head = next(line for line in wire.split(b"\r\n") if re.match(rb"HTTP/1\.[01] [2-9]", line))
    options = [option.strip(b" \t").lower() for name, value in read.headers if name == b"connection" for option in value.split(b",")]
    return b"close" not in options and (not last_head.startswith(b"HTTP/1.0") or b"keep-alive" in options)


def grow_answer(wire: bytes) -> None:
    """In reads of a network's size, and in small ones."""
    for size in (1_400, 16):
        reader = AnswerReader()
        with contextlib.suppress(BadAnswer):
            for at in range(0, len(wire), size):
                reader.feed(wire[at : at + size])
            reader.eof()
        if reader.head is not None:
            answer_lines(reader.head)


def answer_seeds() -> Seeds:
    """Every framing, and what is wrong with some."""
    ok = b"HTTP/1.1 200 OK\r\n"
    chunked = ok + b"Transfer-Encoding: chunked\r\n\r\n"
    wires = {
        "length": ok
        + b"Content-Type: application/json\r\nContent-Length: 5\r\nx-request-id: req_1\r\nx-ratelimit-limit-tokens: 9\r\n\r\nhello",
        "chunked": chunked + b'5;a="\\"b"\r\nhello\r\nA\r\n0123456789\r\n0\r\nX-T: 1\r\n\r\n',
        "to the close": ok + b"Connection: close\r\n\r\nhello",
        "interim": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + ok + b"content-length: 0\r\n\r\n",
        "204": b"HTTP/1.1 204 No Content\r\n\r\n",
        "304": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
        "1.0": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na",
        "no reason": b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
        "length and coding": ok + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "two lengths": ok + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        "folded": ok + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n",
        "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        "bare CR": ok + b"X: a\rb\r\nContent-Length: 0\r\n\r\n",
        "space before colon": ok + b"Content-Length : 5\r\n\r\nhello",
        "hop by hop": ok + b"Connection: X-Secret, close\r\nX-Secret: 1\r\nKeep-Alive: 5\r\nContent-Length: 0\r\n\r\n",
        "hop by hop, odd": ok + b"Connection: content-type, x.y\r\nX.Y: 1\r\nxzy: 2\r\nContent-Length: 0\r\n\r\n",
        "more than asked": ok + b"Content-Length: 2\r\n\r\nabHTTP/1.1 200 OK\r\n\r\n",
        "switching": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        "huge chunk": chunked + b"fffffffff\r\n",
        "chunk in LF": chunked + b"5\nhello\n0\n\n",
        "not HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    }
    modes = (("whole", 2, 0), ("by byte", 0, 1), ("to HEAD", 1, 5), ("in two", 2, 170))
    return {f"{name}, {mode}": bytes([flags, how]) + wire for name, wire in wires.items() for mode, flags, how in modes}
