"""`gateway serve` as a child of the demo: the same program that users start."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from contextlib import suppress
from pathlib import Path

READY_TIMEOUT_S = 60  # a slow machine
STOP_TIMEOUT_S = 60  # beyond the drain times of its roles: it kills those itself
LOG_LINES_TOLD = 15
FORGOTTEN_ENVIRONMENT = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTPS_PROXY", "https_proxy")
"""The demo must not know the user's account."""

_READY = re.compile(r"gateway: ready on (\S+) \(admin (\S+)\)")


class DemoError(Exception):
    """Why the demo cannot go on; a sentence."""


class DemoGateway:
    """A running gateway over a configuration folder. Its working folder is `home`; there it logs to `gateway.log`."""

    def __init__(self, home: Path, config: Path) -> None:
        self.proxy_url = ""
        self.admin_url = ""
        self._home, self._config = home, config
        self._log = home / "gateway.log"
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> DemoGateway:
        environment = {name: value for name, value in os.environ.items() if name not in FORGOTTEN_ENVIRONMENT}
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gateway", "serve", "--config", str(self._config)),
                cwd=self._home,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the demo, which then ends the gateway in order
            )
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                await self._ready(self._process)
        except BaseException as error:
            await self._end()
            if isinstance(error, TimeoutError):
                raise DemoError(f"the gateway was not ready within {READY_TIMEOUT_S} s. Its log ends:\n{self._log_end()}") from error
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end()

    async def _ready(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            if found := _READY.search(line.decode()):
                self.proxy_url, self.admin_url = found[1], found[2]
                return
        status = await process.wait()
        raise DemoError(f"the gateway ended with status {status} before it was ready. Its log ends:\n{self._log_end()}")

    async def _end(self) -> None:
        """Ask it to finish what runs; when it returns, everything is in the ledger. It is killed if it does not end."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.communicate()
        except BaseException as error:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            if isinstance(error, TimeoutError):
                raise DemoError(f"the gateway did not end within {STOP_TIMEOUT_S} s and was killed") from error
            raise

    def _log_end(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-LOG_LINES_TOLD:])
