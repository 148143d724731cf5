"""Requests over a connection fed by hand. Oracle: h11, which must never refuse what we forward, and must read the same."""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import h11

from gateway.endpoints.route import route
from gateway.errors import ApiError
from gateway.relay.call import Call, Client
from gateway.relay.deadlines import Deadlines
from gateway.relay.head import upstream_head, without_credentials
from gateway.server.answer import Answer, Finished
from gateway.server.connection import Bounds, ClientConnection
from gateway.server.cors import Cors
from gateway.server.open_connections import OpenConnections

from .target import Seeds, control, cut

BOUNDS = Bounds(
    head_bytes_max=512, body_bytes_max=256, head_timeout_ms=1_000, body_timeout_ms=1_000, idle_timeout_ms=1_000, write_timeout_ms=1_000
)
WIDE = Bounds(
    head_bytes_max=65_536, body_bytes_max=2**24, head_timeout_ms=1_000, body_timeout_ms=1_000, idle_timeout_ms=1_000, write_timeout_ms=1_000
)
NO_KEY = ApiError(401, "invalid_request_error", "You did not provide a key.")
ACCOUNT_LINES = b"host: api.openai.com\r\nauthorization: Bearer sk-upstream\r\n"


class Turns:
    """A loop that turns when it is told to, and whose clock stands."""

    def __init__(self) -> None:
        self._soon: deque[Callable[[], None]] = deque()

    def time(self) -> float:
        return 1.0

    def call_soon(self, call: Callable[[], None]) -> None:
        self._soon.append(call)

    def turn(self) -> None:
        while self._soon:
            self._soon.popleft()()


class Wire(asyncio.Transport):
    """The transport of a socket whose other end takes everything."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.reading = True
        self.over = False  # closed or aborted: nothing is read any more
        self.ended = False  # our side has ended

    def write(self, data: bytes | bytearray | memoryview[int]) -> None:
        assert not self.over, "written to a transport that is closed"
        assert not self.ended, "written behind our own end"
        self.sent += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None:
        self.over = True

    abort = close

    def is_closing(self) -> bool:
        return self.over

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return 0

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return 0, 65_536


@dataclass
class Served:
    """A call whose body came whole."""

    method: str
    path: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    http_10: bool


class Door:
    """A connection fed by hand. `early`: calls are refused before their body is there; `held`: answered when all bytes have come."""

    def __init__(self, bounds: Bounds, *, early: bool = False, held: bool = False, cors: Cors | None = None) -> None:
        self.served: list[Served] = []
        self.calls: list[Call] = []
        self.asked: list[str] = []  # the method that each answer is for
        self.broke: list[BaseException] = []
        self.wire = Wire()
        self._early, self._held = early, held
        self._waiting: deque[Callable[[], None]] = deque()
        self._turns = Turns()
        self._open = OpenConnections()
        loop = cast(asyncio.AbstractEventLoop, self._turns)
        serve = self._serve if cors is None else cors.serving(self._serve)
        make = Answer if cors is None else cors.make_answer

        def make_answer(call: Call, transport: asyncio.Transport, finished: Finished, *, close: bool) -> Answer:
            self.asked.append(call.method)
            return make(call, transport, finished, close=close)

        self._connection = ClientConnection(loop, bounds, serve, Deadlines(), self._open, self.broke.append, make_answer)
        self._connection.connection_made(self.wire)

    def feed(self, pieces: list[bytes]) -> None:
        """Read these, as far as the connection reads, and let the peer close."""
        for piece in pieces:
            if self.wire.over:
                break
            while not self.wire.reading and self._waiting:
                self._answer_one()
            assert self.wire.reading, "it reads no more, and nothing will make it"
            self._connection.data_received(piece)
            self._turns.turn()
        while self._waiting and not self.wire.over:
            self._answer_one()
        if not self.wire.over:
            self._connection.eof_received()
            self._turns.turn()
        while self._waiting:
            self._answer_one()
        self._connection.connection_lost(None)
        self._turns.turn()
        assert not len(self._open)
        assert all(call.received.opened for call in self.calls), "an exchange waits for a body for ever"

    def _answer_one(self) -> None:
        self._waiting.popleft()()
        self._turns.turn()

    async def _serve(self, call: Call, client: Client) -> None:
        self.calls.append(call)
        if self._early:
            client.refuse(NO_KEY)
            return
        problem = await call.received
        if problem is not None:
            client.refuse(problem)
            return
        body = call.body()
        self.served.append(Served(call.method, call.path, call.query, call.headers, body, call.http_10))

        def answer() -> None:
            client.begin(200, b"\r\nx-request-id: req_1", len(call.path), has_body=True)
            client.finish(call.path)

        if self._held:
            self._waiting.append(answer)
        else:
            answer()


def check_requests(data: bytes) -> None:
    """However cut: the same calls, each one that h11 reads alike, each sent on as exactly one request, every answer well formed."""
    flags, how, wire = control(data)
    bounds = WIDE if flags & 1 else BOUNDS
    cors = Cors(["*"] if flags & 16 else ["https://a"]) if flags & 8 else None
    whole = _fed(bounds, [wire] if wire else [], early=bool(flags & 2), held=bool(flags & 4), cors=cors)
    pieces = _fed(bounds, list(cut(wire, how)), early=bool(flags & 2), held=bool(flags & 4), cors=cors)
    statuses = _statuses(bytes(whole.wire.sent), whole.asked)
    assert pieces.served == whole.served, "what is served depends on how the bytes are cut"
    in_pieces = _statuses(bytes(pieces.wire.sent), pieces.asked)
    if flags & 2 and b"expect" in wire.lower():  # refused before its body was there, such a call is the last; with it, it need not be
        statuses = statuses[: len(in_pieces)]
    assert in_pieces == statuses, "what is answered depends on how the bytes are cut"
    if cors is None and not flags & 2:  # otherwise there are requests that are answered and not served
        _check_by_h11(wire, whole.served)
        for served in whole.served:
            _check_sent_on(served)


def grow_requests(wire: bytes) -> None:
    """Feed a connection in reads of a network's size, and in small ones."""
    _fed(WIDE, list(cut(wire, 0)))
    _fed(WIDE, [wire[at : at + 1_400] for at in range(0, len(wire), 1_400)], held=True)
    _fed(WIDE, list(cut(wire, 16)))


def _fed(bounds: Bounds, pieces: list[bytes], *, early: bool = False, held: bool = False, cors: Cors | None = None) -> Door:
    door = Door(bounds, early=early, held=held, cors=cors)
    door.feed(pieces)
    assert not door.broke, f"an exchange or the server broke: {door.broke!r}"
    return door


def _statuses(sent: bytes, methods: list[str]) -> list[tuple[int, bytes]]:
    """(status, body) of every answer, as h11 reads them; errors must have OpenAI's shape."""
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=2**20)
    answers: list[tuple[int, bytes]] = []
    client.receive_data(sent)
    while client.trailing_data[0]:
        method = methods[len(answers)] if len(answers) < len(methods) else "GET"
        client.send(
            h11.Request(method="HEAD" if method == "HEAD" else "POST", target="/", headers=[("host", "a"), ("content-length", "0")])
        )
        client.send(h11.EndOfMessage())
        status, body = 0, b""
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            assert isinstance(event, h11.InformationalResponse | h11.Response | h11.Data), f"an answer is cut: {sent!r}"
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
        if status not in (200, 204) and method != "HEAD":
            error = json.loads(body)["error"]
            assert set(error) == {"message", "type", "param", "code"}
        if status in (400, 413, 431):  # of several faults, the cut decides which is met first
            status, body = 400, b""
        answers.append((status, body))
        if client.our_state is h11.DONE and client.their_state is h11.DONE:
            client.start_next_cycle()
        else:
            assert not client.trailing_data[0], f"more behind the last answer: {sent!r}"
            break
    return answers


def _check_by_h11(wire: bytes, served: list[Served]) -> None:
    """h11 reads the same requests from these bytes, as far as we have served any."""
    closing = False
    for ours in served:
        assert not closing, "served behind a request that ended the connection"
        method, target, headers, body, wire = _next_request(wire)
        assert (method, body) == (ours.method.encode(), ours.body), "h11 reads another request"
        path, _, query = target.partition(b"#")[0].partition(b"?")
        if not target.lower().startswith((b"http:", b"https:")) and path.startswith(b"/"):
            assert (path, query) == (ours.path, ours.query), "h11 reads another target"
        assert headers == [_as_h11_tells(name, value.strip(b" \t")) for name, value in ours.headers], "h11 reads other headers"
        named = b",".join(value for name, value in headers if name == b"connection").lower().split(b",")
        closing = b"close" in [token.strip() for token in named]


def _as_h11_tells(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    return name, value.lower() if name == b"transfer-encoding" else value


def _next_request(wire: bytes) -> tuple[bytes, bytes, list[tuple[bytes, bytes]], bytes, bytes]:
    """(method, target, headers, body) of the first request that h11 reads, and the bytes behind it."""
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=2**20)  # a new one each: h11 keeps no HTTP/1.0 connection
    wire = wire.lstrip(b"\r\n")  # empty lines before a request are to be ignored (RFC 9112 section 2.2)
    server.receive_data(re.sub(rb"\A([^ \r\n]+) +", rb"\1 ", wire))  # llhttp takes any number of spaces there; we send on one
    try:
        asked = server.next_event()
        assert isinstance(asked, h11.Request), f"h11 sees no request where one was served: {asked!r}"
        body = b""
        while not isinstance(event := server.next_event(), h11.EndOfMessage):
            assert isinstance(event, h11.Data), f"h11 sees no whole body where one was served: {event!r}"
            body += bytes(event.data)
    except h11.RemoteProtocolError as refused:
        raise AssertionError(f"served, though h11 refuses it: {refused}") from refused
    headers = [(bytes(name), bytes(value)) for name, value in asked.headers]
    return asked.method, asked.target, headers, body, server.trailing_data[0]


def _check_sent_on(served: Served) -> None:
    """What goes to OpenAI of a call is one request with its body, without the team's credentials and with the account's."""
    where = route(served.method, served.path)
    if isinstance(where, ApiError):
        return
    query = without_credentials(served.query)
    target = b"/v1" + where.upstream_path + (b"?" + query if query else b"")
    bodiless = served.method in ("GET", "HEAD", "DELETE", "OPTIONS") and not served.body
    head = upstream_head(
        served.method.encode(), target, served.headers, account_lines=ACCOUNT_LINES, exchange_id="gx-1",
        content_length=None if bodiless else len(served.body), identity_encoding=True,
    )  # fmt: skip
    method, seen, headers, body, rest = _next_request(head + served.body)
    assert not rest, "bytes behind the request that is sent on"
    assert (method, seen, body) == (served.method.encode(), target, served.body)
    names = [name for name, _ in headers]
    for name in (b"host", b"authorization", b"x-client-request-id", b"accept-encoding"):
        assert names.count(name) == 1, f"{name!r} is sent on {names.count(name)} times"
    assert (b"authorization", b"Bearer sk-upstream") in headers
    assert not {b"connection", b"transfer-encoding", b"te", b"upgrade", b"expect", b"api-key"} & set(names)


def request_seeds() -> Seeds:
    """Every framing, and what smugglers try."""
    host = b"Host: a\r\n"
    chunked = b"POST /v1/chat/completions HTTP/1.1\r\n" + host + b"Transfer-Encoding: chunked\r\n\r\n"
    wires = {
        "get": b"GET /v1/models?api-key=k&x=1 HTTP/1.1\r\n" + host + b"\r\n",
        "post": b"POST /v1/chat/completions HTTP/1.1\r\n" + host + b"Content-Length: 5\r\nAuthorization: Bearer gk-1\r\n\r\nhello",
        "chunked": chunked + b'5;a="b"\r\nhello\r\n0\r\nX-Trailer: 1\r\n\r\n',
        "pipelined": b"GET /v1/models HTTP/1.1\r\n" + host + b"\r\n" + b"POST /v1/a HTTP/1.1\r\n" + host + b"Content-Length: 2\r\n\r\n{}",
        "many pipelined": b"GET / HTTP/1.1\r\nHost:a\r\n\r\n" * 38,
        "length and coding": b"POST / HTTP/1.1\r\n" + host + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "two lengths": b"POST / HTTP/1.1\r\n" + host + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "length list": b"POST / HTTP/1.1\r\n" + host + b"Content-Length: 5, 5\r\n\r\nhello",
        "coding list": b"POST / HTTP/1.1\r\n" + host + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "coding by tab": b"POST / HTTP/1.1\r\n" + host + b"Transfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n",
        "space before colon": b"POST / HTTP/1.1\r\n" + host + b"Transfer-Encoding : chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        "folded": b"GET / HTTP/1.1\r\n" + host + b"X: a\r\n b\r\n\r\n",
        "bare LF": b"GET / HTTP/1.1\nHost: a\n\n",
        "bare CR": b"GET / HTTP/1.1\r\n" + host + b"X: a\rb\r\n\r\n",
        "chunk in LF": chunked + b"5\nhello\n0\n\n",
        "chunk too long": chunked + b"5\r\nhello!\r\n0\r\n\r\n",
        "huge chunk": chunked + b"fffffffffffffffff\r\nx",
        "expect": b"POST /v1/a HTTP/1.1\r\n" + host + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
        "upgrade": b"GET /v1/a HTTP/1.1\r\n"
        + host
        + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\nGET /b HTTP/1.1\r\n"
        + host
        + b"\r\n",
        "upgrade with body": b"POST /v1/a HTTP/1.1\r\n" + host + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\n{}",
        "1.0": b"GET /v1/models HTTP/1.0\r\n\r\n",
        "1.0 kept": b"GET /v1/models HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\n\r\n",
        "absolute": b"GET http://a/v1/models HTTP/1.1\r\n" + host + b"\r\n",
        "connect": b"CONNECT a:443 HTTP/1.1\r\n" + host + b"\r\n",
        "asterisk": b"OPTIONS * HTTP/1.1\r\n" + host + b"\r\n",
        "hop by hop": b"GET /v1/models HTTP/1.1\r\n" + host + b"Connection: close, X-Secret\r\nX-Secret: 1\r\nTE: trailers\r\n\r\n",
        "head": b"HEAD /v1/models HTTP/1.1\r\n" + host + b"\r\n",
        "preflight": b"OPTIONS /v1/a HTTP/1.1\r\n" + host + b"Origin: https://a\r\nAccess-Control-Request-Method: POST\r\n"
        b"Access-Control-Request-Headers: a, b\r\n\r\n",
        "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "long header": b"GET / HTTP/1.1\r\n" + host + b"X: " + b"a" * 700 + b"\r\n\r\n",
        "long body": b"POST / HTTP/1.1\r\n" + host + b"Content-Length: 300\r\n\r\n" + b"a" * 300,
    }
    return {f"{name}, {mode}": bytes([flags, how]) + wire for name, wire in wires.items() for mode, flags, how in _MODES}


_MODES = (("whole", 1, 0), ("by byte", 0, 1), ("early", 2, 7), ("held", 5, 190), ("CORS", 9, 9), ("CORS of any", 25, 0))
