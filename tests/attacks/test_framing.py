"""Where a request ends: whatever two servers could read differently is refused, so that nothing is smuggled past the meter.

Behind each bad framing comes what would be smuggled, a whole request of its own: it must not be served either.
"""

from __future__ import annotations

import os
import re
import time
from typing import Any

import h11
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

GOOD = b"Host: gateway\r\nAuthorization: Bearer KEY\r\n"
POST = b"POST /v1/files HTTP/1.1\r\n" + GOOD
SMUGGLED = b"GET /v1/files/smuggled HTTP/1.1\r\n" + GOOD + b"\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


def te(value: bytes) -> bytes:
    return POST + b"Transfer-Encoding: " + value + b"\r\n\r\n0\r\n\r\n"


def cl(value: bytes) -> bytes:
    return POST + b"Content-Length: " + value + b"\r\n\r\nhello"


REFUSED = {
    "Content-Length and Transfer-Encoding": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding and Content-Length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "chunked, and a length of zero": POST + b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked, and a length that is no number": POST + b"Transfer-Encoding: chunked\r\nContent-Length: x\r\n\r\n0\r\n\r\n",
    "chunked in two headers": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked in one header and identity in another": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "identity in one header and chunked in another": POST + b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked in HTTP/1.0": POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked twice in one header": te(b"chunked, chunked"),
    "chunked, identity": te(b"chunked, identity"),
    "identity, chunked": te(b"identity, chunked"),
    "identity": te(b"identity"),
    "gzip, chunked": te(b"gzip, chunked"),
    "gzip": te(b"gzip"),
    "nothing": te(b""),
    "a comma and chunked": te(b",chunked"),
    "chunked and a comma": te(b"chunked,"),
    "chunked with a parameter": te(b"chunked;q=1"),
    "chunked in quotes": te(b'"chunked"'),
    "xchunked": te(b"xchunked"),
    "chunkedx": te(b"chunkedx"),
    "chu nked": te(b"chu nked"),
    "a vertical tab before chunked": te(b"\x0bchunked"),
    "a form feed behind chunked": te(b"chunked\x0c"),
    "a no-break space before chunked": te(b"\xa0chunked"),
    "a letter that looks like k": te("chun\u212aed".encode()),
    "NUL behind chunked": te(b"chunked\x00"),
    "two lengths, equal": POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "two lengths, different": POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "two lengths, spelt differently": POST + b"Content-Length: 5\r\ncontent-length: 05\r\n\r\nhello",
    "a list of lengths, equal": cl(b"5, 5"),
    "a list of lengths, different": cl(b"5, 6"),
    "a length and a comma": cl(b"5,"),
    "a length with plus": cl(b"+5"),
    "a length below zero": cl(b"-5"),
    "a length of minus zero": cl(b"-0"),
    "a length with 0x": cl(b"0x5"),
    "a length with a point": cl(b"5.0"),
    "a length with an exponent": cl(b"5e0"),
    "a length with an underscore": cl(b"0_5"),
    "a length with a space inside": cl(b"0 5"),
    "a length of letters": cl(b"five"),
    "a length in quotes": cl(b'"5"'),
    "a length of nothing": cl(b""),
    "a length in digits of another script": cl("\u0665".encode()),
    "a length beyond 64 bits": cl(b"18446744073709551621"),
    "a length with a vertical tab": cl(b"5\x0b"),
    "a chunk size without digits": CHUNKED + b"\r\nhello\r\n0\r\n\r\n",
    "a chunk size of letters": CHUNKED + b"xyz\r\nhello\r\n0\r\n\r\n",
    "a chunk size below zero": CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n",
    "a chunk size with plus": CHUNKED + b"+5\r\nhello\r\n0\r\n\r\n",
    "a chunk size with 0x": CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n",
    "a chunk size with an underscore": CHUNKED + b"0_5\r\nhello\r\n0\r\n\r\n",
    "a chunk size with a space before": CHUNKED + b" 5\r\nhello\r\n0\r\n\r\n",
    "a chunk size with a space behind": CHUNKED + b"5 \r\nhello\r\n0\r\n\r\n",
    "a chunk size with a tab behind": CHUNKED + b"5\t\r\nhello\r\n0\r\n\r\n",
    "a chunk size beyond 64 bits": CHUNKED + b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "a chunk size ended by LF": CHUNKED + b"5\nhello\r\n0\r\n\r\n",
    "a chunk size ended by CR": CHUNKED + b"5\rhello\r\n0\r\n\r\n",
    "a chunk longer than its size": CHUNKED + b"5\r\nhello!\r\n0\r\n\r\n",
    "a chunk without its line end": CHUNKED + b"5\r\nhello0\r\n\r\n",
    "a chunk ended by LF": CHUNKED + b"5\r\nhello\n0\r\n\r\n",
    "a chunk ended by CR": CHUNKED + b"5\r\nhello\r0\r\n\r\n",
    "a chunk shorter than its size": CHUNKED + b"a\r\nhello\r\n0\r\n\r\n",
    "the last chunk ended by LF": CHUNKED + b"0\n\r\n",
    "the end ended by LF": CHUNKED + b"0\r\n\n",
    "NUL in an extension": CHUNKED + b"5;a=\x00\r\nhello\r\n0\r\n\r\n",
    "LF in an extension": CHUNKED + b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "CR in an extension": CHUNKED + b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "a quote that never ends in an extension": CHUNKED + b'5;a="b\r\nhello\r\n0\r\n\r\n',
    "a trailer without a colon": CHUNKED + b"0\r\nX y\r\n\r\n",
    "a trailer with a space before its colon": CHUNKED + b"0\r\nX : y\r\n\r\n",
    "a folded trailer": CHUNKED + b"0\r\nX: a\r\n b\r\n\r\n",
    "a trailer ended by LF": CHUNKED + b"0\r\nX: a\n\r\n",
    "Content-Length as a trailer": CHUNKED + b"0\r\nContent-Length: 5\r\n\r\n",
    "Transfer-Encoding as a trailer": CHUNKED + b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "an upgrade with a counted body": POST + b"Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\nhello",
    "an upgrade with a chunked body": POST + b"Connection: upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED.keys())
def test_framing_that_is_not_plain_is_refused_and_nothing_behind_it_is_served(raw: bytes, attack: Any, assert_openai_error: Any) -> None:
    with attack.client() as client:
        client.send(attack.with_key(raw + SMUGGLED))
        got = client.answer()
        assert_openai_error(got.status, got.headers, got.body, 400)
        assert got.headers["connection"] == "close"
        assert client.closed()
    assert attack.seen() == []


INNER = b"GET /v1/files/inner HTTP/1.1\r\nHost: gateway\r\n\r\n"
SERVED = {
    "a count with zeros before it": (cl(b"00005"), b"hello"),
    "a count with space before it": (cl(b" \t 5"), b"hello"),
    "a body of zero": (POST + b"Content-Length: 0\r\n\r\n", b""),
    "a body that looks like a request": (POST + b"Content-Length: %d\r\n\r\n" % len(INNER) + INNER, INNER),
    "a chunk that looks like a request": (CHUNKED + b"%x\r\n" % len(INNER) + INNER + b"\r\n0\r\n\r\n", INNER),
    "a body of GET": (cl(b"5").replace(b"POST", b"GET"), b"hello"),
    "a body of DELETE": (cl(b"5").replace(b"POST", b"DELETE"), b"hello"),
    "CHUNKED": (te(b"CHUNKED"), b""),
    "chunked with space before it": (te(b"\t  chunked"), b""),
    "chunks": (CHUNKED + b"3\r\nabc\r\n00a\r\n0123456789\r\n0\r\n\r\n", b"abc0123456789"),
    "chunks of one byte": (CHUNKED + b"1\r\na\r\n" * 1_000 + b"0\r\n\r\n", b"a" * 1_000),
    "a chunk size in capitals": (CHUNKED + b"B\r\nhello world\r\n0\r\n\r\n", b"hello world"),
    "a chunk size with many zeros": (CHUNKED + b"0000000000005\r\nhello\r\n0000\r\n\r\n", b"hello"),
    "extensions, which are dropped": (CHUNKED + b'5;a;b=c;d="e;f"\r\nhello\r\n0;g\r\n\r\n', b"hello"),
    "trailers, which are dropped": (CHUNKED + b"5\r\nhello\r\n0\r\nX-T: y\r\nAuthorization: Bearer evil\r\nHost: evil\r\n\r\n", b"hello"),
}


@pytest.mark.parametrize(("raw", "body"), SERVED.values(), ids=SERVED.keys())
def test_framing_that_is_plain_reaches_openai_as_one_counted_body(raw: bytes, body: bytes, attack: Any, words: Any) -> None:
    with attack.client() as client:
        client.send(attack.with_key(raw + SMUGGLED))  # here it is the next request
        assert client.answer().body == client.answer().body == words.answer
    first, second = attack.seen()
    assert (first.body, first.header("transfer-encoding"), first.header("x-t")) == (body, None, None)
    assert (first.target, second.target) == ("/v1/files", "/v1/files/smuggled")


def test_chunk_extensions_and_trailers_without_end_are_given_up(attack: Any, assert_openai_error: Any) -> None:
    for endless in (b"1;" + b"x" * 2_000_000, b"0\r\n" + b"X-T: y\r\n" * 200_000):
        with attack.client() as client:
            got = client.send(attack.with_key(CHUNKED) + endless).answer()
            assert_openai_error(got.status, got.headers, got.body, 400)
            assert client.closed()
    assert attack.seen() == []


# h11 as the oracle: what both take for requests must be the same requests

PIECES = (
    b"\r\n", b"\n", b"\r", b"\x00", b" ", b"\t", b":", b",", b";", b"\xff", b"0", b"5", b"chunked", b"identity", b"0\r\n\r\n",
    b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding:chunked\r\n", b"\r\n\r\n",
    b"Connection: close\r\n", b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\nConnection: Upgrade\r\n", b" HTTP/1.0", b"Host: b\r\n",
    b"GET /v1/files/smuggled HTTP/1.1\r\n", b"X-T: a\r\n b\r\n",
)  # fmt: skip


def requests(count: int) -> list[bytes]:
    """Good requests of every framing, each with a name of its own."""
    made: list[bytes] = []
    for number in range(count):
        head = b"POST /v1/files HTTP/1.1\r\nx-n: %d\r\n" % number + GOOD
        made += [
            head + b"Content-Length: 5\r\n\r\nhello",
            head + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            head.replace(b"POST", b"GET") + b"\r\n",
            head + b"Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX-T: a\r\n\r\n",
        ][number % 4 : number % 4 + 1]
    return made


Request = tuple[str, tuple[str, ...], bytes]


def as_h11_reads(raw: bytes) -> list[Request]:
    """The requests in these bytes up to the first that is none, by h11.

    Two liberties of llhttp's, neither of which moves the end of a request: empty lines before one are skipped (RFC 9112 section
    2.2), and so are more spaces than one before its target (section 3).
    """
    found: list[Request] = []
    while True:
        reader = h11.Connection(h11.SERVER, max_incomplete_event_size=2**20)
        reader.receive_data(re.sub(rb"\A[\r\n]*([A-Z]+) +", rb"\1 ", raw))
        try:
            head, body = reader.next_event(), b""
            while isinstance(event := reader.next_event(), h11.Data):
                body += bytes(event.data)
        except h11.RemoteProtocolError:
            return found
        if not isinstance(head, h11.Request) or not isinstance(event, h11.EndOfMessage):
            return found
        names = tuple(value.decode("latin-1") for name, value in head.headers if name == b"x-n")
        found.append((head.method.decode(), names, body))
        raw = bytes(reader.trailing_data[0])


def is_part_of(few: list[Request], many: list[Request]) -> bool:
    """Whether these are among those, in their order."""
    rest = iter(many)
    return all(one in rest for one in few)


def talk(place: Any, raw: bytes) -> None:
    """Send it, read whatever comes for a moment, leave."""
    with place.client() as client:
        client.send(raw)
        client.sock.settimeout(0.05)
        try:
            while client.sock.recv(65_536):
                pass
        except OSError:
            pass


def check_reading(place: Any, raw: bytes) -> None:
    since_us, begun, before = time.time_ns() // 1000, len(place.upstream.seen), set(place.booked)
    talk(place, raw)
    entries = {entry["exchange_id"]: entry["outcome"] for entry in place.settled(since_us)}
    seen = [one for one in place.upstream.seen[begun:] if one.header("x-client-request-id") not in before]
    assert place.upstream.faults == [], "what the gateway wrote is not one request"
    reached = [str(one.header("x-client-request-id")) for one in seen]
    assert len(set(reached)) == len(reached)
    assert set(reached) <= set(entries)
    assert {entries[missed] for missed in set(entries) - set(reached)} <= {"client_gone"}
    read = [(one.method, tuple(value for name, value in one.headers if name == "x-n"), one.body) for one in seen]
    assert is_part_of(read, as_h11_reads(raw)), (read, as_h11_reads(raw))


change = st.tuples(st.sampled_from(["insert", "delete", "replace", "double"]), st.integers(0, 10_000), st.sampled_from(PIECES))


@settings(
    max_examples=int(os.environ.get("ATTACKS") or (1_000 if os.environ.get("CI") else 120)), derandomize="ATTACKS" not in os.environ,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(st.integers(1, 5), st.lists(change, min_size=1, max_size=4))
def test_whatever_reaches_openai_is_what_h11_reads_too(place: Any, count: int, changes: list[tuple[str, int, bytes]]) -> None:
    raw = b"".join(requests(count))
    for how, at, piece in changes:
        at %= len(raw) + 1
        if how == "insert":
            raw = raw[:at] + piece + raw[at:]
        elif how == "delete":
            raw = raw[:at] + raw[at + len(piece) :]
        elif how == "replace":
            raw = raw[:at] + piece + raw[at + len(piece) :]
        else:
            line = raw.rfind(b"\n", 0, at) + 1, raw.find(b"\n", at) + 1
            raw = raw[: line[1]] + raw[line[0] : line[1]] + raw[line[1] :]
    raw += b"GET /v1/files HTTP/1.1\r\n" + GOOD + b"Connection: close\r\n\r\n"
    check_reading(place, raw.replace(b"KEY", place.keys["voice"].encode()))
