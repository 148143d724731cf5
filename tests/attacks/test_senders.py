"""Clients that wait, stop, leave, or send before they are asked: who expects 100, HEAD, slow senders, half-closed sockets, pipelines."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
UPLOAD = b"POST /v1/files HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer KEY\r\n"  # the team's key is put in its place
CALL = UPLOAD.replace(b"files", b"chat/completions")
GET = UPLOAD.replace(b"POST", b"GET")
STREAM = b'{"model":"gpt-4o","messages":[],"stream":true,"max_tokens":50}'


# Expect: 100-continue


@pytest.mark.parametrize("said", ["100-continue", "100-Continue", "100-CONTINUE"])
@pytest.mark.parametrize("framing", ["counted", "chunked"])
def test_a_body_that_is_held_back_is_asked_for_once(framing: str, said: str, attack: Any, words: Any) -> None:
    lines = f"Expect: {said}\r\n" + ("Transfer-Encoding: chunked\r\n" if framing == "chunked" else f"Content-Length: {len(words.chat)}\r\n")
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(words.chat), words.chat) if framing == "chunked" else words.chat
    with attack.client() as client:
        client.send(attack.head("POST", "/v1/chat/completions", lines))
        assert client.sock.recv(65_536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        for part in (body[:10], body[10:]):
            client.send(part)
        got = client.answer("POST")
        assert (got.status, got.body, got.interim) == (200, words.answer, [])
        assert client.send(attack.request()).answer("POST").status == 200
    assert attack.seen()[0].header("expect") is None


REFUSED_BEFORE = {
    "a key nobody knows": (("POST", "/v1/chat/completions", "Authorization: Bearer x\r\nContent-Length: 9\r\n"), 401, "invalid_api_key"),
    "a path nobody knows": (("POST", "/x", "Content-Length: 9\r\n"), 404, None),
    "a body too large": (("POST", "/v1/chat/completions", "Content-Length: 9000000\r\n"), 413, None),
    "framing that is not plain": (("POST", "/v1/chat/completions", "Content-Length: 9\r\nTransfer-Encoding: chunked\r\n"), 400, None),
}


@pytest.mark.parametrize(("head", "status", "code"), REFUSED_BEFORE.values(), ids=REFUSED_BEFORE.keys())
def test_a_body_that_is_held_back_is_not_asked_for_where_its_head_is_refused(
    head: tuple[str, str, str], status: int, code: str | None, attack: Any, assert_openai_error: Any
) -> None:
    method, target, lines = head
    raw = attack.head(method, target, lines + "Expect: 100-continue\r\n")
    if "Bearer x" in lines:
        raw = raw.replace(b"Authorization: Bearer " + attack.place.keys["voice"].encode() + b"\r\n", b"")
    with attack.client() as client:
        got = client.send(raw).answer("POST")
        assert_openai_error(got.status, got.headers, got.body, status, code)
        assert got.interim == []
        assert client.closed(), "what comes next could be the body or another request"
    assert attack.seen() == []


@pytest.mark.parametrize("said", ["200-ok", "100-continue, x", "x", "100-continue;q=1"])
def test_an_expectation_nobody_can_meet_is_417(said: str, attack: Any, words: Any, assert_openai_error: Any) -> None:
    with attack.client() as client:
        got = client.send(attack.request(lines=f"Expect: {said}\r\n")).answer("POST")
        assert_openai_error(got.status, got.headers, got.body, 417)
    assert attack.seen() == []


def test_an_expectation_in_http_1_0_is_not_heard(attack: Any, words: Any) -> None:
    lines = f"Expect: 100-continue\r\nContent-Length: {len(words.chat)}\r\n"
    with attack.client() as client:
        got = client.send(attack.head("POST", "/v1/chat/completions", lines, version="HTTP/1.0") + words.chat).answer("POST")
        assert (got.status, got.interim, got.body) == (200, [], words.answer)
        assert client.closed()


def test_a_body_that_does_not_wait_to_be_asked_for_is_taken(attack: Any, words: Any) -> None:
    with attack.client() as client:
        got = client.send(attack.request(lines="Expect: 100-continue\r\n") * 2).answer("POST")
        again = client.answer("POST")
        assert (got.body, again.body) == (words.answer, words.answer)
        assert (got.interim + again.interim) in ([], [100], [100, 100])


# HEAD


MISBEHAVING = {
    "a head only": b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
    "a head of a chunked answer": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
    "an answer to the close": b"HTTP/1.1 200 OK\r\n\r\n",
    "304 with a length": b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n",
}


@pytest.mark.parametrize("raw", MISBEHAVING.values(), ids=MISBEHAVING.keys())
def test_an_answer_to_head_has_no_body_and_the_connection_stays_in_step(raw: bytes, attack: Any, words: Any) -> None:
    line = attack.plan(raw)
    with attack.client() as client:
        for _ in range(3):
            got = client.send(attack.head("HEAD", "/v1/files", line)).answer("HEAD")
            assert (got.body, got.whole) == (b"", True)
            assert client.send(attack.request()).answer("POST").body == words.answer
    assert [seen.method for seen in attack.seen()] == ["HEAD", "POST"] * 3


@pytest.mark.parametrize("later", [False, True], ids=["at once", "a moment later"])
def test_a_body_behind_an_answer_to_head_is_nobodys_answer(later: bool, attack: Any, words: Any, assert_openai_error: Any) -> None:
    """It must not be read as the answer to the next call on that connection to OpenAI."""
    evil = words.counted(b'{"evil":true}')
    told = threading.Event()

    def plan(line: Any, _: Any) -> None:
        line.send(words.counted(b"hello")[:-5] if later else words.counted(b"hello") + evil)
        if later:
            assert told.wait(20)
            line.send(b"hello" + evil)

    lines = attack.plan(plan)
    with attack.client() as client:
        got = client.send(attack.head("HEAD", "/v1/files", lines)).answer("HEAD")
        assert (got.status, got.body) == (200 if later else 502, b"")
        told.set()
        assert attack.upstream.lines[attack.seen()[0].connection].closed_by_gateway()
        assert client.send(attack.request()).answer("POST").body == words.answer


# Slow senders


SLOW = {
    "a request line": b"POST /v1/chat/comp",
    "HTTP/0.9, which never says that it is over": b"GET /v1/files\r\n",
    "a head": b"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\n",
    "a head that lacks one byte": b"GET /v1/files HTTP/1.1\r\nHost: gateway\r\n\r",
    "a counted body": CALL + b"Content-Length: 9\r\n\r\n{",
    "a chunk": UPLOAD + b"Transfer-Encoding: chunked\r\n\r\n9\r\nhe",
    "the end of the chunks": UPLOAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n",
    "a body that was asked for": UPLOAD + b"Expect: 100-continue\r\nContent-Length: 9\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("raw", SLOW.values(), ids=SLOW.keys())
def test_who_stops_inside_a_request_is_told_408(raw: bytes, hasty_attack: Any, assert_openai_error: Any) -> None:
    with hasty_attack.client() as client:
        got = client.send(hasty_attack.with_key(raw)).answer("POST")
        assert_openai_error(got.status, got.headers, got.body, 408)
        assert got.headers["connection"] == "close"
        assert client.closed()
    assert hasty_attack.seen() == []


def test_a_head_that_drips_without_end_is_not_waited_for(hasty_attack: Any, assert_openai_error: Any) -> None:
    """Each byte comes in time; the head as a whole does not."""
    over = threading.Event()
    with hasty_attack.client() as client:

        def drip() -> None:
            client.send(b"GET /v1/files HTTP/1.1\r\nX: ")
            while not over.wait(0.05):
                client.send(b"y")

        dripping = threading.Thread(target=drip)
        dripping.start()
        got = client.answer()
        over.set()
        dripping.join()
        assert_openai_error(got.status, got.headers, got.body, 408)
        assert client.closed()


@pytest.mark.parametrize("before", [0, 1], ids=["at first", "behind an answer"])
def test_a_client_that_says_nothing_is_closed_without_a_word(before: int, hasty_attack: Any) -> None:
    with hasty_attack.client() as client:
        for _ in range(before):
            assert client.send(hasty_attack.request()).answer("POST").status == 200
        assert client.closed()


@pytest.mark.parametrize("tail", [b"GET /v1/fi", b"POST /v1/files HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{"], ids=["head", "body"])
def test_who_stops_inside_a_request_behind_a_good_one_is_told_in_turn(tail: bytes, hasty_attack: Any, words: Any) -> None:
    with hasty_attack.client() as client:
        client.send(hasty_attack.request() + tail)
        assert client.answer("POST").body == words.answer
        assert client.answer("POST").status in (408, 401)  # 401: its head was whole, and named no key
        assert client.closed()


# Half-closed and closed sockets


@pytest.mark.parametrize(
    "raw",
    [b"", b"GET /v1/fi", UPLOAD + b"Content-Length: 9\r\n\r\n{"],
    ids=["nothing sent", "inside a head", "inside a body"],
)
@pytest.mark.parametrize("how", ["half", "reset"])
def test_who_stops_sending_for_good_inside_a_request_has_left(raw: bytes, how: str, attack: Any) -> None:
    with attack.client() as client:
        client.send(attack.with_key(raw))
        if how == "half":
            client.sock.shutdown(socket.SHUT_WR)
            while client.sock.recv(65_536):
                pass
        else:
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert attack.seen() == []


@pytest.mark.parametrize("how", ["half", "closed", "reset"])
def test_who_leaves_while_openai_thinks_is_booked_once_and_openai_told(how: str, attack: Any) -> None:
    asked = threading.Event()
    left: list[bool] = []

    def plan(line: Any, _: Any) -> None:
        asked.set()
        left.append(line.closed_by_gateway())

    raw = attack.request(lines=attack.plan(plan))
    with attack.client() as client:
        client.send(raw)
        assert asked.wait(20)
        if how == "half":
            client.sock.shutdown(socket.SHUT_WR)
            assert client.closed()
        elif how == "reset":
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    entry = attack.entry()
    assert (entry["outcome"], entry["usage_source"]) == ("client_gone", "unknown")
    attack.until(lambda: left, bool, "OpenAI's connection is closed")


def test_who_leaves_with_pipelined_calls_unserved_is_not_billed_for_them(attack: Any) -> None:
    asked = threading.Event()

    def plan(line: Any, _: Any) -> None:
        asked.set()
        line.closed_by_gateway()

    lines = attack.plan(plan)
    with attack.client() as client:
        client.send(attack.request(lines=lines) + attack.request() * 20)
        assert asked.wait(20)
    assert attack.entry()["outcome"] == "client_gone"


# Pipelines


def test_many_in_one_write_are_answered_in_their_order(attack: Any) -> None:
    count = 200  # far more than are read ahead
    attack.plan(lambda line, seen: line.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(seen.body), seen.body)))
    raws = [attack.request(b'{"model":"gpt-4o","messages":[],"user":"%d"}' % n, f"x-attack: {attack.name}\r\n") for n in range(count)]
    with attack.client() as client:
        threading.Thread(target=client.send, args=(b"".join(raws),), daemon=True).start()
        for number in range(count):
            assert client.answer("POST").body == b'{"model":"gpt-4o","messages":[],"user":"%d"}' % number
    assert len(attack.seen()) == count


BAD = {
    "garbage": (b"GARBAGE\r\n\r\n", 400, True),
    "bad framing": (b"POST /v1/files HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello", 400, True),
    "no key": (b"GET /v1/files HTTP/1.1\r\nHost: a\r\n\r\n", 401, False),
    "no such path": (b"GET /x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer KEY\r\n\r\n", 404, False),
    "a body that is no JSON": (CALL + b"Content-Length: 1\r\n\r\n{", 400, False),
    "a body too large": (UPLOAD + b"Content-Length: 5000000\r\n\r\n", 413, True),
    "an expectation": (UPLOAD + b"Expect: x\r\nContent-Length: 1\r\n\r\n{", 417, True),
    "an upgrade": (GET + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n", 200, False),
    "its last": (GET + b"Connection: close\r\n\r\n", 200, True),
}  # fmt: skip


@pytest.mark.parametrize(("bad", "status", "ends"), BAD.values(), ids=BAD.keys())
def test_a_bad_one_in_the_middle_is_answered_in_its_turn(bad: bytes, status: int, ends: bool, attack: Any, words: Any) -> None:
    good = attack.request()
    with attack.client() as client:
        client.send(good * 2 + attack.with_key(bad) + good * 2)
        assert [client.answer("POST").body for _ in range(2)] == [words.answer] * 2
        assert client.answer().status == status
        if ends:
            assert client.closed()
        else:
            assert [client.answer("POST").body for _ in range(2)] == [words.answer] * 2
    assert len(attack.seen()) == 2 + (status == 200) + (0 if ends else 2)


def test_what_is_pipelined_behind_a_stream_waits_for_its_end(attack: Any, words: Any) -> None:
    go = threading.Event()

    def plan(line: Any, _: Any) -> None:
        line.send(SSE + b"6\r\n: one\n\r\n")
        assert go.wait(20)
        line.send(b"8\r\ndata: x\n\r\n0\r\n\r\n")

    lines = attack.plan(plan)
    with attack.client() as client:
        client.send(attack.request(STREAM, lines) + attack.request() * 3)
        while not client.unread.endswith(b": one\n\r\n"):  # the stream has begun: nothing behind it may be asked yet
            client.unread += client.sock.recv(65_536)
            if b"HTTP" in client.unread and attack.seen():
                break
        assert len(attack.seen()) == 1
        go.set()
        assert client.answer("POST").body.endswith(b"data: x\n")
        assert [client.answer("POST").body for _ in range(3)] == [words.answer] * 3
    assert len(attack.seen()) == 4


def slowly(body: bytes) -> Any:
    """A plan: a stream that takes longer than a head, a body or an idle connection may, in pieces, so that it is no stall of OpenAI's."""

    def plan(line: Any, _: Any) -> None:
        line.send(SSE)
        for _ in range(40):
            line.send(b"8\r\n: wait\n\n\r\n")
            threading.Event().wait(0.05)
        line.send(body)

    return plan


AHEAD = {
    "300 calls of 7 KB": (300, b'{"model":"gpt-4o","messages":[]}', "x-pad: " + "p" * 7_000 + "\r\n"),
    "4 calls of 3 MB": (4, b'{"model":"gpt-4o","messages":[],"user":"%b"}' % (b"u" * 3_000_000), ""),
}


@pytest.mark.parametrize(("count", "body", "lines"), AHEAD.values(), ids=AHEAD.keys())
def test_what_waits_because_the_gateway_reads_no_further_is_not_called_slow(
    count: int, body: bytes, lines: str, hasty_attack: Any, words: Any
) -> None:
    """More is pipelined than is read ahead, behind an answer that takes longer than a head may; and so does the next."""
    lines += hasty_attack.plan(slowly(b"0\r\n\r\n"))
    slow = hasty_attack.request(STREAM, lines)
    ahead = hasty_attack.request(body, lines.partition("x-attack")[0])
    last = hasty_attack.request(body.replace(b"}", b',"stream":true}'), lines)
    with hasty_attack.client() as client:
        threading.Thread(target=client.send, args=(slow + ahead * count + last + ahead,), daemon=True).start()
        assert client.answer("POST").status == 200
        for _ in range(count):
            assert client.answer("POST").body == words.answer
        assert client.answer("POST").status == 200
        assert client.answer("POST").body == words.answer
    assert len(hasty_attack.seen()) == count + 3
