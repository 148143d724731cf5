"""Starts books and workers, watches over them, drains. Owns the listening sockets, so that no restart refuses a connection."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import aiohttp
import msgspec
import structlog

from gateway.books import BooksOptions
from gateway.config.snapshot import Listen, Settings
from gateway.process import allow_open_files, clients_max
from gateway.worker import WorkerOptions

RESTART_AFTER_S = (0.1, 0.5, 1, 2, 5)  # a role that dies at once again and again is not started in a tight loop
STEADY_AFTER_S = 30
BOOKS_DRAIN_S = 30
READY_TIMEOUT_S = 30
BAD_CONFIGURATION = 2  # exit status: starting again would not help

_log = structlog.get_logger("gateway.serve")


class ServeError(Exception):
    """Why the gateway cannot start; a sentence for its operator."""


class Bound(msgspec.Struct, frozen=True):
    """Where the gateway listens, once the kernel has chosen."""

    proxy_url: str
    admin_url: str


async def serve(config_folder: Path, settings: Settings, *, announce: Callable[[Bound], None], stop: asyncio.Event) -> int:
    """Run books and workers until `stop` is set. The exit status. Raises ServeError when an address cannot be had."""
    _allow_open_files(settings)
    with ExitStack() as stack:
        proxy = stack.enter_context(_listener(settings.proxy.listen[0]))
        admin = stack.enter_context(_listener(settings.admin.listen))
        bound = Bound(_url(proxy, "https" if settings.proxy.tls else "http"), _url(admin, "http"))
        folder = Path(settings.journal_folder)
        books = Role("books", "gateway.books", BooksOptions(config_folder=str(config_folder), admin_fd=admin.fileno()), admin)
        workers = [
            Role(name, "gateway.worker", WorkerOptions(name, str(folder), proxy.fileno(), settings.journal_segment_bytes), proxy)
            for name in (f"w{number}" for number in range(settings.workers))
        ]
        roles = [books, *workers]
        tasks = {asyncio.create_task(role.keep_running()) for role in roles}
        stopping = asyncio.create_task(stop.wait())
        ready = asyncio.create_task(_announce_when_ready(bound, settings, announce))
        await asyncio.wait({*tasks, stopping}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        stopping.cancel()
        await asyncio.gather(*(worker.stop(settings.proxy.drain_timeout_ms / 1000 + 5) for worker in workers))
        await books.stop(BOOKS_DRAIN_S)  # last: it reads what the workers wrote to their end
        statuses = await asyncio.gather(*tasks)
        await asyncio.gather(ready, stopping, return_exceptions=True)
        return BAD_CONFIGURATION if BAD_CONFIGURATION in statuses else 0


class Role:
    """One child process, started again when it dies."""

    def __init__(self, name: str, module: str, options: msgspec.Struct, listener: socket.socket) -> None:
        self.name = name
        self._argv = [sys.executable, "-m", module, msgspec.json.encode(options).decode(), str(os.getpid())]
        self._fd = listener.fileno()
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()

    async def keep_running(self) -> int:
        """Until it is stopped, or says that its configuration is bad."""
        loop, deaths = asyncio.get_running_loop(), 0
        while True:
            started_s = loop.time()
            self._process = await asyncio.create_subprocess_exec(*self._argv, pass_fds=(self._fd,), start_new_session=True)
            status = await self._process.wait()
            if self._stopping.is_set() or status == BAD_CONFIGURATION:
                return status
            deaths = 0 if loop.time() - started_s > STEADY_AFTER_S else deaths + 1
            wait_s = RESTART_AFTER_S[min(deaths, len(RESTART_AFTER_S)) - 1] if deaths else 0
            _log.error("role died and is started again", role=self.name, status=status, wait_s=wait_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._stopping.wait()
                    return status

    async def stop(self, timeout_s: float) -> None:
        """Ask it to drain; kill it when it does not."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(timeout_s):
                await process.wait()
        except TimeoutError:
            _log.error("role did not drain in time and is killed", role=self.name)
            with suppress(ProcessLookupError):
                process.kill()


async def _announce_when_ready(bound: Bound, settings: Settings, announce: Callable[[Bound], None]) -> None:
    token = settings.admin.token.value
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    path = settings.admin.listen.path
    connector = aiohttp.UnixConnector(path) if path else None
    async with aiohttp.ClientSession(headers=headers, connector=connector) as session:
        while True:
            try:
                async with session.get("http://localhost/readyz" if path else bound.admin_url + "/readyz") as answer:
                    if answer.status == 200:
                        break
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)
    announce(bound)


def _allow_open_files(settings: Settings) -> None:
    allow_open_files()
    wanted = settings.proxy.connections_max
    possible = clients_max(wanted, sum(account.connections_max for account in settings.accounts))
    if possible < wanted:
        advice = "raise the limit of open files: ulimit -Hn, or LimitNOFILE= of systemd"
        _log.warning("few_open_files", connections_max=wanted, possible=possible, advice=advice)


def _listener(listen: Listen) -> socket.socket:
    """A bound socket that listens already: connections wait in its backlog while a worker starts."""
    try:
        if listen.path:
            with suppress(FileNotFoundError):
                os.unlink(listen.path)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(listen.path)
        else:
            family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
            listener = socket.socket(family, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((listen.host, listen.port))
        listener.listen(2_048)
        listener.setblocking(False)
    except OSError as error:
        where = listen.path or f"{listen.host}:{listen.port}"
        advice = "Is another gateway running? Change `listen` in gateway.yaml."
        raise ServeError(f"cannot listen on {where}: {error.strerror}. {advice}") from error
    return listener


def _url(listener: socket.socket, scheme: str) -> str:
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
