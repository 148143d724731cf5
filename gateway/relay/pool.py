"""Connections to one upstream account, kept and used again."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from urllib.parse import urlsplit

import structlog

from gateway.config.snapshot import Account
from gateway.relay.connect import AllInUse, NoConnection, Route
from gateway.relay.deadlines import Deadlines
from gateway.relay.gate import Gate, gate_of
from gateway.relay.upstream import Upstream

WAITING_MAX = 1_000  # calls that wait for a connection; beyond, they are refused at once
LOOK_AFTER_S = 1.0  # servers keep idle connections for seconds at least: what was used since then needs no look, which is a system call
TELL_EVERY_S = 10.0  # a line in the log on calls that got no connection: each of them would be a flood

_log = structlog.get_logger("gateway.relay")


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
        self.fail(AllInUse("all of its connections were in use for too long"))


class Pool:
    """Hands out connections: the one used last first, so that the others grow old and go."""

    def __init__(self, account: Account, loop: asyncio.AbstractEventLoop, deadlines: Deadlines) -> None:
        parts = urlsplit(account.base_url)
        self.account = account
        self.path_prefix = parts.path.rstrip("/").encode()
        self.account_lines = _account_lines(account, parts.netloc)
        self._route = Route(account, loop)
        self._loop = loop
        self._deadlines = deadlines
        self._idle: deque[Upstream] = deque()
        self._waiting: deque[_Waiter] = deque()
        self._waking = False
        self._connecting: set[asyncio.Task[Upstream]] = set()
        self._open = 0
        self._retired = False
        self._told_s = -TELL_EVERY_S

    @property
    def idle(self) -> int:
        """Connections that carry nothing now."""
        return len(self._idle)

    @property
    def busy(self) -> int:
        """Connections that carry an exchange, or are being made."""
        return self._open - len(self._idle)

    async def acquire(self) -> Upstream:
        """A connection to send on. Raises NoConnection; then nothing was sent.

        A connection that is lost before anything was sent on it is replaced without a word: by the next idle one, or by a new one.
        """
        waited = False
        while True:
            if waited or not self._waiting:  # who waits goes first
                while self._idle:
                    upstream = self._idle.pop()
                    idle_s = self._loop.time() - upstream.idle_since_s
                    fresh = not upstream.closed and idle_s < self.account.idle_timeout_ms / 1000
                    if fresh and (idle_s < LOOK_AFTER_S or not upstream.unread()):
                        return upstream
                    self._drop(upstream)
                if self._open < self.account.connections_max:
                    return await self._connect() or await self._connect_again()
            if len(self._waiting) >= WAITING_MAX:
                raise AllInUse(f"all {self.account.connections_max} connections are in use")
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

    async def _connect(self) -> Upstream | None:
        """A new connection; None: it was lost again at once, and nothing was sent on it. Raises NoConnection."""
        self._open += 1
        upstream: Upstream | None = None
        try:
            upstream = await gate_of(self._route.connect(self._make), self._connecting)
        except NoConnection as error:
            self._tell(error)
            raise
        except ConnectionAbortedError as error:  # the worker ends
            raise NoConnection("the gateway ends") from error
        finally:
            if upstream is None or upstream.closed:
                self._open -= 1
                self._wake_soon()
        if upstream.closed:
            upstream.close()
            return None
        return upstream

    async def _connect_again(self) -> Upstream:
        upstream = await self._connect()
        if upstream is None:
            error = NoConnection("it closes connections at once")
            self._tell(error)
            raise error
        return upstream

    def _make(self) -> Upstream:
        return Upstream(
            self._loop,
            self._deadlines,
            first_byte_timeout_ms=self.account.first_byte_timeout_ms,
            stall_timeout_ms=self.account.stall_timeout_ms,
        )

    def _tell(self, error: NoConnection) -> None:
        """For the operator, now and then: clients are told each time."""
        now_s = self._loop.time()
        if now_s - self._told_s >= TELL_EVERY_S:
            self._told_s = now_s
            _log.warning("upstream_unreachable", account=self.account.name, reason=str(error))


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
