"""The client's end of it: writes any bytes, and reads answers strictly."""

from __future__ import annotations

import json
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import h11

DEADLINE_S = 30.0


@dataclass
class Answer:
    """One answer as h11 read it. `whole`: it ended as its framing said; a cut one is not."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool
    interim: list[int] = field(default_factory=list)

    def json(self) -> Any:
        return json.loads(self.body)


class RawClient:
    """A client that writes any bytes and reads answers strictly, one after the other."""

    def __init__(self, base_url: str, tls: ssl.SSLContext | None = None) -> None:
        to = urlsplit(base_url)
        self.sock = socket.create_connection((to.hostname or "", to.port or 0), timeout=DEADLINE_S)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.sock = tls.wrap_socket(self.sock, server_hostname="127.0.0.1")
        self.unread = b""

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> RawClient:
        """All of it, or as much as is taken before the gateway closes."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.sock.sendall(data)
        return self

    def answer(self, method: str = "GET") -> Answer:
        """The next answer, to a request of this method. Fails on what h11 does not take for one."""
        reader = h11.Connection(h11.CLIENT, max_incomplete_event_size=2**20)
        reader.send(h11.Request(method=method, target="/", headers=[("host", "a")]))
        reader.send(h11.EndOfMessage())
        reader.receive_data(self.unread) if self.unread else None
        head: h11.Response | None = None
        interim: list[int] = []
        body: list[bytes] = []
        whole = False
        while not whole:
            try:
                event = reader.next_event()
            except h11.RemoteProtocolError:
                if head is None:
                    raise
                break  # cut
            if event is h11.NEED_DATA:
                try:
                    data = self.sock.recv(262_144)
                except ConnectionResetError:
                    break
                assert data or head is not None or reader.trailing_data[0], "closed without an answer"
                reader.receive_data(data)
            elif isinstance(event, h11.InformationalResponse):
                interim.append(event.status_code)
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                whole = True
            else:
                break
        assert head is not None, "no answer"
        self.unread = bytes(reader.trailing_data[0])
        names = [name for name, _ in head.headers]
        for once in (b"content-length", b"transfer-encoding", b"x-request-id", b"content-type"):
            assert names.count(once) < 2, f"{once!r} is there {names.count(once)} times"
        headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}
        return Answer(head.status_code, headers, b"".join(body), whole, interim)

    def closed(self) -> bool:
        """Wait for the gateway to close; fails on bytes behind the last answer, and when it does not close."""
        assert self.unread == b""
        try:
            rest = self.sock.recv(65_536)
        except ConnectionResetError:
            return True
        assert rest == b"", rest
        return True
