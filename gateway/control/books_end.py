"""The books' end of a worker's control socket: connects, and connects again for ever."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
import structlog

from gateway.control import messages
from gateway.control.channel import Channel, ChannelLost
from gateway.control.messages import (
    AskLimits,
    Attach,
    Begin,
    Drain,
    Hello,
    LimitsAnswer,
    NotTaken,
    OwnerAnswer,
    PushSnapshot,
    Refill,
    Report,
    Spent,
    Taken,
)

HELLO_TIMEOUT_S = 5.0
BACKOFF_FIRST_S = 0.05
BACKOFF_MAX_S = 2.0
QUESTIONS_AT_ONCE_MAX = 1_000  # a worker asks no more than that at a time

_UP = msgspec.msgpack.Decoder(messages.Up)
_log = structlog.get_logger("gateway.control")

Answer = TypeVar("Answer")


class WorkerAway(Exception):
    """The worker did not answer: not connected, or not in time."""


class LinkHandlers(Protocol):
    """What the books do when a worker speaks."""

    async def on_connected(self, link: WorkerLink) -> None:
        """A worker is there (again): push the snapshot, refill."""

    def on_report(self, link: WorkerLink, report: Report) -> None:
        """One second of a worker's life."""

    async def owner_of(self, answer_id: str) -> tuple[str | None, bool]:
        """(team, known) as in OwnerAnswer. Must not raise."""


class WorkerLink:
    """The connection to one worker. Run `run()` in a task; cancel it to end."""

    def __init__(self, worker: str, path: Path, handlers: LinkHandlers) -> None:
        self.worker = worker
        self.hello: Hello | None = None  # of the last connection
        self.report: Report | None = None  # of this connection
        self.taken_version: int | None = None  # of this connection
        self.problem: str | None = None  # why the last snapshot was not taken, or why there is no connection
        self._path, self._handlers = path, handlers
        self._channel: Channel[messages.Up] | None = None
        self._snapshots: dict[int, asyncio.Future[Taken | NotTaken]] = {}
        self._limits: dict[int, asyncio.Future[LimitsAnswer]] = {}
        self._request_id = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def connected(self) -> bool:
        """Whether the worker has said hello and is there."""
        return self._channel is not None

    async def run(self) -> None:
        """Connect, listen, and do so again for ever, with a growing pause while nobody listens."""
        backoff_s = BACKOFF_FIRST_S
        try:
            while True:
                try:
                    await self._live()
                    backoff_s = BACKOFF_FIRST_S
                except (ChannelLost, OSError, TimeoutError) as error:
                    self.problem = str(error) or type(error).__name__
                    if self._channel is not None:
                        backoff_s = BACKOFF_FIRST_S  # it was there a moment ago
                        _log.info("worker_link_lost", worker=self.worker, reason=self.problem)
                except Exception as error:  # a fault of ours in handling one message must not end the link for good
                    self.problem = type(error).__name__
                    _log.exception("worker_link_failed", worker=self.worker)
                finally:
                    self._gone()
                await asyncio.sleep(backoff_s * (0.5 + random.random() / 2))
                backoff_s = min(2 * backoff_s, BACKOFF_MAX_S)
        finally:
            for task in list(self._tasks):
                task.cancel()

    async def push(self, version: int, snapshot: bytes, timeout_ms: int = 5_000) -> Taken | NotTaken:
        """Send a snapshot and wait for the worker's word. Raises WorkerAway."""
        answer: asyncio.Future[Taken | NotTaken] = asyncio.get_running_loop().create_future()
        self._snapshots[version] = answer
        try:
            taken = await self._ask(PushSnapshot(version, snapshot), answer, timeout_ms)
        except ValueError as error:
            taken = NotTaken(version, str(error))
        finally:
            self._snapshots.pop(version, None)
        if isinstance(taken, Taken):
            self.taken_version, self.problem = version, None
        else:
            self.problem = taken.reason
        return taken

    async def limits(self, team: str | None, timeout_ms: int = 1_000) -> LimitsAnswer:
        """The worker's buckets as they are, fullest first. Raises WorkerAway."""
        self._request_id += 1
        answer: asyncio.Future[LimitsAnswer] = asyncio.get_running_loop().create_future()
        self._limits[self._request_id] = answer
        request_id = self._request_id
        try:
            return await self._ask(AskLimits(request_id, team), answer, timeout_ms)
        finally:
            self._limits.pop(request_id, None)

    def refill(self, spent: tuple[Spent, ...]) -> None:
        """Send what the ledger knows of the buckets. Raises WorkerAway, and ValueError when it is too large."""
        self._send(Refill(spent))

    def begin(self) -> None:
        """Tell the worker to let clients in. Raises WorkerAway."""
        self._send(Begin())

    def drain(self) -> None:
        """Tell the worker to finish. Raises WorkerAway."""
        self._send(Drain())

    def _send(self, message: msgspec.Struct) -> None:
        if self._channel is None:
            raise WorkerAway(f"worker {self.worker} is not connected")
        try:
            self._channel.send(message)
        except ChannelLost as error:
            raise WorkerAway(str(error)) from error

    async def _ask(self, message: msgspec.Struct, answer: asyncio.Future[Answer], timeout_ms: int) -> Answer:
        self._send(message)
        try:
            async with asyncio.timeout(timeout_ms / 1000):  # never wait_for: on Python 3.11 it can swallow a cancel
                return await answer
        except (TimeoutError, ChannelLost) as error:
            raise WorkerAway(str(error) or f"worker {self.worker} did not answer in {timeout_ms} ms") from error

    async def _live(self) -> None:
        """One connection from hello to its end. Raises ChannelLost, OSError, TimeoutError."""
        async with asyncio.timeout(HELLO_TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(str(self._path))
        channel = Channel(reader, writer, _UP, messages.UP_BYTES_MAX, messages.DOWN_BYTES_MAX)
        try:
            channel.send(Attach(os.getpid()))
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                hello = await channel.receive()
            if not isinstance(hello, Hello):
                raise ChannelLost("the first message was not hello")
            self.hello, self.report, self.taken_version, self.problem = hello, None, None, None
            self._channel = channel
            _log.info("worker_connected", worker=self.worker, boot=hello.boot, pid=hello.pid, version=hello.version)
            self._spawn(self._handlers.on_connected(self))
            while True:
                self._handle(channel, await channel.receive())
        finally:
            channel.close()

    def _handle(self, channel: Channel[messages.Up], message: messages.Up) -> None:
        if isinstance(message, Report):
            self.report = message
            self._handlers.on_report(self, message)
        elif isinstance(message, messages.AskOwner):
            if len(self._tasks) > QUESTIONS_AT_ONCE_MAX:
                channel.send(OwnerAnswer(message.request_id, None, known=False))
            else:
                self._spawn(self._answer_owner(channel, message))
        elif isinstance(message, Taken | NotTaken):
            _resolve(self._snapshots.get(message.version), message)
        elif isinstance(message, LimitsAnswer):
            _resolve(self._limits.get(message.request_id), message)

    async def _answer_owner(self, channel: Channel[messages.Up], asked: messages.AskOwner) -> None:
        team, known = await self._handlers.owner_of(asked.answer_id)
        try:
            channel.send(OwnerAnswer(asked.request_id, team, known))
        except ChannelLost:
            pass  # the worker that asked is gone, and its question with it

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("worker_link_task_failed", worker=self.worker, error=repr(error))

    def _gone(self) -> None:
        self._channel = None
        answers: tuple[asyncio.Future[Any], ...] = (*self._snapshots.values(), *self._limits.values())
        for answer in answers:
            if not answer.done():
                answer.set_exception(ChannelLost("the worker went away"))


def _resolve(answer: asyncio.Future[Any] | None, message: Any) -> None:
    if answer is not None and not answer.done():
        answer.set_result(message)
