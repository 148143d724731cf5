"""Starts books and workers, watches over them, drains, and makes way for the next release.

`listeners.py` the sockets, which outlive every role · `alone.py` the lock on the journals · `roles.py` the children ·
`handover.py` from one release to the next.

    SIGTERM, SIGINT   nobody is let in any more; what runs comes to its end, within proxy.drain_timeout_ms
    SIGHUP            the books read the configuration again
    SIGUSR2           restart without a refused connection: this process becomes what is installed now, and keeps its sockets;
                      new books take over from the old, a new worker starts beside the old one, and once it is ready the old one
                      drains. What would not start (a bad configuration, an address that is taken, a broken installation) changes nothing.

Over a SIGUSR2 buckets of a day are refilled from the ledger, as at every start, but for what is under way in that moment; those
of a minute begin full. So for a minute a team may have one capacity more, in all.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress
from pathlib import Path

import aiohttp
import msgspec
import structlog

from gateway.books import BooksOptions
from gateway.config.snapshot import Settings
from gateway.process import allow_open_files, clients_max
from gateway.serve.alone import hold_journals
from gateway.serve.handover import Handover, become_next, handed_over, listeners_of, why_not
from gateway.serve.listeners import Listeners, ServeError, given_by_systemd
from gateway.serve.roles import BAD_CONFIGURATION, Predecessor, Role
from gateway.worker import WorkerOptions

BOOKS_DRAIN_S = 30
WORKER_BEYOND_DRAIN_S = 5  # it ends by itself at the end of its drain; later it is killed
ASK_READY_EVERY_S = 0.05
ASK_READY_TIMEOUT = aiohttp.ClientTimeout(total=5)  # seconds; books that are busy are asked again

_log = structlog.get_logger("gateway.serve")


class Bound(msgspec.Struct, frozen=True):
    """Where the gateway listens, once the kernel has chosen."""

    proxy_urls: tuple[str, ...]
    admin_url: str


async def serve(config_folder: Path, settings: Settings, *, announce: Callable[[Bound], None]) -> int:
    """Run books and workers until SIGTERM or SIGINT. The exit status.

    Raises ServeError when an address cannot be had, or another gateway has the journals.
    """
    _allow_open_files(settings)
    before = handed_over(os.environ)
    lock = hold_journals(settings.journal_folder, None if before is None else before.journals_lock)
    given = given_by_systemd(os.environ) if before is None else listeners_of(before)
    with ExitStack() as stack:
        listeners = Listeners(settings, given)
        stack.callback(listeners.close)
        return await _Serving(config_folder, settings, listeners, lock, before, announce).run()


def try_out(settings: Settings) -> None:
    """Whether it could take over from the gateway that asks, which goes on; ServeError: it could not.

    Tries the addresses and the journal folder that this gateway does not have yet. Nobody asks (a person does): nothing to try,
    since a gateway may well run there.
    """
    before = handed_over(os.environ)
    if before is not None:
        hold_journals(settings.journal_folder, before.journals_lock)
        Listeners(settings, listeners_of(before, lent=True)).close()


class _Serving:
    """Books and workers, from their start to their end."""

    def __init__(
        self,
        config_folder: Path,
        settings: Settings,
        listeners: Listeners,
        journals_lock: int | None,
        before: Handover | None,
        announce: Callable[[Bound], None],
    ) -> None:
        self._settings, self._listeners, self._journals_lock, self._announce = settings, listeners, journals_lock, announce
        children = before.children if before is not None else {}
        self._predecessors = {name: Predecessor(name, pid) for name, pid in children.items()}
        proxy_fds, admin_fd = tuple(listener.fd for listener in listeners.proxy), listeners.admin.fd
        self._books = Role("books", "gateway.books", BooksOptions(config_folder=str(config_folder), admin_fd=admin_fd), (admin_fd,))
        self._workers = [
            Role(name, "gateway.worker", WorkerOptions(name, settings.journal_folder, proxy_fds, settings.journal_segment_bytes), proxy_fds)
            for name in (_name(number, taken=children.keys()) for number in range(settings.workers))
        ]
        self._roles = [self._books, *self._workers]
        self._stop = asyncio.Event()
        self._books_rule = asyncio.Event()  # our own, and no others: a worker begins with their configuration
        self._settled = asyncio.Event()  # ready, and alone
        self._restarting: asyncio.Task[None] | None = None

    async def run(self) -> int:
        """To the end. The exit status."""
        loop = asyncio.get_running_loop()
        for number, act in (
            (signal.SIGTERM, self._stop.set),
            (signal.SIGINT, self._stop.set),
            (signal.SIGHUP, lambda: self._books.signal(signal.SIGHUP)),
            (signal.SIGUSR2, self._restart),
        ):
            loop.add_signal_handler(number, act)
        for role in self._roles:
            role.patient = bool(self._predecessors)
        running = {asyncio.create_task(self._books.keep_running()), *(asyncio.create_task(self._work(worker)) for worker in self._workers)}
        stopping, starting = asyncio.create_task(self._stop.wait()), asyncio.create_task(self._start())
        done, _ = await asyncio.wait({*running, stopping, starting}, return_when=asyncio.FIRST_COMPLETED)
        if done == {starting}:
            starting.result()  # raises what was wrong with it, which is ours
            await asyncio.wait({*running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for task in (starting, stopping, self._restarting):
            if task is not None:
                task.cancel()
        await self._end()
        statuses = await asyncio.gather(*running)
        await asyncio.gather(starting, stopping, return_exceptions=True)
        return BAD_CONFIGURATION if BAD_CONFIGURATION in statuses else 0

    async def _start(self) -> None:
        """Books, then workers, take over from those of the release before, if there is one; then it is told where we listen."""
        before = dict(self._predecessors)
        books = before.pop("books", None)
        if books is not None:
            await self._books.loaded.wait()  # and waits for the lock on the journals
            await books.stop(BOOKS_DRAIN_S)
        self._books_rule.set()
        await self._ready()
        tls = self._settings.proxy.tls is not None
        urls = tuple(listener.url(tls=tls) for listener in self._listeners.proxy)
        self._announce(Bound(urls, self._listeners.admin.url(tls=False)))
        await asyncio.gather(*(worker.stop(self._worker_stop_s) for worker in before.values()))
        self._predecessors.clear()
        for role in self._roles:
            role.patient = False
        self._settled.set()

    async def _work(self, worker: Role) -> int:
        await self._books_rule.wait()
        return await worker.keep_running()

    async def _ready(self) -> None:
        """Ask the admin port until every worker of ours carries calls."""
        admin, path = self._settings.admin, self._settings.admin.listen.path
        headers = {"Authorization": f"Bearer {admin.token.value}"} if admin.token.value else {}
        url = "http://localhost" if path else self._listeners.admin.url(tls=False)
        wanted = {f"ok worker:{worker.name} ok" for worker in self._workers}
        async with aiohttp.ClientSession(headers=headers, connector=aiohttp.UnixConnector(path) if path else None) as session:
            while True:
                with suppress(aiohttp.ClientError, TimeoutError):
                    async with session.get(url + "/readyz", timeout=ASK_READY_TIMEOUT) as answer:
                        if answer.status == 200 and wanted <= set((await answer.text()).splitlines()):
                            return
                await asyncio.sleep(ASK_READY_EVERY_S)

    async def _end(self) -> None:
        """Nobody is let in; workers take who waits in the queue and finish; then the books read what they wrote to its end."""
        self._listeners.close_proxy()
        before = dict(self._predecessors)
        books = before.pop("books", None)
        workers: list[Role | Predecessor] = [*self._workers, *before.values()]
        await asyncio.gather(*(worker.stop(self._worker_stop_s) for worker in workers))
        if books is not None:
            await books.stop(BOOKS_DRAIN_S)
        await self._books.stop(BOOKS_DRAIN_S)
        self._books_rule.set()  # a worker that has not begun does not

    @property
    def _worker_stop_s(self) -> float:
        return self._settings.proxy.drain_timeout_ms / 1000 + WORKER_BEYOND_DRAIN_S

    def _restart(self) -> None:
        """One at a time; asked again before it has begun, it is the same one."""
        if self._restarting is None or self._restarting.done():
            self._restarting = asyncio.create_task(self._become_next())

    async def _become_next(self) -> None:
        _log.info("restart_asked")
        await self._settled.wait()
        listening = {listener.fd: listener.ours for listener in (*self._listeners.proxy, self._listeners.admin)}
        reason = await why_not(Handover({}, listening, self._journals_lock))
        children = {role.name: role.pid for role in self._roles}
        missing = [name for name, pid in children.items() if pid is None]
        if reason is None and missing:
            reason = f"not running now: {', '.join(missing)}"
        if reason is None:
            _log.info("restarting")
            running = {name: pid for name, pid in children.items() if pid is not None}
            try:
                become_next(Handover(running, listening, self._journals_lock))
            except OSError as error:
                reason = str(error)
        _log.error("restart_refused", reason=reason)


def _name(number: int, taken: Collection[str]) -> str:
    """Of a worker: another than that of its predecessor, since for a while each writes a journal."""
    name = f"w{number}"
    return f"{name}b" if name in taken else name


def _allow_open_files(settings: Settings) -> None:
    allow_open_files()
    wanted = settings.proxy.connections_max
    possible = clients_max(wanted, sum(account.connections_max for account in settings.accounts))
    if possible < wanted:
        advice = "raise the limit of open files: ulimit -Hn, or LimitNOFILE= of systemd"
        _log.warning("few_open_files", connections_max=wanted, possible=possible, advice=advice)


__all__ = ["Bound", "ServeError", "serve", "try_out"]
