"""Connections to one upstream account, kept and used again."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from gateway.config.snapshot import Account
from gateway.relay.deadlines import Deadlines
from gateway.relay.gate import Gate, gate_of
from gateway.relay.upstream import Upstream

WAITING_MAX = 1_000  # calls that wait for a connection; beyond, they are refused at once


class NoConnection(Exception):
    """No connection to the upstream could be had; nothing was sent. `timed_out`: it did not answer in time."""

    def __init__(self, message: str, *, timed_out: bool = False) -> None:
        super().__init__(message)
        self.timed_out = timed_out


class _Waiter(Gate[None]):
    """A call that waits for a connection, for as long as one may take to be made."""

    __slots__ = ("_left", "deadline_s")

    def __init__(self, deadline_s: float, left: Callable[[_Waiter], None]) -> None:
        super().__init__()
        self.deadline_s = deadline_s
        self._left = left

    def expired(self) -> None:
        """Nothing came free in time."""
        self._left(self)
        self.fail(NoConnection("all of its connections were in use for too long", timed_out=True))


class Pool:
    """Hands out connections: the one used last first, so that the others grow old and go."""

    def __init__(self, account: Account, loop: asyncio.AbstractEventLoop, deadlines: Deadlines) -> None:
        parts = urlsplit(account.base_url)
        self.account = account
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self.path_prefix = parts.path.rstrip("/").encode()
        self.account_lines = _account_lines(account, parts.netloc.rpartition("@")[2])
        self._tls = _tls_context(account) if parts.scheme == "https" else None
        self._loop = loop
        self._deadlines = deadlines
        self._idle: deque[Upstream] = deque()
        self._waiting: deque[_Waiter] = deque()
        self._waking = False
        self._connecting: set[asyncio.Task[Upstream]] = set()
        self._open = 0
        self._retired = False

    @property
    def idle(self) -> int:
        """Connections that carry nothing now."""
        return len(self._idle)

    @property
    def busy(self) -> int:
        """Connections that carry an exchange, or are being made."""
        return self._open - len(self._idle)

    async def acquire(self) -> Upstream:
        """A connection to send on. Raises NoConnection; then nothing was sent."""
        waited = False
        while True:
            if waited or not self._waiting:  # who waits goes first
                while self._idle:
                    upstream = self._idle.pop()
                    if not upstream.closed and self._loop.time() - upstream.idle_since_s < self.account.idle_timeout_ms / 1000:
                        return upstream
                    self._drop(upstream)
                if self._open < self.account.connections_max:
                    return await self._connect()
            if len(self._waiting) >= WAITING_MAX:
                raise NoConnection(f"all {self.account.connections_max} connections are in use")
            waiter = _Waiter(self._loop.time() + self.account.connect_timeout_ms / 1000, self._forget)
            self._waiting.append(waiter)
            self._deadlines.add(waiter)
            await waiter
            waited = True

    def release(self, upstream: Upstream) -> None:
        """Take a connection back, reusable or not."""
        if upstream.let_go() and not self._retired:
            self._idle.append(upstream)
        else:
            self._drop(upstream)
        self._wake_soon()

    def close_idle(self, *, all_of_them: bool = False) -> None:
        """Close connections that idled too long; called now and then."""
        oldest_s = self._loop.time() - self.account.idle_timeout_ms / 1000
        for _ in range(len(self._idle)):
            upstream = self._idle.popleft()
            if all_of_them or upstream.closed or upstream.idle_since_s < oldest_s:
                self._drop(upstream)
            else:
                self._idle.append(upstream)

    def retire(self) -> None:
        """Another pool has taken this one's place: keep nothing; what is busy goes when it comes back."""
        self._retired = True
        self.close_idle(all_of_them=True)

    def _wake_soon(self) -> None:
        """Let those who wait try again, from a stack of their own: what one of them does may end here again."""
        if self._waiting and not self._waking:
            self._waking = True
            self._loop.call_soon(self._wake)

    def _wake(self) -> None:
        self._waking = False
        while self._waiting and (self._idle or self._open < self.account.connections_max):
            waiter = self._waiting.popleft()
            self._deadlines.remove(waiter)
            waiter.open(None)

    def _forget(self, waiter: _Waiter) -> None:
        self._deadlines.remove(waiter)
        self._waiting.remove(waiter)

    def _drop(self, upstream: Upstream) -> None:
        self._open -= 1
        upstream.close()

    async def _connect(self) -> Upstream:
        self._open += 1
        try:
            return await gate_of(self._connected(), self._connecting)
        except (OSError, ssl.SSLError, TimeoutError) as error:
            self._open -= 1
            self._wake_soon()
            raise NoConnection(_reason(error), timed_out=isinstance(error, TimeoutError)) from error

    async def _connected(self) -> Upstream:
        def make() -> Upstream:
            return Upstream(
                self._loop,
                self._deadlines,
                first_byte_timeout_ms=self.account.first_byte_timeout_ms,
                stall_timeout_ms=self.account.stall_timeout_ms,
            )

        options: dict[str, Any] = {"ssl": self._tls, "server_hostname": self.host} if self._tls is not None else {}
        async with asyncio.timeout(self.account.connect_timeout_ms / 1000):
            _, upstream = await self._loop.create_connection(make, self.host, self.port, **options)
        return upstream


def _account_lines(account: Account, host: str) -> bytes:
    """What the account says in every request, in place of what the team said."""
    lines = [f"host: {host}"]
    if account.api_key.value:
        lines.append(f"authorization: Bearer {account.api_key.value}")
    if account.organization:
        lines.append(f"openai-organization: {account.organization}")
    if account.project:
        lines.append(f"openai-project: {account.project}")
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1")


def _tls_context(account: Account) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=account.ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    if isinstance(error, TimeoutError):
        return "it did not accept the connection in time"
    return "the connection failed"
