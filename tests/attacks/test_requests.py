"""Request lines, targets and headers: what is not HTTP/1.1 is told so in OpenAI's shape, and what is passes as it came."""

from __future__ import annotations

from typing import Any

import pytest

HOST = b"Host: gateway\r\n"
KEY = b"Authorization: Bearer KEY\r\n"  # the team's key is put in its place
GOOD = HOST + KEY
GET = b"GET /v1/files HTTP/1.1\r\n"
END = b"\r\n"

MALFORMED = {
    "garbage": b"\x00\xff garbage \x01\r\n\r\n",
    "a line of words": b"please give me some tokens\r\n\r\n",
    "TLS to a plain port": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
    "no version": b"GET /v1/files\r\n" + GOOD + END,
    "HTTP/0.9": b"GET /v1/files\r\n\r\n",
    "HTTP/0.9 by name": b"GET /v1/files HTTP/0.9\r\n" + GOOD + END,
    "HTTP/1.2": b"GET /v1/files HTTP/1.2\r\n" + GOOD + END,
    "HTTP/2 in a text line": b"GET /v1/files HTTP/2.0\r\n" + GOOD + END,
    "HTTP/3": b"GET /v1/files HTTP/3\r\n" + GOOD + END,
    "HTTP/11": b"GET /v1/files HTTP/11\r\n" + GOOD + END,
    "HTTP/1.10": b"GET /v1/files HTTP/1.10\r\n" + GOOD + END,
    "HTTP/1,1": b"GET /v1/files HTTP/1,1\r\n" + GOOD + END,
    "http in lower case": b"GET /v1/files http/1.1\r\n" + GOOD + END,
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    "a method in lower case": b"get /v1/files HTTP/1.1\r\n" + GOOD + END,
    "a method nobody knows": b"FOO /v1/files HTTP/1.1\r\n" + GOOD + END,
    "a method of 10,000 letters": b"G" * 10_000 + b" /v1/files HTTP/1.1\r\n" + GOOD + END,
    "a space before the method": b" GET /v1/files HTTP/1.1\r\n" + GOOD + END,
    "a tab for the space": b"GET\t/v1/files\tHTTP/1.1\r\n" + GOOD + END,
    "a space in the target": b"GET /v1/fi les HTTP/1.1\r\n" + GOOD + END,
    "a space behind the version": b"GET /v1/files HTTP/1.1 \r\n" + GOOD + END,
    "no target": b"GET  HTTP/1.1\r\n" + GOOD + END,
    "NUL in the target": b"GET /v1/files\x00 HTTP/1.1\r\n" + GOOD + END,
    "CR in the target": b"GET /v1/files\rX HTTP/1.1\r\n" + GOOD + END,
    "DEL in the target": b"GET /v1/files\x7f HTTP/1.1\r\n" + GOOD + END,
    "a byte above ASCII in the target": b"GET /v1/f\xefles HTTP/1.1\r\n" + GOOD + END,
    "UTF-8 in the query": "GET /v1/files?q=é HTTP/1.1\r\n".encode() + GOOD + END,
    "a target that is only a query": b"GET ?x HTTP/1.1\r\n" + GOOD + END,
    "a target that is a word": b"GET v1/files HTTP/1.1\r\n" + GOOD + END,
    "an absolute target without a host": b"GET http:///v1/files HTTP/1.1\r\n" + GOOD + END,
    "an authority as the target": b"GET gateway:80 HTTP/1.1\r\n" + GOOD + END,
    "CONNECT": b"CONNECT api.openai.com:443 HTTP/1.1\r\n" + GOOD + END,
    "CONNECT to a path": b"CONNECT /v1/files HTTP/1.1\r\n" + GOOD + END,
    "a request line ended by LF": b"GET /v1/files HTTP/1.1\n" + GOOD + END,
    "a request line ended by CR": b"GET /v1/files HTTP/1.1\r" + GOOD + END,
    "a header ended by LF": GET + b"X: y\n" + GOOD + END,
    "a header ended by CR": GET + b"X: y\r" + GOOD + END,
    "a head ended by LF": GET + GOOD + b"\n",
    "a head ended by CR CR LF": GET + GOOD + b"\r\r\n",
    "CR in a value": GET + b"X: a\rb\r\n" + GOOD + END,
    "LF in a value": GET + b"X: a\nb\r\n" + GOOD + END,
    "NUL in a value": GET + b"X: a\x00b\r\n" + GOOD + END,
    "a control character in a value": GET + b"X: a\x01b\r\n" + GOOD + END,
    "DEL in a value": GET + b"X: a\x7fb\r\n" + GOOD + END,
    "NUL in a name": GET + b"X\x00Y: a\r\n" + GOOD + END,
    "a byte above ASCII in a name": GET + b"X\xe9: a\r\n" + GOOD + END,
    "a header without a name": GET + b": a\r\n" + GOOD + END,
    "a header without a colon": GET + b"X\r\n" + GOOD + END,
    "a space before the colon": GET + b"X : a\r\n" + GOOD + END,
    "a tab before the colon": GET + b"X\t: a\r\n" + GOOD + END,
    "a space before the colon of Transfer-Encoding": b"POST /v1/files HTTP/1.1\r\nTransfer-Encoding : chunked\r\n"
    + GOOD
    + b"\r\n0\r\n\r\n",
    "a space inside a name": GET + b"X Y: a\r\n" + GOOD + END,
    "a space before the first header": GET + b" X: a\r\n" + GOOD + END,
    "a folded header": GET + b"X: a\r\n b\r\n" + GOOD + END,
    "a folded Transfer-Encoding": b"POST /v1/files HTTP/1.1\r\n" + GOOD + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "a header folded with a tab": GET + b"X: a\r\n\tb\r\n" + GOOD + END,
    "no Host": GET + KEY + END,
    "Host twice": GET + HOST + GOOD + END,
    "Host twice, and different": GET + b"Host: api.openai.com\r\n" + GOOD + END,
}


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_not_http_is_told_so_and_the_connection_closed(raw: bytes, attack: Any, assert_openai_error: Any) -> None:
    with attack.client() as client:
        client.send(attack.with_key(raw))
        got = client.answer()
        assert_openai_error(got.status, got.headers, got.body, 400)
        assert got.headers["connection"] == "close"
        assert client.closed()
    assert attack.seen() == []


# Targets


def target(text: bytes, method: bytes = b"GET", lines: bytes = b"") -> bytes:
    return method + b" " + text + b" HTTP/1.1\r\n" + GOOD + lines + END


NOT_FOUND = {
    "the root": target(b"/"),
    "a favicon": target(b"/favicon.ico"),
    "nothing behind the version": target(b"/v1"),
    "nothing but a slash behind the version": target(b"/v1/"),
    "two slashes at the start": target(b"//v1/files"),
    "two slashes inside": target(b"/v1//files"),
    "three slashes at the end": target(b"/v1/files///"),
    "a dot": target(b"/v1/./files"),
    "a way up": target(b"/v1/../v1/chat/completions", b"POST", b"Content-Length: 0\r\n"),
    "a way up, encoded": target(b"/v1/%2e%2e/v1/files"),
    "a way up, half encoded": target(b"/v1/.%2E/v1/files"),
    "a way up at the end": target(b"/v1/files/.."),
    "an encoded slash": target(b"/v1/chat%2fcompletions"),
    "an encoded slash in capitals": target(b"/v1/chat%2Fcompletions"),
    "an encoding encoded": target(b"/v1/chat%252fcompletions"),
    "an encoded backslash": target(b"/v1/chat%5ccompletions"),
    "a backslash": target(b"/v1\\files"),
    "an encoded NUL": target(b"/v1/files%00"),
    "an encoded line end": target(b"/v1/files%0d%0aX:%20y"),
    "an encoded space": target(b"/v1/files%20"),
    "an encoded question mark": target(b"/v1/files%3fx"),
    "an encoded hash": target(b"/v1/files%23x"),
    "a semicolon": target(b"/v1/files;x=y"),
    "an encoded byte above ASCII": target(b"/v1/files%ff"),
    "half an encoding": target(b"/v1/files%4"),
    "an encoding of no digits": target(b"/v1/files%zz"),
    "an absolute target without a path": target(b"http://gateway"),
    "OPTIONS of the server": target(b"*", b"OPTIONS"),
    "GET of the server": target(b"*"),
    "TRACE": target(b"/v1/files", b"TRACE"),
    "PROPFIND": target(b"/v1/files", b"PROPFIND"),
    "QUERY": target(b"/v1/files", b"QUERY"),
    "M-SEARCH": target(b"/v1/files", b"M-SEARCH"),
    "a path one over what a URL may be": target(b"/v1/" + b"a" * 2_045),
}


@pytest.mark.parametrize("raw", NOT_FOUND.values(), ids=NOT_FOUND.keys())
def test_what_names_nothing_is_not_found_and_the_connection_is_kept(raw: bytes, attack: Any, words: Any, assert_openai_error: Any) -> None:
    with attack.client() as client:
        got = client.send(attack.with_key(raw)).answer()
        error = assert_openai_error(got.status, got.headers, got.body, 404)
        assert error["message"].startswith("Invalid URL (")
        assert client.send(attack.request()).answer("POST").body == words.answer
    assert len(attack.seen()) == 1


PASSED = {
    "a query, byte for byte": (target(b"/v1/files?a=%2f..&b[]=;c&&d"), "/v1/files?a=%2f..&b[]=;c&&d"),
    "a query that is empty": (target(b"/v1/files?"), "/v1/files"),
    "a query of question marks": (target(b"/v1/files??a=?"), "/v1/files??a=?"),
    "a fragment, which is dropped": (target(b"/v1/files#x"), "/v1/files"),
    "a slash at the end": (target(b"/v1/files/"), "/v1/files/"),
    "an absolute target": (target(b"http://elsewhere:81/v1/files?x"), "/v1/files?x"),
    "an absolute target with a user": (target(b"http://a:b@elsewhere/v1/files"), "/v1/files"),
    "encoded letters": (target(b"/%76%31/f%69les"), "/v1/f%69les"),
    "no version in the path": (target(b"/files", b"POST", b"Content-Length: 0\r\n"), "/v1/files"),
    "capitals": (target(b"/V1/Files"), "/v1/Files"),
    "a path as long as a URL may be": (target(b"/v1/" + b"a" * 2_044), "/v1/" + "a" * 2_044),
    "a query of 60,000 bytes": (target(b"/v1/files?" + b"q" * 60_000), "/v1/files?" + "q" * 60_000),
    "HTTP/1.0": (b"GET /v1/files HTTP/1.0\r\n" + KEY + END, "/v1/files"),
    "HTTP/1.0 that keeps": (b"GET /v1/files HTTP/1.0\r\nConnection: keep-alive\r\n" + KEY + END, "/v1/files"),
    "two spaces before the target": (b"GET  /v1/files HTTP/1.1\r\n" + GOOD + END, "/v1/files"),
    "empty lines before it": (b"\r\n\r\n" + target(b"/v1/files"), "/v1/files"),
    "RTSP, which the parser takes for HTTP of the same number": (b"GET /v1/files RTSP/1.1\r\n" + GOOD + END, "/v1/files"),
    "an upgrade that nobody takes": (target(b"/v1/files", b"GET", b"Connection: upgrade\r\nUpgrade: h2c\r\n"), "/v1/files"),
    "PUT": (target(b"/v1/files/x", b"PUT", b"Content-Length: 0\r\n"), "/v1/files/x"),
    "PATCH": (target(b"/v1/files/x", b"PATCH", b"Content-Length: 0\r\n"), "/v1/files/x"),
}  # fmt: skip


@pytest.mark.parametrize(("raw", "to"), PASSED.values(), ids=PASSED.keys())
def test_what_is_odd_and_right_passes(raw: bytes, to: str, attack: Any, words: Any) -> None:
    with attack.client() as client:
        got = client.send(attack.with_key(raw)).answer()
        assert (got.status, got.body, got.interim) == (200, words.answer, [])
        if b"/1.1\r\n" in raw or b"keep-alive" in raw:
            assert client.send(attack.with_key(target(b"/v1/files"))).answer().status == 200
        else:
            assert client.closed()
    first = attack.seen()[0]
    assert (first.target, first.header("host")) == (to, f"127.0.0.1:{attack.upstream.port}")


# Headers

CARRIED = {
    "values above ASCII": (b"X-Name: caf\xe9 \xff\r\n", [("x-name", "caf\xe9 \xff")]),
    "a tab inside a value": (b"X-Name: a\tb\r\n", [("x-name", "a\tb")]),
    "space around a value": (b"X-Name:  \t a \t \r\n", [("x-name", "a")]),
    "an empty value": (b"X-Name:\r\n", [("x-name", "")]),
    "a name of odd letters": (b"X!#$%&'*+-.^_`|~9: a\r\n", [("x!#$%&'*+-.^_`|~9", "a")]),
    "the same header twice": (b"X-Name: a\r\nx-name: b\r\n", [("x-name", "a"), ("x-name", "b")]),
    "3,000 headers": (b"".join(b"x-%04d: y\r\n" % number for number in range(3_000)), [(f"x-{number:04}", "y") for number in range(3_000)]),
    "a value of 60,000 bytes": (b"X-Name: " + b"v" * 60_000 + b"\r\n", [("x-name", "v" * 60_000)]),
    "what Connection names": (b"Connection: X-Name, close\r\nX-Name: a\r\n", []),
    "headers of one hop": (b"TE: trailers\r\nTrailer: x-t\r\nKeep-Alive: 5\r\nProxy-Connection: close\r\nUpgrade: h2c\r\n", []),
    "another credential": (b"Proxy-Authorization: x\r\nApi-Key: sk-x\r\n", []),
    "an account's headers": (b"OpenAI-Organization: org-evil\r\nOpenAI-Project: evil\r\nX-Client-Request-Id: mine\r\n", []),
    "an encoding that nobody could read": (b"Accept-Encoding: gzip, br\r\n", []),
}  # fmt: skip
_OURS = {"host", "authorization", "x-client-request-id", "accept-encoding", "content-length", "content-type"}


@pytest.mark.parametrize(("lines", "carried"), CARRIED.values(), ids=CARRIED.keys())
def test_headers_go_on_as_they_came_and_those_of_this_hop_do_not(lines: bytes, carried: list[tuple[str, str]], attack: Any) -> None:
    with attack.client() as client:
        assert client.send(attack.request(lines=lines.decode("latin-1"))).answer("POST").status == 200
    (seen,) = attack.seen()
    assert [pair for pair in seen.headers if pair[0] not in _OURS] == carried
    assert seen.header("authorization") == "Bearer sk-upstream-77aa0c8a7b3d49d2"
    assert (seen.header("accept-encoding"), seen.header("x-client-request-id")) == ("identity", attack.entry()["exchange_id"])


def test_of_two_credentials_one_counts_and_none_goes_on(attack: Any, assert_openai_error: Any) -> None:
    with attack.client() as client:
        got = client.send(attack.with_key(GET + HOST + b"Authorization: Bearer wrong\r\n" + KEY + END)).answer()
        assert_openai_error(got.status, got.headers, got.body, 401, "invalid_api_key")
        assert client.send(attack.with_key(GET + GOOD + b"Authorization: Bearer wrong\r\n" + END)).answer().status == 200
    (seen,) = attack.seen()
    assert seen.header("authorization") == "Bearer sk-upstream-77aa0c8a7b3d49d2"


def filled(head: bytes, size: int) -> bytes:
    """The head, made so long by one more header."""
    fill = size - len(head) - len(b"X-Fill: \r\n\r\n")
    return head + b"X-Fill: " + b"f" * fill + b"\r\n\r\n"


LONG = {
    "one value": lambda head, size: filled(head, size),
    "the target": lambda head, size: head.replace(b"/v1/files", b"/v1/files?" + b"q" * (size - len(head) - 3)) + END,
    "many headers": lambda head, size: filled(head + b"".join(b"a%04d:b\r\n" % n for n in range(4_000)), size),
}


@pytest.mark.parametrize(("over", "status"), [(-1, 200), (0, 200), (1, 431)], ids=["one under", "at the bound", "one over"])
@pytest.mark.parametrize("pieces", [1, 7], ids=["at once", "in pieces"])
@pytest.mark.parametrize("long", LONG.values(), ids=LONG.keys())
def test_a_head_may_be_as_long_as_its_bound(
    long: Any, pieces: int, over: int, status: int, attack: Any, words: Any, assert_openai_error: Any
) -> None:
    raw = long(attack.with_key(GET + GOOD), words.head_bytes_max + over)
    assert len(raw) == words.head_bytes_max + over
    with attack.client() as client:
        for start in range(0, len(raw), -(-len(raw) // pieces)):
            client.send(raw[start : start + -(-len(raw) // pieces)])
        got = client.answer()
        if status == 200:
            assert got.status == 200, got.body
        else:
            assert_openai_error(got.status, got.headers, got.body, 431)
            assert client.closed()


def test_a_head_without_end_is_given_up_at_its_bound(attack: Any, assert_openai_error: Any) -> None:
    with attack.client() as client:
        client.send(attack.with_key(GET + GOOD))
        for _ in range(100):
            client.send(b"X: " + b"y" * 50_000 + b"\r\n")
        got = client.answer()
        assert_openai_error(got.status, got.headers, got.body, 431)
        assert client.closed()
    assert attack.seen() == []
