"""The worker's end of the control socket: it listens, and serves one pair of books at a time."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

from gateway.control import messages
from gateway.control.channel import Channel, ChannelLost
from gateway.control.messages import AskOwner, Hello, LimitReading, LimitsAnswer, NotTaken, OwnerAnswer, Report, Spent, Taken
from gateway.control.paths import make_private_folder

ATTACH_TIMEOUT_S = 5.0  # what connects and says nothing is no books
OWNER_QUESTIONS_MAX = 1_000  # open at once; each is a client's call that waits
BACKLOG = 8

_DOWN = msgspec.msgpack.Decoder(messages.Down)
_log = structlog.get_logger("gateway.control")


class BooksAway(Exception):
    """The books did not answer: not connected, not in time, or without their ledger."""


class WorkerHandlers(Protocol):
    """What a worker does when the books speak. Called on the worker's loop; only `take_snapshot`, `begin` and `limits` may wait."""

    async def take_snapshot(self, snapshot: bytes) -> None:
        """Decode (`config.snapshot.Snapshot`, MessagePack) and use from the next exchange on. Whatever it raises is told to the books."""

    def refill(self, spent: tuple[Spent, ...]) -> None:
        """Fill the daily buckets of a memory store, after the first snapshot; at most once in a worker's life."""

    async def begin(self) -> None:
        """Let clients in. Called again by other books, or when there was no snapshot yet."""

    async def limits(self, team: str | None) -> tuple[LimitReading, ...]:
        """The buckets of a team as they are; None: of all, fullest first."""

    def report(self) -> Report:
        """Gauges, and the counts since the last call."""

    def drain(self) -> None:
        """Stop accepting, finish what runs."""


class WorkerControl:
    """Listens on a worker's control socket. A new connection of books replaces the old one."""

    def __init__(self, path: Path, hello: Hello, handlers: WorkerHandlers, report_every_ms: int = 1_000) -> None:
        self._path, self._hello, self._handlers = path, hello, handlers
        self._report_every_s = report_every_ms / 1000
        self._server: asyncio.Server | None = None
        self._books: Channel[messages.Down] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._reports: asyncio.Task[None] | None = None
        self._owners: dict[int, asyncio.Future[OwnerAnswer]] = {}
        self._request_id = 0
        self._refilled = hello.refilled

    @property
    def connected(self) -> bool:
        """Whether books are attached now."""
        return self._books is not None

    async def start(self) -> None:
        """Listen. A socket that a dead worker left is replaced: the journal's lock says that it is dead. Raises OSError."""
        if self._path.name == "control.sock":
            self._path.parent.mkdir(parents=True, exist_ok=True)
        else:
            make_private_folder(self._path.parent)
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(self._path))
            self._path.chmod(0o600)  # before it listens: until then a connect is refused
            self._server = await asyncio.start_unix_server(self._accept, sock=listener, backlog=BACKLOG)
        except BaseException:
            listener.close()
            raise
        self._reports = asyncio.create_task(self._report_for_ever())

    async def close(self) -> None:
        """Stop listening, end the connection, fail the open questions."""
        tasks = [*self._tasks, *([self._reports] if self._reports else [])]
        if self._server is not None:
            self._server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._path.unlink(missing_ok=True)

    async def owner_of(self, answer_id: str, timeout_ms: int = 1_000) -> str | None:
        """The team that made a stored answer; None: nobody here did. Raises BooksAway when it cannot be known now."""
        if self._books is None or len(self._owners) >= OWNER_QUESTIONS_MAX:
            raise BooksAway("not connected" if self._books is None else "too many open questions")
        self._request_id += 1
        request_id = self._request_id
        answer: asyncio.Future[OwnerAnswer] = asyncio.get_running_loop().create_future()
        self._owners[request_id] = answer
        try:
            self._books.send(AskOwner(request_id, answer_id[: messages.TEXT_CHARS_MAX]))
            async with asyncio.timeout(timeout_ms / 1000):
                found = await answer
        except (ChannelLost, TimeoutError) as error:
            raise BooksAway(str(error) or "no answer in time") from error
        finally:
            del self._owners[request_id]
        if not found.known:
            raise BooksAway("the ledger is away")
        return found.team

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        channel = Channel(reader, writer, _DOWN, messages.DOWN_BYTES_MAX, messages.UP_BYTES_MAX)
        try:
            await self._serve(channel)
        except (ChannelLost, TimeoutError) as error:
            _log.info("control_closed", reason=str(error) or "said nothing")
        except asyncio.CancelledError:
            pass  # close() ends this connection; the stream protocol would log a cancelled handler as an error
        except Exception:  # a fault in answering the books must not disturb calls: the connection ends, the books come back
            _log.exception("control_failed")
        finally:
            self._tasks.discard(task)
            if self._books is channel:
                self._detach()
            channel.close()

    async def _serve(self, channel: Channel[messages.Down]) -> None:
        async with asyncio.timeout(ATTACH_TIMEOUT_S):
            first = await channel.receive()
        if not isinstance(first, messages.Attach):
            raise ChannelLost("the first message was not attach")
        if self._books is not None:
            self._books.close()
            self._detach()
        self._books = channel
        channel.send(msgspec.structs.replace(self._hello, refilled=self._refilled))
        while self._books is channel:
            await self._handle(channel, await channel.receive())

    def _detach(self) -> None:
        self._books = None
        for answer in self._owners.values():
            if not answer.done():
                answer.set_exception(ChannelLost("the books went away"))

    async def _handle(self, channel: Channel[messages.Down], message: messages.Down) -> None:
        if isinstance(message, messages.PushSnapshot):
            channel.send(await self._take(message))
        elif isinstance(message, messages.Refill):
            if not self._refilled:
                self._refilled = True
                self._handlers.refill(message.spent)
        elif isinstance(message, messages.Begin):
            await self._handlers.begin()
        elif isinstance(message, messages.AskLimits):
            readings = await self._handlers.limits(message.team)
            kept = readings[: messages.LIMIT_READINGS_MAX]
            channel.send(LimitsAnswer(message.request_id, kept, left_out=len(readings) - len(kept)))
        elif isinstance(message, OwnerAnswer):
            answer = self._owners.get(message.request_id)
            if answer is not None and not answer.done():
                answer.set_result(message)
        elif isinstance(message, messages.Drain):
            self._handlers.drain()

    async def _take(self, pushed: messages.PushSnapshot) -> Taken | NotTaken:
        try:
            await self._handlers.take_snapshot(pushed.snapshot)
        except Exception as error:  # whatever is wrong with it, the old one rules on and the books are told
            _log.warning("snapshot_not_taken", version=pushed.version, error=type(error).__name__)
            return NotTaken(pushed.version, f"{type(error).__name__}: {error}"[: messages.TEXT_CHARS_MAX])
        return Taken(pushed.version)

    async def _report_for_ever(self) -> None:
        """One report a second while books are attached; otherwise the worker keeps its counts for the next one."""
        while True:
            await asyncio.sleep(self._report_every_s)
            if self._books is None:
                continue
            try:
                self._books.send(self._handlers.report())
            except ChannelLost:
                continue  # its reader says so too
            except ValueError as error:
                _log.error("report_too_large", error=str(error))
