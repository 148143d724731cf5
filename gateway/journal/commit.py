"""Group commit: what was written becomes durable a few milliseconds after the first record that is not.

A worker has a process for it beside itself (`commit_process.py`), for speed; whoever writes a few records, a thread.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Literal, Protocol

from gateway.journal.allocate import Segment

Sync = Callable[[int], None]
"""(file descriptor): returns when its data is durable or raises OSError. `os.fdatasync` is one; it covers mapped pages too."""


CommitBy = Literal["thread", "process"]


class JournalError(Exception):
    """The journal cannot take a record."""


class JournalFailed(JournalError):
    """The disk refused to make records durable. Final: after a failed sync the kernel may have dropped them. Restart the worker."""


class Committer(Protocol):
    """What the writer asks of either."""

    @property
    def written(self) -> int:
        """Sequence of the newest record."""

    @property
    def durable(self) -> int:
        """Everything up to this sequence is on disk."""

    @property
    def failure(self) -> OSError | None:
        """Why nothing more will become durable. Final."""

    def begin(self, segment: Segment) -> None:
        """Records go to this segment from now on; the one before is synced once more and closed."""

    def wrote(self, sequence: int) -> None:
        """A record is in the page cache."""

    def flush(self, timeout_ms: int | None = None) -> None:
        """Block until every record written so far is durable. JournalFailed when it cannot be, TimeoutError when not in time."""

    def tend(self) -> None:
        """Look whether it still works, a few times a second."""

    def close(self) -> None:
        """Sync what is left, then close every segment. Failures are told by `failure`."""


def sync_segments(segments: Iterable[Segment], sync: Sync) -> None:
    """Make what is in them durable, oldest first. Raises OSError."""
    for segment in segments:
        sync(segment.descriptor)


class ThreadCommitter:
    """Syncs dirty segments in the order they were written, in a thread of this process.

    Between record and disk are `interval_ms`, the sync, and the one before it if that is still under way; and as long as other
    threads keep the GIL.
    """

    def __init__(self, sync: Sync, interval_ms: int) -> None:
        self.written = 0  # sequence of the newest record; set by the writer
        self.durable = 0  # everything up to this sequence is on disk
        self.failure: OSError | None = None
        self._dirty = False
        self._sync = sync
        self._interval_s = interval_ms / 1000
        self._segments: deque[Segment] = deque()  # not yet wholly durable, oldest first; the last one is being written
        self._wake = threading.Lock()  # a bare lock as a signal: an Event costs the writer ten times as much
        self._wake.acquire()
        self._hurry = threading.Event()
        self._done = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="journal-commit", daemon=True)
        self._thread.start()

    def begin(self, segment: Segment) -> None:
        self._segments.append(segment)

    def wrote(self, sequence: int) -> None:
        self.written = sequence
        if not self._dirty:
            self._dirty = True
            self._wake.release()  # taken again by the thread before it clears `_dirty`: never released twice

    def flush(self, timeout_ms: int | None = None) -> None:
        target = self.written
        deadline_s = None if timeout_ms is None else time.monotonic() + timeout_ms / 1000
        with self._done:
            while self.durable < target:
                if self.failure is not None:
                    raise JournalFailed(f"the journal's disk failed: {self.failure}")
                self._hurry.set()
                left_s = None if deadline_s is None else deadline_s - time.monotonic()
                if left_s is not None and left_s <= 0:
                    raise TimeoutError(f"the journal was not durable within {timeout_ms} ms")
                self._done.wait(left_s)

    def tend(self) -> None:
        """A thread does not die alone."""

    def close(self) -> None:
        self._stopping = True
        self._hurry.set()
        self.wrote(self.written)
        self._thread.join()
        while self._segments:
            self._segments.popleft().close()

    def _run(self) -> None:
        while self.failure is None and not self._stopping:
            self._wake.acquire()
            self._hurry.wait(self._interval_s)
            self._hurry.clear()
            self._commit()

    def _commit(self) -> None:
        self._dirty = False  # before the target is read: a record that comes later wakes us again
        target = self.written
        segments = tuple(self._segments)
        try:
            sync_segments(segments, self._sync)
        except OSError as error:
            self.failure = error
        else:
            for _ in segments[:-1]:
                self._segments.popleft().close()
            self.durable = target
        with self._done:
            self._done.notify_all()
