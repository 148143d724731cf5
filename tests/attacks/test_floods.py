"""Who sends or is sent without end: the worker's memory stays bounded, and others are served meanwhile.

Each flood is many times its bound, so that a worker that kept what came would fail by far.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

MIB = 1_048_576
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
JSON = SSE.replace(b"text/event-stream", b"application/json")
STREAM = b'{"model":"gpt-4o","messages":[],"stream":true,"max_tokens":50}'
PAD = b"X-Pad: " + b"p" * 500 + b"\r\n"


@contextmanager
def grows_less_than(place: Any, mib: int) -> Iterator[Callable[[], None]]:
    """Fails when the worker's private memory grows by more at any look; gives the look."""
    before = place.memory_bytes()

    def look() -> None:
        grown = (place.memory_bytes() - before) / MIB
        assert grown < mib, f"the worker grew by {grown:.0f} MiB"

    yield look
    look()


def pour(sock: socket.socket, data: bytes, look: Callable[[], None], bytes_max: int) -> int:
    """Send the same again and again until nobody takes it for a while, or so much was taken; how many bytes that was."""
    sent = at = 0
    sock.settimeout(3)
    view = memoryview(data)
    while sent < bytes_max:
        try:
            count = sock.send(view[at : at + 262_144])
        except (TimeoutError, BrokenPipeError, ConnectionResetError):
            break
        at = (at + count) % len(data)
        sent += count
        look()
    look()
    return sent


def few_receive(client: Any) -> None:
    """Little, so that what is not read soon waits in the gateway."""
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /v1/files HTTP/1.1\r\nHost: a\r\n" + PAD + b"\r\n",
        b"GET /x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer KEY\r\n" + PAD + b"\r\n",
    ],
    ids=["without a key", "of no path"],
)
def test_refusals_that_nobody_reads_do_not_pile_up(raw: bytes, attack: Any) -> None:
    with grows_less_than(attack.place, 12) as look, attack.client() as client:
        few_receive(client)
        pour(client.sock, attack.with_key(raw) * 500, look, 60 * MIB)  # the refusals of that are 35 MiB


def test_answers_that_nobody_reads_do_not_pile_up(attack: Any, words: Any) -> None:
    attack.may_be_cut = {"client_gone"}
    lines = attack.plan(words.counted(b"[" + b"1," * 50_000 + b"1]"))
    with grows_less_than(attack.place, 60) as look, attack.client() as client:
        few_receive(client)
        pour(client.sock, attack.request(lines=lines + "X-Pad: " + "p" * 50_000 + "\r\n") * 10, look, 60 * MIB)
    assert len(attack.seen()) < 500


def test_large_bodies_pipelined_behind_a_slow_call_wait_in_the_socket(attack: Any, words: Any) -> None:
    over = threading.Event()

    def plan(line: Any, _: Any) -> None:
        over.wait(60)
        line.send(words.counted(words.answer))

    attack.may_be_cut = {"client_gone"}
    slow = attack.request(lines=attack.plan(plan))
    big = attack.request(b'{"model":"gpt-4o","messages":[],"user":"' + b"u" * 1_000_000 + b'"}')
    with grows_less_than(attack.place, 40) as look, attack.client() as client:
        client.send(slow)
        assert pour(client.sock, big, look, 60 * MIB) < 24 * MIB
        client.sock.settimeout(30)
        over.set()
        assert client.answer("POST").status == 200


def test_a_stream_that_nobody_reads_stops_at_openai(attack: Any) -> None:
    over = threading.Event()
    sent = [0]
    event = b"data: " + b'{"id":"c","choices":[{"index":0,"delta":{"content":"' + b"x" * 4_000 + b'"},"finish_reason":null}]}\n\n'
    chunk = b"%x\r\n%b\r\n" % (len(event), event) * 16

    def plan(line: Any, _: Any) -> None:
        line.send(SSE)
        line.sock.settimeout(0.2)
        while not over.is_set():
            with suppress(TimeoutError):
                try:
                    sent[0] += line.sock.send(chunk)
                except OSError:
                    return

    with grows_less_than(attack.place, 40) as look, attack.client() as client:
        few_receive(client)
        client.send(attack.request(STREAM, attack.plan(plan)))
        last, end_s = -1, time.monotonic() + 30
        while sent[0] != last:  # until OpenAI can send no more
            assert time.monotonic() < end_s
            last = sent[0]
            look()
            threading.Event().wait(0.5)
        assert sent[0] > 100_000
        with attack.client() as other:
            assert other.send(attack.request()).answer("POST").status == 200
    over.set()


ENDLESS = {
    "JSON": (JSON, b'["' + b"x" * 65_000 + b'"],', 90),
    "one event": (SSE, b"data: " + b"x" * 65_000, 60),
    "comments": (SSE, b": " + b"x" * 65_000 + b"\n", 60),
    "events that end": (SSE, b"data: " + b"x" * 65_000 + b"\n\n", 60),
    "white space": (SSE, b" " * 65_000, 60),
    "line ends of CR": (SSE, b"data: {}\r\r" * 6_500, 60),
    "line ends": (SSE, b"\n" * 65_000, 60),
    "a list of models": (JSON, b'{"id":"x"},' * 6_000, 60),
    "bytes to the close": (b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\n\r\n", b"x" * 65_000, 60),
}  # fmt: skip


@pytest.mark.parametrize(("head", "piece", "mib"), ENDLESS.values(), ids=ENDLESS.keys())
def test_an_answer_without_end_is_not_kept(head: bytes, piece: bytes, mib: int, attack: Any) -> None:
    """200 MB pass, and the client reads them."""
    chunk = piece if b"chunked" not in head else b"%x\r\n%b\r\n" % (len(piece), piece)
    count = 200_000_000 // len(chunk)

    def plan(line: Any, _: Any) -> None:
        line.send(head)
        for _ in range(count):
            line.send(chunk)
        line.close()

    lines = attack.plan(plan)
    lists = piece.startswith(b'{"id"')
    lines += "Connection: close\r\n"
    raw = attack.head("GET", "/v1/models", lines) if lists else attack.request(STREAM, lines)
    with grows_less_than(attack.place, mib) as look, attack.client() as client:
        client.send(raw)
        got, looked = 0, 0
        while data := recv(client.sock):
            got += len(data)
            if got - looked > 20 * MIB:
                look()
                looked = got
    assert got > 150_000_000 or lists
    assert attack.entry()["usage_source"] in ("unknown", "not_billed", "estimated")


def recv(sock: socket.socket) -> bytes:
    try:
        return sock.recv(1_048_576)
    except ConnectionResetError:
        return b""


def test_connections_that_say_nothing_cost_little_and_go(attack: Any) -> None:
    count = 400
    files = attack.place.open_files()
    with grows_less_than(attack.place, 40):
        idle = [attack.client() for _ in range(count)]
        for client in idle[::2]:
            client.send(b"GET /v1/fi")
        attack.until(attack.place.open_files, lambda found: found >= files + count, "all are connected")
        for client in idle:
            client.sock.close()
    attack.until(attack.place.open_files, lambda found: found < files + 20, "all are gone")
