"""Group commit by a process beside the worker, which shares four words of memory with it (`syncer.py` is its program)."""

from __future__ import annotations

import mmap
import os
import select
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable

import structlog

from gateway.journal import syncer
from gateway.journal.allocate import Segment
from gateway.journal.commit import JournalFailed

DEATHS_MAX = 3  # in a row, nothing synced between: then it is not started again

_log = structlog.get_logger("gateway.journal")


class ProcessCommitter:
    """Says what was written; the syncer says what is durable.

    Between record and disk are at most `interval_ms` and the sync, twice that for a record that comes while one is under way,
    and whatever the machine lets the syncer wait for a CPU. When the worker is killed the syncer ends its work. A syncer that is
    killed itself is started again by the next `tend` (a worker's comes after 250 ms at most), with every segment that is not yet
    durable.
    """

    def __init__(self, interval_ms: int, close_soon: Callable[[Segment], None]) -> None:
        """Start the syncer. OSError when that cannot be. What is durable is given to `close_soon`."""
        self.written = 0
        self._interval_ms = interval_ms
        self._close_soon = close_soon
        self._segments: deque[Segment] = deque()  # not known to be wholly durable, oldest first; the last one is being written
        self._ends: deque[int] = deque()  # last sequence in each of them but the last
        self._own_failure: OSError | None = None
        self._deaths = 0
        self._memory = os.memfd_create("journal-syncer", os.MFD_CLOEXEC)
        os.ftruncate(self._memory, syncer.WORDS_BYTES)
        self._words = memoryview(mmap.mmap(self._memory, syncer.WORDS_BYTES)).cast("Q")
        try:
            self._start()
        except OSError:
            os.close(self._memory)
            raise

    @property
    def syncer_pid(self) -> int:
        """Of the process that syncs now."""
        return self._syncer.pid

    @property
    def durable(self) -> int:
        return self._words[syncer.DURABLE]

    @property
    def failure(self) -> OSError | None:
        code = self._words[syncer.ERROR]
        return OSError(code, os.strerror(code)) if code else self._own_failure

    def begin(self, segment: Segment) -> None:
        if self._segments:
            self._ends.append(self.written)
        self._segments.append(segment)
        while self._ends and self._ends[0] <= self.durable:
            self._ends.popleft()
            self._close_soon(self._segments.popleft())
        self._hand_over(segment)

    def wrote(self, sequence: int) -> None:
        self.written = sequence
        words = self._words
        words[syncer.WRITTEN] = sequence
        if words[syncer.ASLEEP]:
            words[syncer.ASLEEP] = 0
            self._say(syncer.WAKE)

    def flush(self, timeout_ms: int | None = None) -> None:
        target = self.written
        deadline_s = None if timeout_ms is None else time.monotonic() + timeout_ms / 1000
        while self.durable < target:
            if (failure := self.failure) is not None:
                raise JournalFailed(f"the journal's disk failed: {failure}")
            left_ms = None if deadline_s is None else (deadline_s - time.monotonic()) * 1000
            if left_ms is not None and left_ms <= 0:
                raise TimeoutError(f"the journal was not durable within {timeout_ms} ms")
            self._say(syncer.FLUSH)
            self._hear(left_ms)

    def tend(self) -> None:
        if self._syncer.poll() is not None:
            self._restart()

    def close(self) -> None:
        try:
            self.flush()
        except JournalFailed:
            pass  # `failure` tells it
        self._control.close()  # this ends the syncer
        self._syncer.wait()
        while self._segments:
            self._segments.popleft().close()
        os.close(self._memory)

    def _start(self) -> None:
        self._durable_at_start = self.durable
        self._words[syncer.ASLEEP] = 0
        self._control, its_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        self._answer = select.poll()
        self._answer.register(self._control, select.POLLIN)
        numbers = [str(number) for number in (self._interval_ms, its_end.fileno(), self._memory)]
        with its_end:
            self._syncer = subprocess.Popen(
                [sys.executable, "-I", "-S", syncer.__file__, *numbers],
                pass_fds=(its_end.fileno(), self._memory), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            )  # fmt: skip
        for segment in self._segments:
            self._hand_over(segment)

    def _restart(self) -> None:
        status, control = self._syncer.wait(), self._control
        if self.failure is not None:
            return  # it ends by itself when the disk has failed
        in_vain = self.durable == self._durable_at_start and self.durable < self.written
        self._deaths = self._deaths + 1 if in_vain else 1
        _log.error("journal_syncer_died", status=status, deaths=self._deaths, not_durable=self.written - self.durable)
        if self._deaths > DEATHS_MAX:
            self._own_failure = OSError(f"the process that syncs ended {self._deaths} times and synced nothing, status {status}")
            return
        try:
            self._start()
        except OSError as error:
            self._own_failure = error
        if control is not self._control:
            control.close()

    def _hand_over(self, segment: Segment) -> None:
        try:
            socket.send_fds(self._control, [syncer.SEGMENT], [segment.descriptor])
        except ConnectionError:
            pass  # it has died: the next one is given all of them
        except OSError as error:  # hundreds of segments behind
            self._own_failure = error

    def _say(self, message: bytes) -> None:
        try:
            self._control.send(message)
        except (ConnectionError, BlockingIOError):
            pass  # it has died, or has hundreds of messages to wake up by

    def _hear(self, timeout_ms: float | None) -> None:
        """Wait for an answer to FLUSH; whoever died instead is replaced."""
        if not self._answer.poll(timeout_ms):
            return
        try:
            heard = self._control.recv(1)
        except ConnectionError:
            heard = b""
        if not heard:
            self._restart()
