"""The control socket, both ends over a real Unix socket."""

import asyncio
import os
import stat
import struct
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop

from gateway.control import (
    BooksAway,
    Hello,
    LimitReading,
    NotTaken,
    Refusal,
    Report,
    Spent,
    Taken,
    WorkerAway,
    WorkerControl,
    WorkerLink,
    control_path,
)
from gateway.control.messages import DOWN_BYTES_MAX, LIMIT_READINGS_MAX, Attach
from gateway.control.paths import PATH_BYTES_MAX, make_private_folder

DEADLINE_S = 10.0
READING = LimitReading("voice", "group", "group:gpt-4o", "rpm", 100, 3, 97, 1800)


RUNNERS: list[asyncio.Runner] = []  # the one of the running test


@pytest.fixture(autouse=True, params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Iterator[None]:
    """Books run on asyncio's own loop, workers on uvloop."""
    with asyncio.Runner(loop_factory=request.param) as runner:
        RUNNERS.append(runner)
        yield
        RUNNERS.remove(runner)


def run(work: Coroutine[Any, Any, None]) -> None:
    RUNNERS[-1].run(asyncio.wait_for(work, DEADLINE_S))


class Worker:
    """Handlers that keep what they were told and tell the test about it."""

    def __init__(self) -> None:
        self.snapshots: asyncio.Queue[bytes] = asyncio.Queue()
        self.refills: asyncio.Queue[tuple[Spent, ...]] = asyncio.Queue()
        self.begun, self.drained = asyncio.Event(), asyncio.Event()
        self.reports = 0

    async def take_snapshot(self, snapshot: bytes) -> None:
        if snapshot == b"bad":
            raise ValueError("no such tier")
        self.snapshots.put_nowait(snapshot)

    def refill(self, spent: tuple[Spent, ...]) -> None:
        self.refills.put_nowait(spent)

    async def begin(self) -> None:
        self.begun.set()

    async def limits(self, team: str | None) -> tuple[LimitReading, ...]:
        return {None: (READING,), "voice": (READING,), "crowd": (READING,) * (LIMIT_READINGS_MAX + 1)}.get(team, ())

    def report(self) -> Report:
        self.reports += 1
        return Report(in_flight={"voice": 2}, refusals=(Refusal("voice", "gpt-4o", "chat", "rpm", 429, self.reports),))

    def drain(self) -> None:
        self.drained.set()


class Books:
    """The books' handlers, kept the same way."""

    def __init__(self) -> None:
        self.connections: asyncio.Queue[WorkerLink] = asyncio.Queue()
        self.reports: asyncio.Queue[Report] = asyncio.Queue()
        self.owner: Callable[[str], Awaitable[tuple[str | None, bool]]] = self._owner

    async def on_connected(self, link: WorkerLink) -> None:
        self.connections.put_nowait(link)

    def on_report(self, link: WorkerLink, report: Report) -> None:
        self.reports.put_nowait(report)

    async def owner_of(self, answer_id: str) -> tuple[str | None, bool]:
        return await self.owner(answer_id)

    async def _owner(self, answer_id: str) -> tuple[str | None, bool]:
        return {"resp_1": ("voice", True), "resp_away": (None, False)}.get(answer_id, (None, True))


@asynccontextmanager
async def listening(path: Path, handlers: Worker) -> AsyncIterator[WorkerControl]:
    control = WorkerControl(path, Hello("w0", boot=7, pid=os.getpid(), version="1"), handlers, report_every_ms=10)
    await control.start()
    try:
        yield control
    finally:
        await control.close()


@asynccontextmanager
async def linked(path: Path, books: Books) -> AsyncIterator[WorkerLink]:
    link = WorkerLink("w0", path, books)
    task = asyncio.create_task(link.run())
    try:
        yield link
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_a_snapshot_is_taken_or_refused_with_its_reason(tmp_path: Path) -> None:
    async def story() -> None:
        worker, books, path = Worker(), Books(), control_path(tmp_path, "w0")
        async with listening(path, worker), linked(path, books):
            link = await books.connections.get()
            assert link.hello == Hello("w0", 7, os.getpid(), "1")
            assert await link.push(1, b"good") == Taken(1)
            assert await worker.snapshots.get() == b"good"
            assert await link.push(2, b"bad") == NotTaken(2, "ValueError: no such tier")
            assert (link.taken_version, link.problem) == (1, "ValueError: no such tier")
            assert await link.push(3, b"better") == Taken(3)
            assert (link.taken_version, link.problem) == (3, None)

    run(story())


def test_a_snapshot_larger_than_a_message_may_be_is_not_taken_and_the_link_lives(tmp_path: Path) -> None:
    async def story() -> None:
        worker, books, path = Worker(), Books(), control_path(tmp_path, "w0")
        async with listening(path, worker), linked(path, books):
            link = await books.connections.get()
            refused = await link.push(1, bytes(DOWN_BYTES_MAX))
            assert isinstance(refused, NotTaken)
            assert await link.push(2, bytes(DOWN_BYTES_MAX - 100)) == Taken(2)

    run(story())


def test_reports_limits_refill_and_drain_reach_the_other_end(tmp_path: Path) -> None:
    async def story() -> None:
        worker, books, path = Worker(), Books(), control_path(tmp_path, "w0")
        async with listening(path, worker), linked(path, books):
            link = await books.connections.get()
            first, second = await books.reports.get(), await books.reports.get()
            assert (first.refusals[0].count, second.refusals[0].count) == (1, 2)
            assert (await link.limits("voice")).readings == (READING,)
            assert (await link.limits(None)).readings == (READING,)
            assert (await link.limits("search")).readings == ()
            assert (await link.limits("crowd")).left_out == 1
            spent = (Spent("voice", "dev", "gpt-4o", 12, 3400, 1_700_000_000_000),)
            link.refill(spent)
            assert await worker.refills.get() == spent
            link.begin()
            await worker.begun.wait()
            link.drain()
            await worker.drained.wait()

    run(story())


def test_a_worker_is_refilled_once_in_its_life_and_says_so(tmp_path: Path) -> None:
    async def story() -> None:
        worker, path = Worker(), control_path(tmp_path, "w0")
        async with listening(path, worker):
            books = Books()
            async with linked(path, books):
                link = await books.connections.get()
                assert link.hello is not None
                assert not link.hello.refilled
                link.refill(())
                link.refill((Spent("voice", "dev", None, 1, 1, 1),))
                await link.push(1, b"good")
            books = Books()
            async with linked(path, books):
                link = await books.connections.get()
                assert link.hello is not None
                assert link.hello.refilled
            assert worker.refills.qsize() == 1

    run(story())


def test_the_owner_of_an_answer_is_known_unknown_or_cannot_be_told(tmp_path: Path) -> None:
    async def story() -> None:
        worker, books, path = Worker(), Books(), control_path(tmp_path, "w0")
        async with listening(path, worker) as control:
            with pytest.raises(BooksAway, match="not connected"):
                await control.owner_of("resp_1")
            async with linked(path, books):
                await books.connections.get()
                assert control.connected
                assert await control.owner_of("resp_1") == "voice"
                assert await control.owner_of("resp_nobody") is None
                with pytest.raises(BooksAway, match="ledger"):
                    await control.owner_of("resp_away")

    run(story())


def test_questions_fail_when_the_books_are_silent_or_leave(tmp_path: Path) -> None:
    async def story() -> None:
        worker, books, path = Worker(), Books(), control_path(tmp_path, "w0")
        asked, never = asyncio.Event(), asyncio.Event()

        async def silent(answer_id: str) -> tuple[str | None, bool]:
            asked.set()
            await never.wait()
            return None, True

        books.owner = silent
        async with listening(path, worker) as control:
            async with linked(path, books):
                await books.connections.get()
                with pytest.raises(BooksAway, match="in time"):
                    await control.owner_of("resp_1", timeout_ms=1)
                asked.clear()
                question = asyncio.create_task(control.owner_of("resp_2", timeout_ms=60_000))
                await asked.wait()
            with pytest.raises(BooksAway, match="went away"):
                await question

    run(story())


def test_the_books_connect_again_when_the_worker_returns(tmp_path: Path) -> None:
    async def story() -> None:
        books, path = Books(), control_path(tmp_path, "w0")
        async with linked(path, books) as link:
            with pytest.raises(WorkerAway):
                await link.limits(None)
            async with listening(path, Worker()):
                await books.connections.get()
            async with listening(path, Worker()):
                await books.connections.get()
                assert link.connected
                assert link.taken_version is None

    run(story())


def test_new_books_replace_the_old_ones(tmp_path: Path) -> None:
    async def story() -> None:
        worker, old, new, path = Worker(), Books(), Books(), control_path(tmp_path, "w0")
        async with listening(path, worker):
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(frame(Attach(1)))
            await reader.readexactly(4)
            async with linked(path, new):
                await new.connections.get()
                await reader.read()  # the old connection ends
            writer.close()
        assert old.connections.empty()

    run(story())


def frame(message: msgspec.Struct) -> bytes:
    body = msgspec.msgpack.encode(message)
    return struct.pack(">I", len(body)) + body


GARBAGE = {
    "an HTTP request": b"GET / HTTP/1.1\r\n\r\n",
    "a length beyond the maximum": struct.pack(">I", DOWN_BYTES_MAX + 1),
    "a frame that is no MessagePack": struct.pack(">I", 3) + b"\xc1\xc1\xc1",
    "a message of the wrong direction": frame(Hello("w9", 1, 1, "1")),
    "a good message that is not attach": frame(Taken(1)),
    "half a frame": struct.pack(">I", 100) + b"x",
    "nothing": b"",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_closes_its_own_connection_and_no_other(tmp_path: Path, garbage: bytes) -> None:
    async def story() -> None:
        worker, books, path = Worker(), Books(), control_path(tmp_path, "w0")
        async with listening(path, worker), linked(path, books):
            link = await books.connections.get()
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(garbage)
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()
            assert await link.push(1, b"good") == Taken(1)
            assert books.connections.empty()

    run(story())


def test_garbage_after_attach_ends_the_connection_and_the_worker_serves_the_next(tmp_path: Path) -> None:
    async def story() -> None:
        worker, books, path = Worker(), Books(), control_path(tmp_path, "w0")
        async with listening(path, worker):
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(frame(Attach(1)) + b"\x00\x00\x00\x01\xc1")
            await reader.read()
            writer.close()
            async with linked(path, books):
                link = await books.connections.get()
                assert await link.push(1, b"good") == Taken(1)

    run(story())


def test_garbage_from_a_worker_makes_the_books_connect_again(tmp_path: Path) -> None:
    async def story() -> None:
        path, connections = tmp_path / "w0.sock", asyncio.Queue[None]()

        async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connections.put_nowait(None)
            writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")
            writer.close()

        server = await asyncio.start_unix_server(babble, path)
        async with linked(path, Books()) as link:
            await connections.get()
            await connections.get()
            assert not link.connected
        server.close()

    run(story())


def test_the_socket_is_for_its_owner_and_goes_with_the_worker(tmp_path: Path) -> None:
    async def story() -> None:
        path = control_path(tmp_path, "w0")
        path.parent.mkdir()
        path.write_bytes(b"left by a dead worker")
        async with listening(path, Worker()):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert not path.exists()

    run(story())


def test_a_long_path_is_replaced_by_a_short_one_that_is_the_same_for_everybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitting = PATH_BYTES_MAX - len("/w0/control.sock")
    folder = Path("/" + "f" * (fitting - 1))
    assert control_path(folder, "w0") == folder / "w0" / "control.sock"
    longer = Path("/" + "f" * fitting)
    short = control_path(longer, "w0")
    assert len(os.fsencode(short)) <= PATH_BYTES_MAX
    assert short == control_path(longer / ".." / longer.name, "w0")
    assert short != control_path(longer, "w1")
    monkeypatch.chdir(tmp_path)
    assert control_path(Path("var"), "w0").is_absolute()


def test_a_worker_listens_under_a_long_path_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(temp: str) -> None:
        monkeypatch.setattr("tempfile.tempdir", temp)
        books, path = Books(), control_path(tmp_path / ("long" * 30), "w0")
        async with listening(path, Worker()), linked(path, books):
            await books.connections.get()
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700

    with tempfile.TemporaryDirectory() as temp:
        run(story(temp))


def test_a_private_folder_that_others_may_open_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "gateway-0"
    make_private_folder(folder)
    make_private_folder(folder)
    folder.chmod(0o750)
    with pytest.raises(PermissionError):
        make_private_folder(folder)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(PermissionError):
        make_private_folder(tmp_path / "link")
