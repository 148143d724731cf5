"""Time-outs without a timer each: everything that may take too long holds a deadline, and one sweep looks at all of them.

Setting a deadline is an attribute; a timer handle a call would cost more than the whole head. The sweep comes every
SWEEP_MS, so a time-out may be late by that.
"""

from __future__ import annotations

import asyncio
import math
from typing import Protocol

SWEEP_MS = 250
NEVER = math.inf


class Timed(Protocol):
    """Something with a deadline, in seconds of the loop's clock; NEVER for none."""

    deadline_s: float

    def expired(self) -> None:
        """The deadline has passed. Sets a new one or ends."""


class Deadlines:
    """All that is timed in this worker."""

    def __init__(self) -> None:
        self._timed: set[Timed] = set()
        self._handle: asyncio.TimerHandle | None = None

    def add(self, timed: Timed) -> None:
        """Watch it from now on."""
        self._timed.add(timed)

    def remove(self, timed: Timed) -> None:
        """Forget it; unknown ones are fine."""
        self._timed.discard(timed)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to sweep."""

        def sweep() -> None:
            self._handle = loop.call_later(SWEEP_MS / 1000, sweep)  # first: no fault of one may end the sweep for all
            now_s = loop.time()
            for timed in self._timed:
                if timed.deadline_s <= now_s:
                    loop.call_soon(expire, timed)

        def expire(timed: Timed) -> None:
            if timed.deadline_s <= loop.time() and timed in self._timed:  # nothing has come since
                timed.expired()

        self._handle = loop.call_later(SWEEP_MS / 1000, sweep)

    def stop(self) -> None:
        """End the sweep."""
        if self._handle is not None:
            self._handle.cancel()
