"""OpenAI's end of it: a raw socket that reads strictly and answers with whatever a case planted."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count

import h11

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
ANSWER = json.dumps({"id": "chatcmpl-1", "object": "chat.completion", "model": "gpt-4o-2024-08-06", "choices": [], "usage": USAGE}).encode()


def counted(body: bytes, status: str = "200 OK", lines: str = "content-type: application/json\r\n") -> bytes:
    """A whole answer as OpenAI would frame it."""
    return f"HTTP/1.1 {status}\r\n{lines}content-length: {len(body)}\r\n\r\n".encode("latin-1") + body


@dataclass
class Seen:
    """A request as h11 read it at OpenAI's end."""

    connection: int
    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        found = [value for key, value in self.headers if key == name]
        assert len(found) < 2, f"{name} is there {len(found)} times"
        return found[0] if found else None


class Line:
    """OpenAI's end of one connection, to be answered on."""

    def __init__(self, sock: socket.socket, number: int, upstream: EvilUpstream) -> None:
        self.sock, self.number, self._upstream = sock, number, upstream
        self.answered = False
        self._reader = h11.Connection(h11.SERVER, max_incomplete_event_size=2**20)

    def send(self, data: bytes) -> None:
        """May fail: whoever is sent garbage may have closed."""
        with suppress(OSError):
            self.sock.sendall(data)

    def drip(self, data: bytes) -> None:
        """One byte a packet."""
        for place in range(len(data)):
            self.send(data[place : place + 1])

    def reset(self) -> None:
        """Close so that the other side sees a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.close()

    def close(self) -> None:
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR) if isinstance(self.sock, ssl.SSLSocket) else None
        self.sock.close()

    def closed_by_gateway(self) -> bool:
        """Wait for the other side to close; True when it does."""
        with suppress(OSError):
            while self.sock.recv(65_536):
                pass
        return True

    def serve(self) -> None:
        """Requests, one after the other, until somebody closes."""
        with suppress(OSError):
            while (request := self._request()) is not None:
                if self.answered:
                    self.answered = False  # while the request was still coming
                    self._upstream.seen.append(request)
                else:
                    self._upstream.answer(self, request)
                if self.sock.fileno() < 0 or self._reader.our_state is h11.MUST_CLOSE:
                    return
                self._reader.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                self._reader.send(h11.EndOfMessage())
                if self._reader.our_state is not h11.DONE or self._reader.their_state is not h11.DONE:
                    return
                self._reader.start_next_cycle()

    def _request(self) -> Seen | None:
        head: h11.Request | None = None
        body: list[bytes] = []
        while True:
            try:
                event = self._reader.next_event()
            except h11.RemoteProtocolError as error:
                self._upstream.faults.append(f"h11 at OpenAI's end: {error}")
                return None
            if event is h11.NEED_DATA:
                if self._upstream.early is not None and head is not None:
                    self.send(self._upstream.early)
                    self.answered, self._upstream.early = True, None
                data = self.sock.recv(262_144)
                if not data:  # closed behind a request, or given up inside one
                    return None
                self._upstream.raw_bytes += len(data)
                self._reader.receive_data(data)
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                lines = [(name.decode(), value.decode("latin-1")) for name, value in head.headers]
                return Seen(self.number, head.method.decode(), head.target.decode("latin-1"), lines, b"".join(body))
            else:
                return None


Plan = Callable[[Line, Seen], None]


class EvilUpstream:
    """Listens, reads strictly, and answers as planted: `plans[name]` for requests that carry `x-attack: name`."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.plans: dict[str, Plan] = {}
        self.seen: list[Seen] = []
        self.faults: list[str] = []
        self.lines: list[Line] = []
        self.raw_bytes = 0
        self.early: bytes | None = None  # sent once, to the next request whose body is still coming
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}/v1"
        threading.Thread(target=self._accept, daemon=True).start()

    def answer(self, line: Line, request: Seen) -> None:
        self.seen.append(request)
        plan = self.plans.get(request.header("x-attack") or "")
        if plan is None:
            line.send(counted(b"" if request.method == "HEAD" else ANSWER))
        else:
            plan(line, request)

    def close(self) -> None:
        self._listener.close()
        for line in self.lines:
            line.close()

    def _accept(self) -> None:
        for number in count():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(sock, number), daemon=True).start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        if self._tls is not None:
            try:
                sock = self._tls.wrap_socket(sock, server_side=True)
            except OSError:
                return
        line = Line(sock, number, self)
        self.lines.append(line)
        line.serve()
        line.close()
