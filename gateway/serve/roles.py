"""The children of `serve`: started again when they die, told to end when it ends; and those of the release before it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

import msgspec
import structlog

RESTART_AFTER_S = (0.1, 0.5, 1, 2, 5)  # a role that dies at once again and again is not started in a tight loop
STEADY_AFTER_S = 30
BAD_CONFIGURATION = 2  # exit status: starting again would not help

_log = structlog.get_logger("gateway.serve")


class Role:
    """One child process, started again when it dies."""

    def __init__(self, name: str, module: str, options: msgspec.Struct, fds: Sequence[int]) -> None:
        self.name = name
        self.loaded = asyncio.Event()  # it has said, by a line of its output, that it has what it needs and begins its work
        self.patient = False  # a bad configuration is tried again too: others serve meanwhile
        self._argv = [sys.executable, "-m", module, msgspec.json.encode(options).decode(), str(os.getpid())]
        self._fds = tuple(fds)
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """Of its process; None while there is none."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def keep_running(self) -> int:
        """Until it is stopped, or says that its configuration is bad."""
        loop, deaths = asyncio.get_running_loop(), 0
        while not self._stopping.is_set():
            started_s = loop.time()
            status = await self._run()
            if self._stopping.is_set() or (status == BAD_CONFIGURATION and not self.patient):
                return status
            deaths = 0 if loop.time() - started_s > STEADY_AFTER_S else deaths + 1
            wait_s = RESTART_AFTER_S[min(deaths, len(RESTART_AFTER_S)) - 1] if deaths else 0
            _log.error("role died and is started again", role=self.name, status=status, wait_s=wait_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._stopping.wait()
        return 0

    async def _run(self) -> int:
        process = self._process = await asyncio.create_subprocess_exec(
            *self._argv, pass_fds=self._fds, start_new_session=True, stdout=asyncio.subprocess.PIPE
        )
        if self._stopping.is_set():
            self.signal(signal.SIGTERM)  # stop() came before there was anybody to tell
        assert process.stdout is not None
        while await process.stdout.readline():
            self.loaded.set()
        return await process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send it on, if there is a process."""
        if self.pid is not None and self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def stop(self, timeout_s: float) -> None:
        """Ask it to drain; kill it when it does not."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(timeout_s):
                await process.wait()
        except TimeoutError:
            _log.error("role did not drain in time and is killed", role=self.name)
            self.signal(signal.SIGKILL)


class Predecessor:
    """A child of the release before this one, which this process was until it became this one. It is not started again."""

    def __init__(self, name: str, pid: int) -> None:
        self.name, self._pid = name, pid
        self.ended = asyncio.create_task(asyncio.to_thread(_wait, pid))  # its number is nobody else's until then

    async def stop(self, timeout_s: float) -> None:
        """Ask it to drain; kill it when it does not."""
        self._signal(signal.SIGTERM)
        done, _ = await asyncio.wait({self.ended}, timeout=timeout_s)
        if not done:
            _log.error("role of the release before did not drain in time and is killed", role=self.name)
            self._signal(signal.SIGKILL)
            await asyncio.wait({self.ended})

    def _signal(self, number: signal.Signals) -> None:
        if not self.ended.done():
            with suppress(ProcessLookupError):
                os.kill(self._pid, number)


def _wait(pid: int) -> None:
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)
