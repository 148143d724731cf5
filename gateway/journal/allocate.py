"""Segment files made ahead of need, in a thread: a full disk is met before a call is admitted, never by an entry."""

from __future__ import annotations

import mmap
import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gateway.journal.format import SegmentName

_READ_BYTES = 1024 * 1024

Allocate = Callable[[int, int, int], None]
"""(file descriptor, offset, bytes): gives the file its blocks or raises OSError. `os.posix_fallocate` is one."""


@dataclass(slots=True, eq=False)
class Segment:
    """One open segment file and its memory."""

    path: Path
    descriptor: int
    memory: mmap.mmap

    def close(self) -> None:
        self.memory.close()
        os.close(self.descriptor)


def make_segment(path: Path, segment_bytes: int, allocate: Allocate) -> Segment:
    """A new file of zeros with all its blocks, durable in its folder. OSError, and no file left, when there is no space.

    It gets its name when it is whole: readers never see one that is being made, nor a boot that never had room. Its pages are
    brought into memory now, which halves the cost of the first write to each: by reading, since MAP_POPULATE keeps the GIL
    for 5 ms, in which the worker's loop stands still.
    """
    unfinished = path.with_name("unfinished")  # left by a kill it is taken over here
    descriptor = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
    try:
        allocate(descriptor, 0, segment_bytes)
        if os.fstat(descriptor).st_size < segment_bytes:
            raise OSError(f"{path.name} got fewer than {segment_bytes} bytes")  # writing past the end of a mapped file is SIGBUS
        os.fsync(descriptor)
        room = bytearray(_READ_BYTES)
        for offset in range(0, segment_bytes, _READ_BYTES):
            os.preadv(descriptor, [room], offset)
        memory = mmap.mmap(descriptor, segment_bytes, flags=mmap.MAP_SHARED)
        unfinished.rename(path)
        sync_folder(path.parent)
    except BaseException:
        os.close(descriptor)
        unfinished.unlink(missing_ok=True)
        raise
    return Segment(path, descriptor, memory)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Spares:
    """Keeps as many empty segments ready as the writer wants; tries again by itself when the disk was full. Closes used ones."""

    def __init__(self, folder: Path, boot: int, segment_bytes: int, allocate: Allocate, retry_interval_ms: int) -> None:
        self.ready: deque[Segment] = deque()
        self.error: OSError | None = None  # of the last attempt; None: it succeeded
        self._folder = folder
        self._boot = boot
        self._segment_bytes = segment_bytes
        self._allocate = allocate
        self._retry_interval_s = retry_interval_ms / 1000
        self._used: deque[Segment] = deque()
        self._last_number = 0
        self._wanted = 1
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="journal-allocate", daemon=True)

    def start(self) -> None:
        """Make the first segment before returning, if the disk lets us; then go on in the background."""
        self._fill()
        self._thread.start()

    def want(self, count: int) -> None:
        """Have at least `count` ready soon. Costs nothing when they are."""
        self._wanted = max(1, count)
        if len(self.ready) < self._wanted:
            self._wake.set()

    def take(self) -> Segment | None:
        """The next empty segment; None when there is none now."""
        segment = self.ready.popleft() if self.ready else None
        self._wake.set()
        return segment

    def close_soon(self, segment: Segment) -> None:
        """Close a segment that is durable, in the background: to unmap one takes a millisecond."""
        self._used.append(segment)
        self._wake.set()

    def close(self) -> None:
        """Stop, and remove the segments that were never begun."""
        self._stopping.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._close_used()
        while self.ready:
            segment = self.ready.popleft()
            segment.close()
            segment.path.unlink(missing_ok=True)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._fill()
            self._close_used()
            if self.error is not None:
                self._stopping.wait(self._retry_interval_s)
            else:
                self._wake.wait()
                self._wake.clear()

    def _close_used(self) -> None:
        while self._used:
            self._used.popleft().close()

    def _fill(self) -> None:
        while len(self.ready) < self._wanted and not self._stopping.is_set():
            name = SegmentName(self._boot, self._last_number + 1)
            try:
                segment = make_segment(self._folder / name.file_name, self._segment_bytes, self._allocate)
            except OSError as error:
                self.error = error
                return
            self.error = None
            self._last_number = name.segment
            self.ready.append(segment)
