"""The strict reader of OpenAI's answers, held against llhttp (httptools) as its oracle: never laxer, and the same however cut."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.relay.answer import HEAD_BYTES_MAX, LINE_BYTES_MAX, TRAILER_BYTES_MAX, AnswerReader, BadAnswer

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"


@dataclass
class Read:
    """What a reader made of some bytes."""

    payload: bytes = b""
    status: int | None = None
    complete: bool = False
    broke: bool = False
    keep_alive: bool = False


def ours(pieces: list[bytes], *, eof: bool = False, answers_head_request: bool = False) -> Read:
    reader = AnswerReader(answers_head_request=answers_head_request)
    read = Read()
    try:
        for piece in pieces:
            read.payload += reader.feed(piece)
        if eof:
            reader.eof()
    except BadAnswer:
        read.broke = True
    read.complete = reader.complete
    if reader.head is not None:
        read.status, read.keep_alive = reader.head.status, reader.head.keep_alive
    return read


@dataclass
class _Messages:
    """Collects what llhttp tells, one `Read` a message. A message to the end of the connection ends at `eof`."""

    read: list[Read] = field(default_factory=list)
    framed: bool = False

    def on_message_begin(self) -> None:
        self.read.append(Read())
        self.framed = False

    def on_header(self, name: bytes, _value: bytes) -> None:
        self.framed = self.framed or name.lower() in (b"content-length", b"transfer-encoding")

    def on_body(self, data: bytes) -> None:
        self.read[-1].payload += data

    def on_message_complete(self) -> None:
        self.read[-1].complete = True


def oracle(data: bytes, *, eof: bool = False) -> Read:
    """What llhttp reads of the first answer that is not interim; a second answer, or bytes for one, is `broke`."""
    messages = _Messages()
    heads: list[int] = []
    parser: httptools.HttpResponseParser

    class Protocol(_Messages):
        def on_headers_complete(self) -> None:
            heads.append(parser.get_status_code())
            self.read[-1].status = heads[-1]
            self.read[-1].keep_alive = parser.should_keep_alive()

    messages = Protocol()
    parser = httptools.HttpResponseParser(messages)
    broke = False
    try:
        parser.feed_data(data)
    except httptools.HttpParserError:
        broke = True
    final = [read for read in messages.read if read.status is None or read.status >= 200 or read.status == 101]
    if not final:
        return Read(broke=broke or eof)
    read = final[0]
    read.broke = broke or len(final) > 1
    if eof and not read.complete and not read.broke:
        if read.status is not None and not messages.framed:
            read.complete = True
        else:
            read.broke = True
    return read


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


# Valid answers, of every framing

TOKEN_CHARS = "!#$%&'*+-.^_`|~0123456789abcXYZ"
token = st.text(TOKEN_CHARS, min_size=1, max_size=8).map(str.encode)
text = st.binary(max_size=20).map(lambda raw: bytes(byte for byte in raw if byte == 9 or (byte >= 32 and byte != 127)))
other_header = st.tuples(token.map(lambda name: b"x-" + name), text).map(lambda pair: b"%b: %b\r\n" % pair)
interim = st.sampled_from([b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\n\r\n"])
quoted = text.map(lambda raw: b'"' + raw.replace(b"\\", b"").replace(b'"', b'\\"') + b'"')
with_value = st.tuples(token, st.one_of(token, quoted)).map(lambda pair: b";%b=%b" % pair)
extension = st.one_of(st.just(b""), token.map(lambda name: b";" + name), with_value)


@st.composite
def chunks(draw: st.DrawFn) -> tuple[bytes, bytes]:
    payload, framed = b"", b""
    for piece in draw(st.lists(st.binary(min_size=1, max_size=40), max_size=5)):
        payload += piece
        framed += draw(st.sampled_from([b"%x", b"%X", b"00%x"])) % len(piece) + draw(extension) + b"\r\n" + piece + b"\r\n"
    trailers = b"".join(draw(st.lists(other_header, max_size=3)))
    return payload, framed + b"0" + draw(extension) + b"\r\n" + trailers + b"\r\n"


@dataclass(frozen=True)
class Answer:
    sent: bytes
    payload: bytes
    status: int
    to_close: bool
    name: str


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    framing = draw(st.sampled_from(["length", "chunked", "to the close", "bodiless"]))
    version = draw(st.sampled_from([b"1.1", b"1.0"]))
    status = draw(st.sampled_from([204, 304] if framing == "bodiless" else [200, 201, 400, 429, 500, 599]))
    payload, body, line = draw(st.binary(max_size=80)), b"", b""
    if framing == "length":
        body, line = payload, draw(st.sampled_from([b"Content-Length", b"content-length"])) + b":%d\r\n" % len(payload)
    elif framing == "chunked":
        payload, body = draw(chunks())
        line = b"Transfer-Encoding: " + draw(st.sampled_from([b"chunked", b"Chunked"])) + b"\r\n"
    elif framing == "to the close":
        body = payload
    else:
        payload = b""
    lines = draw(st.lists(other_header, max_size=3))
    lines.insert(draw(st.integers(0, len(lines))), line)
    reason = draw(st.sampled_from([b" OK", b" ", b"", b" Not at all"]))
    head = b"HTTP/%b %d%b\r\n%b\r\n" % (version, status, reason, b"".join(lines))
    before = b"".join(draw(st.lists(interim, max_size=2)))
    return Answer(before + head + body, payload, status, framing == "to the close", framing)


@settings(max_examples=250, deadline=None)
@given(answers(), st.lists(st.integers(0, 500), max_size=8))
def test_a_valid_answer_is_read_as_the_oracle_reads_it_however_it_is_cut(answer: Answer, places: list[int]) -> None:
    expected = oracle(answer.sent, eof=True)
    assert (expected.payload, expected.status, expected.complete, expected.broke) == (answer.payload, answer.status, True, False)
    read = ours(cut(answer.sent, places), eof=True)
    assert (read.payload, read.status, read.complete, read.broke) == (answer.payload, answer.status, True, False)
    assert ours(cut(answer.sent, places)).complete is not answer.to_close


@settings(max_examples=60, deadline=None)
@given(answers())
def test_a_valid_answer_is_read_byte_by_byte(answer: Answer) -> None:
    read = ours([bytes([byte]) for byte in answer.sent], eof=True)
    assert (read.payload, read.status, read.complete, read.broke) == (answer.payload, answer.status, True, False)


@settings(max_examples=120, deadline=None)
@given(answers(), st.integers(0, 10_000))
def test_an_answer_that_stops_early_is_never_complete(answer: Answer, place: int) -> None:
    begun = answer.sent[: place % len(answer.sent)]
    read = ours([begun], eof=True)
    if answer.to_close and read.status is not None:
        assert read.complete  # nothing tells a cut from an end there
    else:
        assert not read.complete
        assert read.broke


SPOILERS = [b"\r", b"\n", b"\x00", b":", b" ", b";", b"0", b"7", b"", b"\t", b"\r\n", b'"', b"\x01", b"\xff"]
spoiled = st.lists(st.tuples(st.integers(0, 500), st.sampled_from(SPOILERS)), min_size=1, max_size=3)


@settings(max_examples=400, deadline=None)
@given(answers(), spoiled, st.lists(st.integers(0, 500), max_size=4))
def test_what_a_changed_answer_is_taken_for_the_oracle_takes_it_for(
    answer: Answer, changes: list[tuple[int, bytes]], places: list[int]
) -> None:
    sent = bytearray(answer.sent)
    for place, put in changes:
        place %= len(sent)
        sent[place : place + 1] = put
        if not sent:
            return
    _never_laxer(bytes(sent), places)


@settings(max_examples=150, deadline=None)
@given(st.tuples(st.sampled_from([b"", OK, CHUNKED]), st.binary(max_size=60)).map(b"".join), st.lists(st.integers(0, 100), max_size=3))
def test_arbitrary_bytes_raise_nothing_but_bad_answer(sent: bytes, places: list[int]) -> None:
    _never_laxer(sent, places)


def _never_laxer(sent: bytes, places: list[int]) -> None:
    for eof in (False, True):
        read, expected = ours(cut(sent, places), eof=eof), oracle(sent, eof=eof)
        if read.complete and not read.broke:
            assert expected.complete
            assert not expected.broke
            assert (read.payload, read.status) == (expected.payload, expected.status)
            if not eof and read.keep_alive:
                assert expected.keep_alive, "a connection is kept that llhttp would close"
        elif not read.broke and read.status is not None and not expected.broke:
            assert (read.payload, read.status) == (expected.payload, expected.status)


STRICTER = [
    (b"\r\n" + OK + b"content-length: 0\r\n\r\n", "an empty line before the status line"),
    (b"HTTP/1.1 200 a\x01b\r\ncontent-length: 0\r\n\r\n", "a control character in the reason phrase"),
    (OK + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", "Transfer-Encoding twice"),
    (OK + b"transfer-encoding: chunked\r\n\r\n000000000\r\n\r\n", "a chunk size of nine digits"),
    (OK + b"content-length: 0000000000000000\r\n\r\n", "a Content-Length of sixteen digits"),
]


@pytest.mark.parametrize("sent", [case[0] for case in STRICTER], ids=[case[1] for case in STRICTER])
def test_known_differences_are_on_the_strict_side(sent: bytes) -> None:
    assert ours([sent], eof=True).broke
    assert not oracle(sent, eof=True).broke


REFUSED = [
    (OK + b"content-length: 3\r\ncontent-length: 3\r\n\r\nabc", "Content-Length twice, the same"),
    (OK + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabcd", "Content-Length twice, different"),
    (OK + b"content-length: 3, 3\r\n\r\nabc", "Content-Length as a list"),
    (OK + b"content-length: +3\r\n\r\nabc", "Content-Length with a sign"),
    (OK + b"content-length:\r\n\r\nabc", "Content-Length without digits"),
    (OK + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "both framings"),
    (OK + b"transfer-encoding:\r\ncontent-length: 3\r\n\r\nabc", "an empty Transfer-Encoding"),
    (OK + b"transfer-encoding: gzip\r\n\r\nx", "a coding without chunks"),
    (OK + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "a second coding"),
    (OK + b"content-length : 3\r\n\r\nabc", "a space before the colon"),
    (OK + b"x: a\r\n b\r\ncontent-length: 3\r\n\r\nabc", "a folded line"),
    (OK + b"x: a\ncontent-length: 3\r\n\r\nabc", "a bare LF in the head"),
    (OK + b"x: \x00\r\ncontent-length: 3\r\n\r\nabc", "NUL in a value"),
    (OK + b"x: \x0b\r\ncontent-length: 3\r\n\r\nabc", "a control character in a value"),
    (OK + b"content-length: 3\r\n\r\nabcd", "a byte too many"),
    (OK + b"content-length: 0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "a second answer"),
    (CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n", "a chunk longer than its size"),
    (CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n", "a space behind the chunk size"),
    (CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n", "a negative chunk size"),
    (CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n", "a chunk size with 0x"),
    (CHUNKED + b"\r\nabc\r\n0\r\n\r\n", "a chunk size without digits"),
    (CHUNKED + b"3;\x00\r\nabc\r\n0\r\n\r\n", "NUL in a chunk extension"),
    (CHUNKED + b"3\nabc\r\n0\r\n\r\n", "a chunk size ended by LF"),
    (CHUNKED + b"0\r\nno colon\r\n\r\n", "a trailer that is no header"),
    (CHUNKED + b"0\r\n\r\nx", "bytes behind the last chunk"),
    (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "a switch of protocols nobody asked for"),
    (b"HTTP/2 200 OK\r\n\r\n", "another version"),
    (b"HTTP/1.1 20 OK\r\n\r\n", "a status of two digits"),
    (b"HTTP/1.1 100 C\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n" + OK + b"content-length: 0\r\n\r\n", "a bad interim answer"),
    (b"HTTP/1.0 100 Continue\r\n\r\n" + OK + b"content-length: 0\r\n\r\n", "an interim answer of HTTP/1.0"),
    (b"HTTP/1.1 100 C\r\nconnection: close\r\n\r\n" + OK + b"content-length: 0\r\n\r\n", "an interim answer that ends the connection"),
]  # fmt: skip


@pytest.mark.parametrize("sent", [case[0] for case in REFUSED], ids=[case[1] for case in REFUSED])
def test_what_is_not_valid_is_refused_whole_and_byte_by_byte(sent: bytes) -> None:
    assert ours([sent]).broke
    assert ours([bytes([byte]) for byte in sent]).broke


def test_an_answer_to_head_ends_at_its_head() -> None:
    read = ours([OK + b"content-length: 300\r\n\r\n"], answers_head_request=True)
    assert read.complete
    assert read.payload == b""
    assert ours([OK + b"content-length: 3\r\n\r\nabc"], answers_head_request=True).broke


KEPT = [
    (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", True, "1.1"),
    (b"HTTP/1.1 200 OK\r\nconnection: Close\r\ncontent-length: 0\r\n\r\n", False, "1.1 with close"),
    (b"HTTP/1.1 200 OK\r\nconnection: x, close\r\ncontent-length: 0\r\n\r\n", False, "1.1 with close in a list"),
    (b"HTTP/1.1 200 OK\r\nconnection: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", False, "1.1 with close on a second line"),
    (b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", False, "1.0"),
    (b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 0\r\n\r\n", True, "1.0 with keep-alive"),
    (b"HTTP/1.0 200 OK\r\nconnection: keep-alive, close\r\ncontent-length: 0\r\n\r\n", False, "1.0 with both"),
]


@pytest.mark.parametrize(("sent", "kept"), [case[:2] for case in KEPT], ids=[case[2] for case in KEPT])
def test_the_connection_is_kept_only_when_both_sides_would(sent: bytes, kept: bool) -> None:
    assert ours([sent]).keep_alive is kept


def test_the_head_tells_what_the_path_needs() -> None:
    reader = AnswerReader()
    lines = b"Content-Type: text/event-stream; charset=utf-8 \r\nContent-Encoding:gzip\r\nX-Request-ID: req_1\r\nContent-Length: 2\r\n"
    sent = OK + lines + b"\r\nhi"
    assert reader.feed(sent) == b"hi"
    head = reader.head
    assert head is not None
    assert (head.content_type, head.content_encoding, head.request_id) == (b"text/event-stream; charset=utf-8", b"gzip", b"req_1")
    assert (head.content_length, head.chunked) == (2, False)
    assert head.lines == sent[len(OK) - 2 : -6]


# Bounds, at each side, however the bytes are cut


def whole(data: bytes) -> list[bytes]:
    return [data]


def in_sevens(data: bytes) -> list[bytes]:
    return [data[at : at + 7] for at in range(0, len(data), 7)]


def last_byte_alone(data: bytes) -> list[bytes]:
    return [data[:-1], data[-1:]]


CUTS = [whole, in_sevens, last_byte_alone]


@pytest.mark.parametrize("cut_up", CUTS)
@pytest.mark.parametrize(("over", "broke"), [(-1, False), (0, False), (1, True)], ids=["one under", "exactly", "one over"])
def test_the_head_is_bounded(over: int, broke: bool, cut_up: Callable[[bytes], list[bytes]]) -> None:
    line = b"HTTP/1.1 204 No\r\nx: "
    sent = line + b"a" * (HEAD_BYTES_MAX + over - len(line)) + b"\r\n\r\n"
    read = ours(cut_up(sent))
    assert (read.broke, read.complete) == (broke, not broke)


@pytest.mark.parametrize("cut_up", CUTS)
@pytest.mark.parametrize(("over", "broke"), [(-1, False), (0, False), (1, True)], ids=["one under", "exactly", "one over"])
def test_the_chunk_line_is_bounded(over: int, broke: bool, cut_up: Callable[[bytes], list[bytes]]) -> None:
    line = b"1;" + b"e" * (LINE_BYTES_MAX + over - 2) + b"\r\n"
    sent = CHUNKED + line + b"a\r\n0\r\n\r\n"
    for pieces in (cut_up(sent), [*cut_up(CHUNKED + line), b"a\r\n0\r\n\r\n"]):
        read = ours(pieces)
        assert (read.broke, read.complete) == (broke, not broke)


@pytest.mark.parametrize("cut_up", CUTS)
@pytest.mark.parametrize(("over", "broke"), [(-1, False), (0, False), (1, True)], ids=["one under", "exactly", "one over"])
def test_the_trailers_are_bounded_together(over: int, broke: bool, cut_up: Callable[[bytes], list[bytes]]) -> None:
    first = b"x: " + b"a" * 8_000 + b"\r\n"
    second = b"y: " + b"b" * (TRAILER_BYTES_MAX + over - len(first) - 5) + b"\r\n"
    read = ours(cut_up(CHUNKED + b"0\r\n" + first + second + b"\r\n"))
    assert (read.broke, read.complete) == (broke, not broke)


@pytest.mark.parametrize("begun", [OK + b"x: ", CHUNKED + b"1;", CHUNKED + b"0\r\nx: "], ids=["head", "chunk line", "trailer"])
def test_a_line_that_never_ends_is_given_up(begun: bytes) -> None:
    reader = AnswerReader()
    reader.feed(begun)

    def feed_on() -> None:
        for _ in range(HEAD_BYTES_MAX // 100 + 2):
            reader.feed(b"a" * 100)

    with pytest.raises(BadAnswer):
        feed_on()


@pytest.mark.parametrize("framing", ["content-length: 999999999999999", "connection: close", "transfer-encoding: chunked"])
def test_a_huge_answer_leaves_nothing_behind(framing: str) -> None:
    reader = AnswerReader()
    reader.feed(OK + framing.encode() + b"\r\n\r\n")
    piece = b"a" * 65_536
    data = b"%x\r\n%b\r\n" % (len(piece), piece) if "chunked" in framing else piece
    reader.feed(data)
    tracemalloc.start()
    try:
        for _ in range(200):
            assert len(reader.feed(data)) == len(piece)
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept_bytes < 2 * len(data)
