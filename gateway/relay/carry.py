"""One answer on its way from OpenAI to the client.

Bytes pass as they come, but for the last: an exchange is recorded before the client has its end. `done` opens when there
is nothing more to learn (the answer is complete, its terminal event has come, or no more will come); the path then writes
the entry and calls `release`, and the rest goes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import msgspec

from gateway.metering.answers import Observed
from gateway.relay.answer import AnswerHead, AnswerReader
from gateway.relay.call import Body, Client
from gateway.relay.gate import Gate
from gateway.relay.pool import Pool
from gateway.relay.upstream import Lost, Upstream

USAGE_WAIT_MS = 5_000  # for the usage of an answer whose finish_reason has passed, when the client has left (design section 4)

End = Literal["complete", "ended", "closed", "head_timeout", "stalled", "bad_answer", "client_gone"]


class Tap(Protocol):
    """What listens to the payload (an observer of `metering/`): gives back what may pass now, keeps what must wait."""

    ended: bool  # the terminal event has been fed: the exchange can be recorded
    usage_due: bool  # the end of the answer is in sight, and its usage has not come yet
    started: bool  # the first of the content has been fed

    def feed(self, data: bytes) -> bytes:
        """Some payload in, what may go to the client now out."""

    def release(self) -> bytes:
        """What waited for the entry."""

    def finish(self) -> Observed:
        """What was seen. Total."""


class Begun(msgspec.Struct, frozen=True):
    """What the path decides once it sees the answer's head."""

    tap: Tap
    status: int
    header_lines: bytes  # each begun with CRLF
    content_length: int | None


class Moments(msgspec.Struct):
    """When things happened, in nanoseconds of one monotonic clock; 0: not yet."""

    sent_ns: int = 0
    head_ns: int = 0
    first_token_ns: int = 0
    last_ns: int = 0


class Carry:
    """The taker of one upstream connection for one exchange, and the watcher of its client."""

    def __init__(
        self,
        client: Client,
        pool: Pool,
        upstream: Upstream,
        begin: Callable[[AnswerHead], Begun],
        clock_ns: Callable[[], int],
        *,
        drain_ms: int | None,
    ) -> None:
        """`drain_ms`: how long to read on when the client has left; None: not at all."""
        self.done: Gate[End] = Gate()
        self.head: AnswerHead | None = None
        self.tap: Tap | None = None
        self.moments = Moments()
        self.client_left = False  # before the answer was whole
        self._client = client
        self._pool = pool
        self._upstream: Upstream | None = upstream
        self._begin = begin
        self._clock_ns = clock_ns
        self._drain_ms = drain_ms
        self._held = b""
        self._complete = False
        self._released = False
        self._end_seen: End | None = None

    def send(self, head: bytes, body: Body, *, head_request: bool = False) -> None:
        """Send the request; from here on OpenAI may bill."""
        assert self._upstream is not None
        self.moments.sent_ns = self._clock_ns()
        self._client.fed_by(self._upstream, self)
        self._upstream.send(head, body, self, head_request=head_request)

    # taker of the upstream

    def take(self, reader: AnswerReader, payload: bytes) -> None:
        """More of the answer. A fault of ours in here is the path's to record: nobody else would end the exchange."""
        try:
            self._take(reader, payload)
        except Exception as error:
            if self.done.opened:
                self._leave_upstream()
                self._client.abort()
                raise
            self.done.fail(error)

    def _take(self, reader: AnswerReader, payload: bytes) -> None:
        if reader.head is None:
            return
        tap = self.tap if self.tap is not None else self._take_head(reader.head)
        passing = tap.feed(payload) if payload else b""
        if not self.moments.first_token_ns and tap.started:
            self.moments.first_token_ns = self._clock_ns()
        if reader.complete:
            self._complete = True
            self._leave_upstream()
            if self._released:
                self._client.finish(passing)
                return
            self._held += passing
            self._end("complete")
        elif tap.ended and not self._released:
            self._held += passing
            self._end("ended")
        elif not self._client.gone:
            self._client.write(passing)

    def lost(self, why: Lost) -> None:
        """No more will come from the upstream."""
        self._leave_upstream()
        if self._released:
            self._client.abort()
        elif self._client.gone:
            self._end("client_gone")
        else:
            self._end(why)

    # watcher of the client

    def client_gone(self) -> None:
        """The client has left: read on as far as the team's policy and honest metering ask for."""
        upstream, tap = self._upstream, self.tap
        if upstream is None:
            return
        self.client_left = True
        upstream.resume()
        if self._released:
            self._leave_upstream()
        elif self._drain_ms is not None:
            upstream.end_within(self._drain_ms)
        elif tap is not None and tap.usage_due:
            upstream.end_within(USAGE_WAIT_MS)
        else:
            self._leave_upstream()
            self._end("client_gone")

    # the path's side

    def release(self) -> None:
        """The entry is written: let the last bytes go."""
        self._released = True
        if self.tap is None:
            return  # no head came: the path answers by itself
        rest = self._held + self.tap.release()
        self._held = b""
        if self._complete:
            self._client.finish(rest)
        elif self._end_seen == "ended":
            self._client.write(rest)
            if self._client.gone:
                self._leave_upstream()
        else:
            if rest:
                self._client.write(rest)
            self._client.abort()

    def abandon(self) -> None:
        """Nothing more is taken: the path has failed, or the worker ends and no client waits any more."""
        self._leave_upstream()
        self._end("client_gone")

    def _take_head(self, head: AnswerHead) -> Tap:
        self.moments.head_ns = self._clock_ns()
        self.head = head
        begun = self._begin(head)
        self.tap = begun.tap
        has_body = head.status not in (204, 304)
        self._client.begin(begun.status, begun.header_lines, begun.content_length, has_body=has_body)
        return begun.tap

    def _end(self, end: End) -> None:
        if self._end_seen is None:
            self._end_seen = end
            self.moments.last_ns = self._clock_ns()
            self.done.open(end)

    def _leave_upstream(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            self._client.fed_by(None, self)
            self._pool.release(upstream)
