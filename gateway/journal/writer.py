"""The worker's side: every record goes through here, in one thread, and costs a copy."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self
from zlib import crc32

import msgspec

from gateway.journal.allocate import Allocate, Spares, sync_folder
from gateway.journal.commit import CommitBy, Committer, JournalError, JournalFailed, Sync, ThreadCommitter
from gateway.journal.commit_process import ProcessCommitter
from gateway.journal.fit import fit_entry, fit_intent
from gateway.journal.format import (
    AFTER_CRC,
    BOOT_MAX,
    CRC,
    ENTRY_BYTES_MAX,
    HEADER_BYTES,
    VERSION,
    EndMark,
    check_worker_name,
    segments_in,
)
from gateway.journal.records import Closed, Entry, Intent

SEGMENT_BYTES = 16 * 1024 * 1024

_CRC_BYTES = CRC.size
_PAYLOAD_BYTES_MAX = ENTRY_BYTES_MAX - HEADER_BYTES


class JournalFull(JournalError):
    """There is no room for another exchange: answer 503. Room is looked for in the background."""


class JournalLocked(JournalError):
    """Another process writes this worker's journal."""


class JournalWriter:
    """Appends intents and entries of one worker. One thread calls it; a thread of its own allocates.

    Syncs are done by a thread too, or for a worker, which cannot spare it the GIL, by a process (`commit_by`). What is written
    is on disk about 5 ms later, as long as that thread or process gets its CPU: `commit_process.py` says when it is more.

    An intent is taken only if its entry, and that of every other open intent, will surely find room. The arithmetic is in
    slots of ENTRY_BYTES_MAX: a record never uses more than one slot, and what a segment wastes at its end is less than one.
    """

    def __init__(
        self,
        folder: Path,
        worker: str,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        commit_by: CommitBy = "thread",
        commit_interval_ms: int = 4,  # and about one for the sync itself: durable within 5
        retry_interval_ms: int = 1_000,
        lock_wait_ms: int = 1_000,  # a reader probes the lock for microseconds; whoever holds it longer is alive
        allocate: Allocate = os.posix_fallocate,
        sync: Sync = os.fdatasync,  # of the thread: a process has its own
    ) -> None:
        """Start a new boot. JournalLocked if the worker already runs; a full disk is no error here, only not `ready`."""
        if segment_bytes < 4 * ENTRY_BYTES_MAX:
            raise ValueError(f"segment_bytes must be at least {4 * ENTRY_BYTES_MAX}, not {segment_bytes}")
        self._folder = folder / check_worker_name(worker)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self._folder / "lock", lock_wait_ms)
        sync_folder(self._folder.parent)
        names = segments_in(self._folder)
        self.boot = names[-1].boot + 1 if names else min(int(time.time()), BOOT_MAX)
        self._segment_bytes = segment_bytes
        self._slots_each = segment_bytes // ENTRY_BYTES_MAX
        self._encoder = msgspec.msgpack.Encoder()
        self._open: set[str] = set()
        self._sequence = 0
        self._offset = segment_bytes  # no segment yet is a segment that is full
        self._closed = False
        self._spares = Spares(self._folder, self.boot, segment_bytes, allocate, retry_interval_ms)
        self._committer: Committer
        if commit_by == "process":
            self._committer = ProcessCommitter(commit_interval_ms, self._spares.close_soon)
        else:
            self._committer = ThreadCommitter(sync, commit_interval_ms)
        self._spares.start()
        self._roll()

    # -- writing ----------------------------------------------------------------------------------------------------------

    def intend(self, intent: Intent) -> None:
        """Write down an exchange or a session before OpenAI is contacted, and reserve the room for its entry.

        JournalFull when there is none, JournalFailed when the disk does not sync: then nothing was written.
        """
        if self._committer.failure is not None:
            raise JournalFailed(f"the journal's disk failed: {self._committer.failure}")
        payload = self._payload(intent)
        needed = len(self._open) + 2  # its entry and the end mark
        free = self._slots_after(HEADER_BYTES + len(payload))
        if free < needed + self._slots_each:  # keep one segment ahead
            self._spares.want(-(-needed // self._slots_each) + 1)
            if free < needed:
                raise JournalFull(f"no room in the journal for another exchange: {self._spares.error or 'segments are being made'}")
        self._write(payload)
        self._open.add(intent.exchange_id)

    def append(self, entry: Entry) -> None:
        """Write down how an exchange ended and give its reserved room back. Never fails for want of room if it was intended.

        An entry too long for its room loses the ends of its texts, not itself. JournalFull only for one that was never intended.
        """
        self._end(entry.exchange_id, self._payload(entry))

    def close_intent(self, exchange_id: str) -> None:
        """End an intent that gets no entry of its own: a session whose exchanges all have theirs, or a call that never left."""
        self._end(exchange_id, self._encoder.encode(Closed(exchange_id)))

    def flush(self, timeout_ms: int | None = None) -> None:
        """Block until everything written so far is durable. JournalFailed when it cannot be, TimeoutError when not in time."""
        self._committer.flush(timeout_ms)

    def tend(self) -> None:
        """Start again what died beside this process. Called a few times a second, maybe once more behind `close`."""
        if not self._closed:
            self._committer.tend()

    def close(self) -> None:
        """Write the end mark, make all durable, free the lock. JournalFailed, after all that, if the disk failed."""
        if self._closed:
            return
        self._closed = True
        if self._slots_after(0) > 0:
            self._write(self._encoder.encode(EndMark()))
        self._offset = self._segment_bytes
        self._committer.close()
        self._spares.close()
        os.close(self._lock)
        if self._committer.failure is not None:
            raise JournalFailed(f"the journal's disk failed: {self._committer.failure}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # -- how it is --------------------------------------------------------------------------------------------------------

    @property
    def healthy(self) -> bool:
        """False, for good, once a sync failed: stop admitting and restart."""
        return self._committer.failure is None

    @property
    def ready(self) -> bool:
        """Whether an exchange that begins now would be taken: what `/readyz` asks."""
        if self._closed or not self.healthy:
            return False
        free = self._slots_after(ENTRY_BYTES_MAX)
        return free >= len(self._open) + 2

    @property
    def problem(self) -> str | None:
        """Why it is not ready, or would soon not be, in words; None: nothing is wrong."""
        error = self._committer.failure or self._spares.error
        return None if error is None else str(error)

    @property
    def free_bytes(self) -> int:
        """Allocated and not yet written or reserved; grows ahead of need. Negative never."""
        room = self._segment_bytes - self._offset + len(self._spares.ready) * self._segment_bytes
        return max(0, room - (len(self._open) + 1) * ENTRY_BYTES_MAX)

    @property
    def open_intents(self) -> int:
        """Intents of this boot that have not ended."""
        return len(self._open)

    @property
    def written_sequence(self) -> int:
        """Sequence of the newest record."""
        return self._sequence

    @property
    def durable_sequence(self) -> int:
        """Every record up to this one survives power loss."""
        return self._committer.durable

    # -- inside -----------------------------------------------------------------------------------------------------------

    def _payload(self, record: Intent | Entry) -> bytes:
        try:
            payload = self._encoder.encode(record)
        except (OverflowError, UnicodeEncodeError):  # a number past 64 bits, half a surrogate pair: foreign data
            payload = b""
        if payload and len(payload) <= _PAYLOAD_BYTES_MAX:
            return payload
        return self._encoder.encode(fit_entry(record) if isinstance(record, Entry) else fit_intent(record))

    def _slots_after(self, record_bytes: int) -> int:
        """How many records of the greatest size surely fit after one of `record_bytes`; -1 if that one does not."""
        left = self._segment_bytes - self._offset - record_bytes
        spare_slots = len(self._spares.ready) * self._slots_each
        if left >= 0:
            return left // ENTRY_BYTES_MAX + spare_slots
        if not spare_slots:
            return -1
        return (self._segment_bytes - record_bytes) // ENTRY_BYTES_MAX + spare_slots - self._slots_each

    def _end(self, exchange_id: str, payload: bytes) -> None:
        if exchange_id not in self._open and self._slots_after(HEADER_BYTES + len(payload)) < len(self._open) + 1:
            raise JournalFull("no room in the journal for an entry that was not intended")
        self._write(payload)
        self._open.discard(exchange_id)

    def _write(self, payload: bytes) -> None:
        start = self._offset
        end = start + HEADER_BYTES + len(payload)
        if end > self._segment_bytes:
            self._roll()
            start = self._offset
            end = start + HEADER_BYTES + len(payload)
        sequence = self._sequence + 1
        body = AFTER_CRC.pack(len(payload), self.boot, sequence, VERSION) + payload
        memory = self._memory
        memory[start + _CRC_BYTES : end] = body
        memory[start : start + _CRC_BYTES] = CRC.pack(crc32(body))  # last: from here on the record is there
        self._sequence = sequence
        self._offset = end
        self._committer.wrote(sequence)

    def _roll(self) -> None:
        segment = self._spares.take()
        if segment is None:
            return  # only at the start, on a full disk: whatever writes has asked for room first
        self._committer.begin(segment)
        self._memory = segment.memory
        self._offset = 0


def _locked(path: Path, wait_ms: int) -> int:
    """The descriptor of the lock, held. It is freed by the kernel when the process ends, however it ends."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    deadline_s = time.monotonic() + wait_ms / 1000
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            if time.monotonic() >= deadline_s:
                os.close(lock)
                raise JournalLocked(f"{path.parent.name} is written by another process: {path} is locked") from None
            time.sleep(0.001)
