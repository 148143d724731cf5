"""OpenAI's end gone bad: heads and framing that are not HTTP, answers to nobody. Each call is booked once, as what it may have cost.

A client gets OpenAI's answer as it came, or a 502 in OpenAI's shape where no valid head was, or sees its answer cut; the
connection to OpenAI is used again only behind an answer that ended as it should.
"""

from __future__ import annotations

import ssl
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

OK = b"HTTP/1.1 200 OK\r\n"
JSON = b"content-type: application/json\r\n"
END = b"\r\n"

NO_ANSWER = {
    "garbage": b"\x00\xff\xfe garbage\r\n\r\n",
    "words": b"we are closed\r\n\r\n",
    "TLS": b"\x16\x03\x03\x00\x02\x02\x28\r\n\r\n",
    "HTML and no head": b"<html><body>502 Bad Gateway</body></html>\r\n\r\n",
    "JSON and no head": b'{"id":"chatcmpl-1"}\r\n\r\n',
    "HTTP/0.9": b"hello\n",
    "HTTP/0.9 of many bytes": b"hello\n" * 20_000,
    "HTTP/2": b"HTTP/2 200\r\n\r\n",
    "HTTP/1.2": b"HTTP/1.2 200 OK\r\n\r\n",
    "an SSH server": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "a status of letters": b"HTTP/1.1 abc OK\r\n\r\n",
    "a status below 100": b"HTTP/1.1 099 OK\r\n\r\n",
    "no status": b"HTTP/1.1\r\n\r\n",
    "lines ended by LF": b"HTTP/1.1 200 OK\ncontent-length: 0\n\n",
    "a line ended by CR": OK + b"content-length: 0\rX: y\r\n\r\n",
    "a folded header": OK + b"X: a\r\n b\r\ncontent-length: 0\r\n\r\n",
    "a header without a colon": OK + b"X\r\ncontent-length: 0\r\n\r\n",
    "a header without a name": OK + b": y\r\ncontent-length: 0\r\n\r\n",
    "a space before the colon": OK + b"content-length : 0\r\n\r\n",
    "NUL in a header": OK + b"X: a\x00b\r\ncontent-length: 0\r\n\r\n",
    "a bare CR in a header": OK + b"X: a\rset-cookie: evil\r\ncontent-length: 0\r\n\r\n",
    "a bare LF in a header": OK + b"X: a\nset-cookie: evil\r\ncontent-length: 0\r\n\r\n",
    "a head of 70,000 bytes": OK + b"X: " + b"y" * 70_000 + b"\r\ncontent-length: 0\r\n\r\n",
    "a head without end": OK + b"X: y\r\n" * 50_000,
    "101 that was not asked for": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
    "two lengths, equal": OK + b"content-length: 0\r\ncontent-length: 0\r\n\r\n",
    "two lengths, different": OK + b"content-length: 0\r\ncontent-length: 5\r\n\r\nhello",
    "a list of lengths": OK + b"content-length: 5, 5\r\n\r\nhello",
    "a length with plus": OK + b"content-length: +5\r\n\r\nhello",
    "a length below zero": OK + b"content-length: -5\r\n\r\nhello",
    "a length in hex": OK + b"content-length: 0x5\r\n\r\nhello",
    "a length beyond 64 bits": OK + b"content-length: 18446744073709551621\r\n\r\nhello",
    "a length of nothing": OK + b"content-length:\r\n\r\n",
    "a length and chunks": OK + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and a length": OK + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
    "gzip, chunked": OK + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "identity": OK + b"transfer-encoding: identity\r\n\r\nhello",
    "chunked twice": OK + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "an interim answer that closes": b"HTTP/1.1 103 Early Hints\r\nconnection: close\r\n\r\n" + OK + b"content-length: 0\r\n\r\n",
    "an interim answer and garbage": b"HTTP/1.1 100 Continue\r\n\r\ngarbage\r\n\r\n",
    "a whole answer with bytes behind it": OK + JSON + b"content-length: 5\r\n\r\nhello world",
    "two answers": (OK + JSON + b"content-length: 5\r\n\r\nhello") * 2,
    "204 with a body": b"HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\nhello",
    "304 with a body": b"HTTP/1.1 304 Not Modified\r\n\r\nhello",
    "bad chunks at once": OK + b"transfer-encoding: chunked\r\n\r\nxyz\r\nhello\r\n0\r\n\r\n",
}  # fmt: skip


NEVER_A_HEAD = ("HTTP/0.9", "an SSH server", "lines ended by LF")  # only its close tells that no more will come


@pytest.mark.parametrize("raw", NO_ANSWER.values(), ids=NO_ANSWER.keys())
def test_what_is_no_answer_is_a_502_and_booked_as_unknown(raw: bytes, attack: Any, words: Any, assert_openai_error: Any) -> None:
    def plan(line: Any, _: Any) -> None:
        line.send(raw)
        if b"\r\n\r\n" not in raw or raw.startswith(b"SSH"):
            line.close()

    with attack.client() as client:
        got = client.send(attack.request(lines=attack.plan(plan))).answer("POST")
        code = "upstream_closed" if raw in [NO_ANSWER[name] for name in NEVER_A_HEAD] else "upstream_bad_answer"
        assert_openai_error(got.status, got.headers, got.body, 502, code)
        assert client.send(attack.request()).answer("POST").body == words.answer
    first = attack.entries()[0]
    assert (first["usage_source"], first["outcome"], first["status"]) == ("unknown", "upstream_error", None)
    assert first["cost_picousd"] > 0


@pytest.mark.parametrize("how", ["close", "reset"])
def test_nothing_at_all_is_a_502(how: str, attack: Any, assert_openai_error: Any) -> None:
    with attack.client() as client:
        got = client.send(attack.request(lines=attack.plan(lambda line, _: getattr(line, how)()))).answer("POST")
        assert_openai_error(got.status, got.headers, got.body, 502, "upstream_closed")
    assert attack.entry()["usage_source"] == "unknown"


@pytest.mark.parametrize(
    "began", [b"", b"HTTP/1.1 200 OK\r\ncontent-le", b"HTTP/1.1 100 Continue\r\n\r\n"], ids=["silence", "half a head", "100 only"]
)
def test_an_answer_that_does_not_begin_in_time_is_a_504(began: bytes, hasty_attack: Any, assert_openai_error: Any) -> None:
    def plan(line: Any, _: Any) -> None:
        line.send(began)
        line.closed_by_gateway()

    with hasty_attack.client() as client:
        got = client.send(hasty_attack.request(lines=hasty_attack.plan(plan))).answer("POST")
        assert_openai_error(got.status, got.headers, got.body, 504, "upstream_timeout")
    entry = hasty_attack.entry()
    assert (entry["usage_source"], entry["outcome"]) == ("unknown", "upstream_timeout")


# Answers that pass

PASSING: dict[str, tuple[Callable[[bytes], bytes], int, str]] = {
    "100 before it": (lambda body: b"HTTP/1.1 100 Continue\r\n\r\n" + counted(body), 200, "reported"),
    "103 before it, twice": (lambda body: b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" * 2 + counted(body), 200, "reported"),
    "199 before it": (lambda body: b"HTTP/1.1 199 Odd\r\n\r\n" + counted(body), 200, "reported"),
    "HTTP/1.0 to the close": (lambda body: b"HTTP/1.0 200 OK\r\n" + JSON + END + body, 200, "reported"),
    "HTTP/1.0 with a length": (lambda body: counted(body).replace(b"1.1", b"1.0"), 200, "reported"),
    "HTTP/1.1 to the close": (lambda body: OK + JSON + END + body, 200, "reported"),
    "no reason": (lambda body: counted(body).replace(b" OK", b""), 200, "reported"),
    "a reason above ASCII": (lambda body: counted(body).replace(b" OK", b" \xe9t\xe9"), 200, "reported"),
    "chunks": (lambda body: chunked(body, 7), 200, "reported"),
    "chunks of one byte": (lambda body: chunked(body, 1), 200, "reported"),
    "chunks with extensions and trailers": (lambda body: with_extras(chunked(body, 9)), 200, "reported"),
    "a type that is wrong": (lambda body: counted(body).replace(b"application/json", b"text/html"), 200, "reported"),
    "no type": (lambda body: OK + b"content-length: %d\r\n\r\n" % len(body) + body, 200, "reported"),
    "203": (lambda body: counted(body, b"203 X"), 203, "reported"),
    "302": (lambda body: counted(body, b"302 X", b"location: http://evil/\r\n"), 302, "reported"),
    "418": (lambda body: counted(body, b"418 X"), 418, "not_billed"),
    "599": (lambda body: counted(body, b"599 X"), 599, "not_billed"),
    "999": (lambda body: counted(body, b"999 X"), 999, "not_billed"),
    "compressed, though identity was asked for": (lambda body: counted(body, b"200 OK", b"content-encoding: gzip\r\n"), 200, "unknown"),
    "compressed twice": (lambda body: counted(body, b"200 OK", b"content-encoding: br, gzip\r\n"), 200, "unknown"),
    "a head of 64 KB": (lambda body: counted(body, b"200 OK", b"x-fill: " + b"f" * 65_000 + b"\r\n"), 200, "reported"),
    "2,000 headers": (lambda body: counted(body, b"200 OK", b"".join(b"x-%04d: y\r\n" % n for n in range(2_000))), 200, "reported"),
    "an empty body": (lambda _: counted(b""), 200, "unknown"),
    "204": (lambda _: b"HTTP/1.1 204 No Content\r\n\r\n", 204, "unknown"),
    "204 with a length and no body": (lambda _: b"HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n", 204, "unknown"),
    "304": (lambda _: b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", 304, "unknown"),
}  # fmt: skip


def counted(body: bytes, status: bytes = b"200 OK", lines: bytes = b"") -> bytes:
    return b"HTTP/1.1 %b\r\n%b%bcontent-length: %d\r\n\r\n%b" % (status, JSON, lines, len(body), body)


def chunked(body: bytes, size: int) -> bytes:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return (
        OK + JSON + b"transfer-encoding: chunked\r\n\r\n" + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    )


def with_extras(raw: bytes) -> bytes:
    """Chunks of nine with extensions, and trailers behind them."""
    return raw.replace(b"9\r\n", b'9;a=b;c="d"\r\n').removesuffix(END) + b"x-t: y\r\nset-cookie: t=1\r\n\r\n"


@pytest.mark.parametrize("drip", [False, True], ids=["at once", "byte by byte"])
@pytest.mark.parametrize(("frame", "status", "source"), PASSING.values(), ids=PASSING.keys())
def test_an_answer_that_is_odd_and_right_passes(
    frame: Callable[[bytes], bytes], status: int, source: str, drip: bool, attack: Any, words: Any
) -> None:
    raw = frame(words.answer)
    body = raw[raw.index(b"\r\n\r\n") + 4 :] if status in (204, 304) or raw.endswith(b"content-length: 0\r\n\r\n") else words.answer

    def plan(line: Any, _: Any) -> None:
        line.drip(raw) if drip and len(raw) < 5_000 else line.send(raw)
        if b"content-length" not in raw and b"chunked" not in raw and status != 204:
            line.close()

    with attack.client() as client:
        for _ in range(2):
            got = client.send(attack.request(lines=attack.plan(plan))).answer("POST")
            assert (got.status, got.body, got.whole, got.interim) == (status, body, True, [])
            assert "x-t" not in got.headers
            if status == 204:
                assert "content-length" not in got.headers, "RFC 9110 section 8.6"
    assert {entry["usage_source"] for entry in attack.entries()} == {source}


CUT = {
    "before its body": (OK + JSON + b"content-length: 100\r\n\r\n", "unknown"),
    "inside its body": (OK + JSON + b'content-length: 100\r\n\r\n{"usage":', "unknown"),
    "inside a chunk": (OK + JSON + b'transfer-encoding: chunked\r\n\r\n64\r\n{"usage":', "unknown"),
    "between chunks": (OK + JSON + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", "unknown"),
    "before the end of the chunks": (OK + JSON + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", "unknown"),
    "inside a trailer": (OK + JSON + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: ", "unknown"),
    "inside an error": (b"HTTP/1.1 500 X\r\n" + JSON + b"content-length: 100\r\n\r\n{", "not_billed"),
}
BROKEN = {
    "a chunk size of letters": b"xyz\r\n",
    "a chunk size below zero": b"-5\r\nhello\r\n",
    "a chunk size of nine digits": b"100000000\r\n",
    "a chunk longer than its size": b"2\r\nhello\r\n",
    "a chunk ended by LF": b"5\r\nhello\n",
    "an extension of 2,000 bytes": b"5;" + b"x" * 2_000 + b"\r\nhello\r\n",
    "a trailer that is none": b"0\r\nX y\r\n\r\n",
    "trailers of 20,000 bytes": b"0\r\n" + b"X: y\r\n" * 4_000 + b"\r\n",
    "bytes behind its end": b"0\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
}


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize(("raw", "source"), CUT.values(), ids=CUT.keys())
def test_an_answer_that_is_cut_is_seen_as_cut(raw: bytes, source: str, how: str, attack: Any) -> None:
    sent = threading.Event()

    def plan(line: Any, _: Any) -> None:
        line.send(raw)
        sent.wait(20)
        getattr(line, how)()

    with attack.client() as client:
        client.send(attack.request(lines=attack.plan(plan)))
        client.unread = client.sock.recv(65_536)  # its head is here
        sent.set()
        got = client.answer("POST")
        assert not got.whole
        assert client.closed()
    entry = attack.entry()
    assert (entry["usage_source"], entry["outcome"]) == (source, "upstream_error")


@pytest.mark.parametrize("raw", BROKEN.values(), ids=BROKEN.keys())
def test_an_answer_whose_chunks_break_is_seen_as_cut(raw: bytes, attack: Any) -> None:
    sent = threading.Event()

    def plan(line: Any, _: Any) -> None:
        line.send(OK + JSON + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
        sent.wait(20)
        line.send(raw)
        assert line.closed_by_gateway()

    with attack.client() as client:
        client.send(attack.request(lines=attack.plan(plan)))
        client.unread = client.sock.recv(65_536)
        sent.set()
        assert not client.answer("POST").whole
    entry = attack.entry()
    assert (entry["usage_source"], entry["outcome"]) == ("unknown", "upstream_error")


def test_an_answer_that_stalls_is_seen_as_cut(hasty_attack: Any) -> None:
    def plan(line: Any, _: Any) -> None:
        line.send(OK + JSON + b"content-length: 100\r\n\r\nhello")
        assert line.closed_by_gateway()

    with hasty_attack.client() as client:
        got = client.send(hasty_attack.request(lines=hasty_attack.plan(plan))).answer("POST")
        assert (got.whole, got.body) == (False, b"hello")
    entry = hasty_attack.entry()
    assert (entry["usage_source"], entry["outcome"]) == ("unknown", "upstream_timeout")


# Headers of OpenAI's


def test_headers_of_one_hop_and_of_the_account_do_not_reach_the_client(attack: Any, words: Any) -> None:
    lines = (
        b"connection: keep-alive, x-hop\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\nproxy-authenticate: Basic\r\nupgrade: h2c\r\n"
        b"trailer: x-t\r\nte: trailers\r\nopenai-organization: org-ours\r\nopenai-project: proj-ours\r\nx-ratelimit-remaining-tokens: 1\r\n"
        b"X-RateLimit-Limit-Evil: 1\r\nx-gateway-request-id: forged\r\nset-cookie: a=1\r\nSet-Cookie: b=2\r\nx-odd: \xe9\t!\r\n"
        b"x-request-id: req_theirs\r\nX-Should-Retry: true\r\n"
    )
    with attack.client() as client:
        client.send(attack.request(lines=attack.plan(counted(words.answer, b"200 OK", lines))))
        got = client.answer("POST")
    gone = ("x-hop", "keep-alive", "proxy-authenticate", "upgrade", "trailer", "te", "openai-organization", "openai-project", "connection")
    assert not set(gone) & set(got.headers)
    assert got.headers["x-ratelimit-remaining-tokens"] != "1"
    assert "x-ratelimit-limit-evil" not in got.headers
    assert got.headers["x-gateway-request-id"] == attack.entry()["exchange_id"]
    assert (got.headers["set-cookie"], got.headers["x-odd"], got.headers["x-request-id"]) == ("b=2", "\xe9\t!", "req_theirs")


@pytest.mark.parametrize("status", ["401 Unauthorized", "401"])
@pytest.mark.parametrize("body", [b"", b"\xff", b"<html>", b'{"error":{"message":"Incorrect API key provided: sk-ups****"}}'])
def test_a_401_of_any_kind_is_the_accounts(status: str, body: bytes, attack: Any, words: Any, assert_openai_error: Any) -> None:
    with attack.client() as client:
        got = client.send(attack.request(lines=attack.plan(words.counted(body, status)))).answer("POST")
        assert_openai_error(got.status, got.headers, got.body, 502, "account_refused")


# Answers to nobody


def test_an_answer_on_an_idle_connection_is_nobodys(attack: Any, words: Any) -> None:
    """It comes before the next request: taken for that one's answer, every answer after it would be another's."""
    with attack.client() as client:
        assert client.send(attack.request()).answer("POST").status == 200
        line = attack.upstream.lines[attack.seen()[0].connection]
        line.send(words.counted(b'{"evil":true}'))
        attack.until(lambda: gone(line), bool, "the gateway has closed it")
        for _ in range(3):
            assert client.send(attack.request()).answer("POST").body == words.answer
    assert attack.seen()[1].connection != attack.seen()[0].connection


def gone(line: Any) -> bool:
    """Whether the other side has closed: then sending fails sooner or later."""
    return line.sock.fileno() < 0


@pytest.mark.parametrize("raw", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 408 X\r\nconnection: close\r\n\r\n", b"\r\n", b"x"])
def test_anything_on_an_idle_connection_ends_it(raw: bytes, attack: Any, words: Any) -> None:
    with attack.client() as client:
        assert client.send(attack.request()).answer("POST").status == 200
        line = attack.upstream.lines[attack.seen()[0].connection]
        line.send(raw)
        attack.until(lambda: gone(line), bool, "the gateway has closed it")
        assert client.send(attack.request()).answer("POST").body == words.answer


def test_an_answer_before_the_request_is_whole_is_the_answer(attack: Any, words: Any) -> None:
    body = b'{"model":"gpt-4o","messages":[],"user":"' + b"u" * 4_000_000 + b'"}'
    refusal = b'{"error":{"message":"too large"}}'
    attack.may_be_cut = {"client_error"}  # the rest of the body goes on, or the connection is closed
    attack.upstream.early = words.counted(refusal, "413 X")
    with attack.client() as client:
        got = client.send(attack.request(body)).answer("POST")
        assert (got.status, got.body) == (413, refusal)
        for _ in range(3):
            assert client.send(attack.request()).answer("POST").body == words.answer
    assert [entry["usage_source"] for entry in attack.entries()] == ["not_billed", "reported", "reported", "reported"]


# The same over TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For 127.0.0.1, signed by itself; certificate and key in one file."""
    folder = tmp_path_factory.mktemp("tls")
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    argv += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    subprocess.run(argv, check=True, capture_output=True)
    (folder / "both.pem").write_bytes((folder / "certificate.pem").read_bytes() + (folder / "key.pem").read_bytes())
    return folder / "both.pem"


def test_over_tls_an_evil_openai_does_no_more(
    certificate: Path, start_place: Any, words: Any, assert_openai_error: Any, until: Any
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    account = f', ca_file: "{certificate.with_name("certificate.pem")}"'
    with start_place(tls=context, account=account) as place, place.client() as client:
        plans, expected = place.upstream.plans, 0
        for name, (raw, status, whole) in {
            "garbage": (b"garbage\r\n\r\n", 502, True),
            "bad framing": (NO_ANSWER["a length and chunks"], 502, True),
            "two": (counted(words.answer) * 2, 502, True),
            "good": (counted(words.answer), 200, True),
            "to the close": (OK + JSON + END + words.answer, 200, True),
        }.items():
            plans[name] = lambda line, _, raw=raw: (line.send(raw), line.close() if raw.startswith(OK + JSON + END) else None)
            got = client.send(place.request(lines=f"x-attack: {name}\r\n")).answer("POST")
            assert (got.status, got.whole) == (status, whole), name
            expected += 1
        place.upstream.lines[-1].send(counted(b'{"evil":true}'))
        assert client.send(place.request()).answer("POST").body == words.answer
        assert len(place.settled(0)) == expected + 1
        assert place.role("worker") == place.worker_pid
        assert place.upstream.faults == []
