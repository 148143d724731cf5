"""The way to an account: its addresses, the HTTP proxy in between, TLS. All of it comes before OpenAI is asked anything."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohappyeyeballs

from gateway.config.snapshot import Account, HttpProxy

NEXT_ADDRESS_AFTER_S = 0.25  # RFC 8305 section 8: Connection Attempt Delay
TUNNEL_HEAD_BYTES_MAX = 16_384  # of a proxy's answer; real ones have a few hundred
HANDSHAKE_S_MIN = 0.001  # a time-out of 0 would be refused

_TUNNEL_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?=[ \r])")
_TUNNEL_STATUS_BYTES = 13

AProtocol = TypeVar("AProtocol", bound=asyncio.Protocol)
AddressInfos = Sequence[tuple[int, int, int, str, tuple[Any, ...]]]
"""As `getaddrinfo` gives them."""


class NoConnection(Exception):
    """No connection to the upstream could be had; nothing was sent. `timed_out`: it did not answer in time."""

    def __init__(self, message: str, *, timed_out: bool = False) -> None:
        super().__init__(message)
        self.timed_out = timed_out


class AllInUse(NoConnection):
    """The account has as many connections as it may have, and all of them carry calls: a matter of load, not of the upstream."""


class Route:
    """How connections to one account are made. Raises OSError (ssl.SSLError too) when its certificates cannot be used."""

    def __init__(self, account: Account, loop: asyncio.AbstractEventLoop) -> None:
        parts = urlsplit(account.base_url)
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self._proxy = account.http_proxy
        self._tls = _tls_context(account) if parts.scheme == "https" else None
        self._timeout_s = account.connect_timeout_ms / 1000
        self._loop = loop

    async def connect(self, make: Callable[[], AProtocol]) -> AProtocol:
        """Looks up names, tries addresses, opens the tunnel and agrees on TLS, all in the account's one time. Raises NoConnection.

        The protocol may have lost its connection already when it comes back.
        """
        first = "it" if self._proxy is None else "the proxy on the way to it"
        deadline_s = self._loop.time() + self._timeout_s
        try:
            async with asyncio.timeout_at(deadline_s):
                reached = await self._reached()
        except TimeoutError as error:
            raise NoConnection(f"{first} did not answer in time", timed_out=True) from error
        except (OSError, UnicodeError) as error:  # the latter from names that no server can have
            raise NoConnection(f"{first} {_why_not_reached(error)}") from error
        # Nothing is cancelled from here on: the loop owns the socket now, and has a time-out of its own for the handshake.
        options: dict[str, Any] = {}
        if self._tls is not None:
            left_s = max(HANDSHAKE_S_MIN, deadline_s - self._loop.time())
            options = {"ssl": self._tls, "server_hostname": self.host, "ssl_handshake_timeout": left_s}
        try:
            _, protocol = await self._loop.create_connection(make, sock=reached, **options)
        except ConnectionAbortedError as error:  # what the loop makes of a handshake that takes too long
            raise NoConnection("it did not finish the TLS handshake in time", timed_out=True) from error
        except OSError as error:
            raise NoConnection(_why_no_tls(error)) from error
        return protocol

    async def _reached(self) -> socket.socket:
        """A socket on which the account will be the next to speak."""
        proxy = self._proxy
        host, port = (self.host, self.port) if proxy is None else (proxy.host, proxy.port)
        sock = await dial(self._loop, await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        if proxy is not None:
            try:
                await open_tunnel(self._loop, sock, self.host, self.port, proxy)
            except BaseException:
                sock.close()
                raise
        return sock


async def dial(loop: asyncio.AbstractEventLoop, addresses: AddressInfos) -> socket.socket:
    """A socket connected to the first address that answers. A silent one holds up the next for NEXT_ADDRESS_AFTER_S, a refusal not at all.

    Raises OSError when none does; the time-out is the caller's.
    """
    return await aiohappyeyeballs.start_connection(addresses, happy_eyeballs_delay=NEXT_ADDRESS_AFTER_S, interleave=1, loop=loop)


async def open_tunnel(loop: asyncio.AbstractEventLoop, sock: socket.socket, host: str, port: int, proxy: HttpProxy) -> None:
    """Have the proxy connect the socket to the account (RFC 9110 section 9.3.6). Raises NoConnection or OSError."""
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    credentials = f"proxy-authorization: {proxy.authorization.value}\r\n" if proxy.authorization.value else ""
    await loop.sock_sendall(sock, f"CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n{credentials}\r\n".encode("latin-1"))
    answer = b""
    while b"\r\n\r\n" not in answer:
        if len(answer) >= TUNNEL_HEAD_BYTES_MAX:
            raise NoConnection(f"the proxy on the way to it answers with more than {TUNNEL_HEAD_BYTES_MAX} bytes of headers")
        piece = await loop.sock_recv(sock, TUNNEL_HEAD_BYTES_MAX - len(answer))
        if not piece:
            raise NoConnection("the proxy on the way to it closed the connection without an answer")
        answer += piece
        if len(answer) >= _TUNNEL_STATUS_BYTES and not _TUNNEL_STATUS.match(answer):
            raise NoConnection("the proxy on the way to it does not answer in HTTP")
    status = _TUNNEL_STATUS.match(answer)
    if status is None or (status[1].startswith(b"2") and answer.find(b"\r\n\r\n") != len(answer) - 4):  # nobody may speak before we do
        raise NoConnection("the proxy on the way to it does not answer in HTTP")
    if status[1] == b"407":
        raise NoConnection("the proxy on the way to it refuses the gateway's credentials (407)")
    if not status[1].startswith(b"2"):
        raise NoConnection(f"the proxy on the way to it opened no tunnel ({status[1].decode()})", timed_out=status[1] == b"504")


def _tls_context(account: Account) -> ssl.SSLContext:
    """Certificates and host names are verified: `create_default_context` says so."""
    context = ssl.create_default_context(cafile=account.ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    shown = account.client_certificate
    if shown is not None:
        context.load_cert_chain(shown.certificate_file, shown.key_file, password="")  # never asked of a terminal
    return context


def _why_not_reached(error: OSError | UnicodeError) -> str:
    if isinstance(error, socket.gaierror | UnicodeError):
        return "has a name that cannot be resolved"
    if isinstance(error, ConnectionRefusedError):
        return "refused the connection"
    return "could not be connected to"


def _why_no_tls(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return f"the TLS handshake with it failed ({error.reason})"
    return "it closed the connection at once"
