"""From one release to the next: `serve` becomes it by `execve`, in the same process, and keeps its sockets and its children.

So no connection is refused, supervisors and containers see one process all the time, and whoever serves goes on until others do.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from typing import NoReturn

import msgspec

from gateway.serve.listeners import Listener, listening_at

VARIABLE = "GATEWAY_HANDOVER"
DRY_RUN = "--dry-run"  # an option of `gateway serve`
DRY_RUN_TIMEOUT_S = 60.0
REASON_CHARACTERS_MAX = 2_000


class Handover(msgspec.Struct, frozen=True):
    """What one release leaves to the next."""

    children: dict[str, int]  # pid by role: books, w0, ...
    listening: dict[int, bool]  # by file descriptor: whether we made it, and so remove its file at the end
    journals_lock: int | None = None  # file descriptor; None: an older release, or a disk without room for it

    @property
    def fds(self) -> tuple[int, ...]:
        """All that the next process must be started with."""
        return (*self.listening, *(() if self.journals_lock is None else (self.journals_lock,)))


def handed_over(env: MutableMapping[str, str]) -> Handover | None:
    """What the release before left; None: nothing ran. Taken out of `env`, since it is not for our children."""
    written = env.pop(VARIABLE, None)
    return None if written is None else msgspec.json.decode(written, type=Handover)


def listeners_of(handover: Handover, *, lent: bool = False) -> list[Listener]:
    """The sockets it left; `lent`: to try them only, so their files stay. ServeError when one is not there."""
    return [listening_at(fd, ours=ours and not lent) for fd, ours in handover.listening.items()]


async def why_not(handover: Handover) -> str | None:
    """Why what is installed now would not start with the files as they are now; None: it would.

    Asked of a process of its own, which is lent what would be handed over: so it tries to listen where it does not listen yet.
    """
    argv = [sys.executable, *sys.orig_argv[1:], DRY_RUN]
    asked = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=_told_of(handover),
        pass_fds=handover.fds,
    )
    try:
        async with asyncio.timeout(DRY_RUN_TIMEOUT_S):
            _, said = await asked.communicate()
    except TimeoutError:
        return f"{' '.join(argv)} did not end within {DRY_RUN_TIMEOUT_S:.0f} s"
    finally:
        if asked.returncode is None:
            with suppress(ProcessLookupError):
                asked.kill()
            await asked.wait()
    if asked.returncode == 0:
        return None
    return said.decode(errors="replace").strip()[-REASON_CHARACTERS_MAX:] or f"it ends with status {asked.returncode}"


def become_next(handover: Handover) -> NoReturn:
    """Become what is installed now. Raises OSError when that cannot be started: then nothing has changed."""
    for fd in handover.fds:
        os.set_inheritable(fd, True)
    asked_meanwhile = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGUSR2, signal.SIGHUP)}  # they would end it
    try:
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], _told_of(handover))
    except OSError:
        for number, handler in asked_meanwhile.items():
            signal.signal(number, handler)
        for fd in handover.fds:
            os.set_inheritable(fd, False)
        raise


def _told_of(handover: Handover) -> dict[str, str]:
    return os.environ | {VARIABLE: msgspec.json.encode(handover).decode()}
