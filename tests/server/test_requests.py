"""Every form of a request, as bytes: what is served, and that whatever two servers could read differently is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

HOST = b"Host: a\r\n"
GET = b"GET /x HTTP/1.1\r\n" + HOST
POST = b"POST /x HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
UPGRADE = b"Upgrade: h2c\r\nConnection: upgrade\r\n"

MALFORMED = {
    "Content-Length and Transfer-Encoding": POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding and Content-Length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "Content-Length twice, the same": POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "Content-Length twice, different": POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "Content-Length as a list": POST + b"Content-Length: 3, 3\r\n\r\nabc",
    "Content-Length with plus": POST + b"Content-Length: +3\r\n\r\nabc",
    "Content-Length with minus": POST + b"Content-Length: -3\r\n\r\nabc",
    "Content-Length in hex": POST + b"Content-Length: 0x3\r\n\r\nabc",
    "Content-Length with a space inside": POST + b"Content-Length: 3 3\r\n\r\nabc",
    "Content-Length with a letter": POST + b"Content-Length: 3a\r\n\r\nabc",
    "Content-Length with a fraction": POST + b"Content-Length: 3.0\r\n\r\nabc",
    "Content-Length with a superscript": POST + b"Content-Length: \xb23\r\n\r\nabc",
    "Content-Length empty": POST + b"Content-Length:\r\n\r\nabc",
    "Content-Length beyond 64 bits": POST + b"Content-Length: 99999999999999999999\r\n\r\nabc",
    "Content-Length with a space before the colon": POST + b"Content-Length : 3\r\n\r\nabc",
    "Transfer-Encoding gzip": POST + b"Transfer-Encoding: gzip\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "Transfer-Encoding gzip, chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "Transfer-Encoding chunked, gzip": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "Transfer-Encoding chunked, chunked": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "Transfer-Encoding on two lines": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding chunked, then identity": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding xchunked": POST + b"Transfer-Encoding: xchunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "Transfer-Encoding with a parameter": POST + b"Transfer-Encoding: chunked;q=1\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "Transfer-Encoding identity": POST + b"Transfer-Encoding: identity\r\n\r\nabc",
    "Transfer-Encoding empty": POST + b"Transfer-Encoding:\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "Transfer-Encoding with a vertical tab": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "Transfer-Encoding with a comma behind": POST + b"Transfer-Encoding: chunked,\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "Transfer-Encoding with a space before the colon": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "Transfer-Encoding on a folded line": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "a folded line": POST + b"X: a\r\n b\r\n\r\n",
    "a folded first line": b"GET /x HTTP/1.1\r\n Host: a\r\n\r\n",
    "LF for every line end": b"GET /x HTTP/1.1\nHost: a\n\n",
    "LF behind the request line": b"GET /x HTTP/1.1\nHost: a\r\n\r\n",
    "LF behind a header": GET + b"X: a\nY: b\r\n\r\n",
    "LF for the empty line": GET + b"\n",
    "CR inside a value": GET + b"X: a\rY: b\r\n\r\n",
    "NUL in a value": GET + b"X: a\x00b\r\n\r\n",
    "NUL in a name": GET + b"X\x00: a\r\n\r\n",
    "NUL in the target": b"GET /x\x00y HTTP/1.1\r\nHost: a\r\n\r\n",
    "a control character in a value": GET + b"X: a\x01b\r\n\r\n",
    "a header without a colon": GET + b"X\r\n\r\n",
    "a header name with a space": GET + b"X Y: 1\r\n\r\n",
    "a header without a name": GET + b": 1\r\n\r\n",
    "no Host": b"GET /x HTTP/1.1\r\n\r\n",
    "Host twice": GET + HOST + b"\r\n",
    "chunks in HTTP/1.0": b"POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTP/0.9": b"GET /x\r\n\r\n",
    "HTTP/0.9 by name": b"GET /x HTTP/0.9\r\nHost: a\r\n\r\n",
    "HTTP/1.2": b"GET /x HTTP/1.2\r\nHost: a\r\n\r\n",
    "HTTP/2 in a text line": b"GET /x HTTP/2.0\r\nHost: a\r\n\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "http in lower case": b"GET /x http/1.1\r\nHost: a\r\n\r\n",
    "a method in lower case": b"get /x HTTP/1.1\r\nHost: a\r\n\r\n",
    "a method nobody knows": b"FOO /x HTTP/1.1\r\nHost: a\r\n\r\n",
    "a space in the target": b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    "a byte above ASCII in the target": b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
    "a target that is only a query": b"GET ?x HTTP/1.1\r\nHost: a\r\n\r\n",
    "an absolute target without a host": b"GET http:///v1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "a space before the method": b" GET /x HTTP/1.1\r\nHost: a\r\n\r\n",
    "a space behind the version": b"GET /x HTTP/1.1 \r\nHost: a\r\n\r\n",
    "CONNECT": b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    "an upgrade with a counted body": POST + UPGRADE + b"Content-Length: 2\r\n\r\nhi",
    "an upgrade with a chunked body": POST + UPGRADE + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "TLS to a plain port": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "a chunk size without digits": CHUNKED + b"\r\n",
    "a chunk size of letters": CHUNKED + b"xyz\r\nabc\r\n0\r\n\r\n",
    "a negative chunk size": CHUNKED + b"-1\r\n",
    "a chunk size with plus": CHUNKED + b"+3\r\nabc\r\n0\r\n\r\n",
    "a chunk size with 0x": CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n",
    "a chunk size with a space behind": CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n",
    "a chunk size with a space before": CHUNKED + b" 3\r\nabc\r\n0\r\n\r\n",
    "a chunk size beyond 64 bits": CHUNKED + b"fffffffffffffffff\r\n",
    "a chunk size ended by LF": CHUNKED + b"3\nabc\r\n0\r\n\r\n",
    "a chunk size ended by CR": CHUNKED + b"3\rXabc\r\n0\r\n\r\n",
    "a chunk longer than its size": CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n",
    "a chunk without its line end": CHUNKED + b"3\r\nabc0\r\n\r\n",
    "a chunk ended by LF": CHUNKED + b"3\r\nabc\n0\r\n\r\n",
    "NUL in a chunk extension": CHUNKED + b"3;a\x00\r\nabc\r\n0\r\n\r\n",
    "LF in a chunk extension": CHUNKED + b"3;a\nb\r\nabc\r\n0\r\n\r\n",
    "a trailer without a colon": CHUNKED + b"3\r\nabc\r\n0\r\nX y\r\n\r\n",
    "Content-Length as a trailer": CHUNKED + b"3\r\nabc\r\n0\r\nContent-Length: 7\r\n\r\n",
    "the last chunk ended by LF": CHUNKED + b"3\r\nabc\r\n0\r\n\n",
}


def whole(data: bytes) -> list[bytes]:
    return [data]


def byte_by_byte(data: bytes) -> list[bytes]:
    return [bytes([byte]) for byte in data]


Cut = Callable[[bytes], list[bytes]]


@pytest.mark.parametrize("cut", [whole, byte_by_byte])
@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_malformed_is_refused_and_reaches_nobody(raw: bytes, cut: Cut, house: Any, assert_openai_error: Any) -> None:
    async def test() -> None:
        async with house.door() as door:
            line = await door.line()
            await house.until(lambda: door.connections)
            for piece in cut(raw):
                door.connections[0].data_received(piece)
            got = await line.answer()
            assert_openai_error(got.status, got.headers, got.body, 400)
            assert got.headers["connection"] == "close"
            assert await line.closed()
            assert door.served == []
            assert door.broke == []

    house.run(test)


@pytest.mark.parametrize("before", [GET + b"\r\n", POST + b"Content-Length: 3\r\n\r\nabc"], ids=["GET", "POST"])
def test_a_malformed_request_is_answered_behind_the_good_one_before_it(before: bytes, house: Any, assert_openai_error: Any) -> None:
    async def test() -> None:
        async with house.door() as door:
            line = await door.line()
            line.send(before + b"GARBAGE\r\n\r\n" + GET + b"\r\n")
            assert (await line.answer()).status == 200
            got = await line.answer()
            assert_openai_error(got.status, got.headers, got.body, 400)
            assert await line.closed()
            assert len(door.served) == 1

    house.run(test)


SERVED = {
    "GET": (GET + b"\r\n", ("GET", b"/x", b"", b"")),
    "GET with a body": (GET + b"Content-Length: 3\r\n\r\nabc", ("GET", b"/x", b"", b"abc")),
    "a counted body": (POST + b"Content-Length: 3\r\n\r\nabc", ("POST", b"/x", b"", b"abc")),
    "a count with zeros before it": (POST + b"Content-Length: 003\r\n\r\nabc", ("POST", b"/x", b"", b"abc")),
    "a chunked body": (CHUNKED + b"3\r\nabc\r\n00a\r\n0123456789\r\n0\r\n\r\n", ("POST", b"/x", b"", b"abc0123456789")),
    "chunks with an extension and a trailer": (CHUNKED + b"3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n", ("POST", b"/x", b"", b"abc")),
    "Transfer-Encoding in capitals": (POST + b"Transfer-Encoding: CHUNKED\r\n\r\n0\r\n\r\n", ("POST", b"/x", b"", b"")),
    "a query": (b"GET /x?a?b=/c HTTP/1.1\r\n" + HOST + b"\r\n", ("GET", b"/x", b"a?b=/c", b"")),
    "a fragment, which is dropped": (b"GET /x#y HTTP/1.1\r\n" + HOST + b"\r\n", ("GET", b"/x", b"", b"")),
    "an absolute target": (b"GET http://u@x:80/v1/y?z HTTP/1.1\r\n" + HOST + b"\r\n", ("GET", b"/v1/y", b"z", b"")),
    "an absolute target without a path": (b"GET http://x HTTP/1.1\r\n" + HOST + b"\r\n", ("GET", b"/", b"", b"")),
    "a target with two slashes, as it came": (b"GET //evil/v1 HTTP/1.1\r\n" + HOST + b"\r\n", ("GET", b"//evil/v1", b"", b"")),
    "an encoded target, as it came": (b"GET /%76%31/%2e%2e HTTP/1.1\r\n" + HOST + b"\r\n", ("GET", b"/%76%31/%2e%2e", b"", b"")),
    "OPTIONS of the server": (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", ("OPTIONS", b"*", b"", b"")),
    "empty lines before the request": (b"\r\n\r\n" + GET + b"\r\n", ("GET", b"/x", b"", b"")),
    "an upgrade that is not taken": (GET + UPGRADE + b"\r\n", ("GET", b"/x", b"", b"")),
    "HTTP/1.0 without a host": (b"POST /x HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi", ("POST", b"/x", b"", b"hi")),
}


@pytest.mark.parametrize("cut", [whole, byte_by_byte])
@pytest.mark.parametrize(("raw", "call"), SERVED.values(), ids=SERVED.keys())
def test_what_is_valid_is_served_as_it_came(raw: bytes, call: tuple[str, bytes, bytes, bytes], cut: Cut, house: Any) -> None:
    async def test() -> None:
        async with house.door() as door:
            line = await door.line()
            await house.until(lambda: door.connections)
            for piece in cut(raw):
                door.connections[0].data_received(piece)
            assert (await line.answer()).status == 200
            served = door.served[0]
            assert (served.method, served.path, served.query, served.body) == call
            assert len(door.served) == 1

    house.run(test)


def test_what_follows_an_upgrade_that_is_not_taken_is_the_next_request(house: Any) -> None:
    async def test() -> None:
        async with house.door() as door:
            line = await door.line()
            line.send(GET + UPGRADE + b"\r\nGET /y HTTP/1.1\r\n" + HOST + b"\r\n")
            assert (await line.answer()).body == b"GET /x 0"
            assert (await line.answer()).body == b"GET /y 0"

    house.run(test)


# h11 as an oracle

target = st.text("abcXYZ019-._~!$&'()*+,;=:@/%", max_size=12).map(lambda text: "/" + text)
query = st.one_of(st.just(""), st.text("ab01=&/?%+", max_size=12).map(lambda text: "?" + text))
name = st.text("abcXYZ-_09", min_size=1, max_size=8).map(lambda text: "x-" + text)
value = st.text("abc XYZ09\t;=,\"'/\xe9", max_size=12).map(lambda text: text.strip(" \t").encode("latin-1"))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]),
    target, query, st.lists(st.tuples(name, value), max_size=4), st.lists(st.binary(min_size=1, max_size=30), max_size=4),
    st.booleans(), st.lists(st.integers(0, 600), max_size=5),
)  # fmt: skip
def test_what_h11_writes_is_read_as_it_was_meant_however_it_is_cut(
    house: Any, method: str, target: str, query: str, headers: list[tuple[str, bytes]], body: list[bytes], chunked: bool, places: list[int]
) -> None:
    framing = ("transfer-encoding", b"chunked") if chunked else ("content-length", b"%d" % sum(map(len, body)))
    wire = h11.Connection(h11.CLIENT)
    raw = wire.send(h11.Request(method=method, target=target + query, headers=[("host", b"a"), framing, *headers])) or b""
    raw += b"".join(wire.send(h11.Data(data=data)) or b"" for data in body)
    raw += wire.send(h11.EndOfMessage()) or b""
    edges = [0, *sorted(place % len(raw) for place in places), len(raw)]

    async def test() -> None:
        async with house.door() as door:
            line = await door.line()
            await house.until(lambda: door.connections)
            for start, end in zip(edges, edges[1:], strict=False):  # noqa: RUF007
                if end > start:
                    door.connections[0].data_received(raw[start:end])
            assert (await line.answer(to_head=method == "HEAD")).status == 200
            served = door.served[0]
            assert (served.method, served.body) == (method, b"".join(body))
            assert served.path.decode() + ("?" + served.query.decode() if served.query else "") == target + ("" if query == "?" else query)
            assert [pair for pair in served.headers if pair[0].startswith(b"x-")] == [(key.lower().encode(), text) for key, text in headers]

    house.run(test)
