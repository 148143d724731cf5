"""What an HTTP proxy answers before the tunnel to OpenAI is open."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Coroutine
from typing import Any, cast

from gateway.config.snapshot import HttpProxy, Secret
from gateway.relay.connect import TUNNEL_HEAD_BYTES_MAX, NoConnection, open_tunnel

from .target import Seeds, control, cut

_PROXY = HttpProxy("proxy", 3128, Secret("Basic dTpw"))


class _Sockets:
    """The part of a loop that reads and writes sockets, over bytes that are all there."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.asked = b""
        self.taken = b""
        self._pieces = deque(pieces)

    async def sock_sendall(self, _sock: object, data: bytes) -> None:
        self.asked += data

    async def sock_recv(self, _sock: object, bytes_max: int) -> bytes:
        assert bytes_max > 0, "nothing is asked for, which looks like a close"
        piece = self._pieces.popleft() if self._pieces else b""
        if len(piece) > bytes_max:
            self._pieces.appendleft(piece[bytes_max:])
        self.taken += piece[:bytes_max]
        return piece[:bytes_max]


def check_tunnel(data: bytes) -> None:
    """A tunnel is open behind a whole 2xx head and not one byte later; anything else is NoConnection, without the credentials."""
    _, how, wire = control(data)
    for pieces in ([wire] if wire else [], list(cut(wire, how))):
        sockets = _Sockets(pieces)
        opening = open_tunnel(cast(asyncio.AbstractEventLoop, sockets), cast(socket.socket, None), "api.openai.com", 443, _PROXY)
        opened = _run(opening)
        assert len(sockets.taken) <= TUNNEL_HEAD_BYTES_MAX
        assert sockets.asked.startswith(b"CONNECT api.openai.com:443 HTTP/1.1\r\n")
        if opened:
            assert sockets.taken.find(b"\r\n\r\n") == len(sockets.taken) - 4, "bytes of the tunnel are lost"
            assert sockets.taken.startswith((b"HTTP/1.1 2", b"HTTP/1.0 2"))


def _run(opening: Coroutine[Any, Any, None]) -> bool:
    said = ""
    try:
        opening.send(None)
    except StopIteration:
        return True
    except NoConnection as no:
        said = str(no)
    assert said, "it waits for bytes that are there"
    assert _PROXY.authorization.value not in said, "the credentials are shown"
    return False


def tunnel_seeds() -> Seeds:
    """Answers of proxies, good and bad."""
    texts = {
        "open": b"HTTP/1.1 200 Connection established\r\n\r\n", "1.0": b"HTTP/1.0 200 OK\r\nProxy-Agent: squid\r\n\r\n",
        "credentials": b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n",
        "no HTTP": b"SSH-2.0-OpenSSH\r\n\r\n",
        "speaks first": b"HTTP/1.1 200 OK\r\n\r\nhello", "cut": b"HTTP/1.1 200 OK\r\n", "504": b"HTTP/1.1 504 Gateway Timeout\r\n\r\n",
    }  # fmt: skip
    return {f"{name} {how}": bytes([0, how]) + text for name, text in texts.items() for how in (0, 1, 9)}
