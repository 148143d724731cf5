"""The books' side: follows one worker's journal across segments and boots, and names every hole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import msgspec

from gateway.journal.format import (
    BOOT_AT,
    CRC,
    HEADER,
    HEADER_BYTES,
    RECORD_BYTES_MAX,
    VERSION,
    EndMark,
    Position,
    SegmentName,
    Stored,
    check_worker_name,
    segments_in,
    worker_is_dead,
)
from gateway.journal.records import Record

CHUNK_BYTES = 1024 * 1024  # read at once; holds some 2,000 records, and always more than one
RECORDS_MAX = 4_000  # in one batch: a ledger transaction of about 0.1 s


class Gap(msgspec.Struct, frozen=True):
    """Records that were written, or may have been, and cannot be read: an alarm. The reader goes on behind it."""

    worker: str
    boot: int
    segment: int
    offset: int
    missing: int | None  # records lost; None: it cannot be known
    reason: str


class BootEnd(msgspec.Struct, frozen=True):
    """A boot read to its end: its open intents will get no entry from it."""

    boot: int
    clean: bool  # it was closed in order
    torn_bytes: bool  # something unreadable lay at its end: a record that was being written


class Batch(msgspec.Struct, frozen=True):
    """What one `read` gave. All records are of boot `position.boot`, in the order they were written."""

    worker: str
    position: Position | None  # behind the last record; None: nothing was ever written
    records: tuple[Record, ...] = ()
    gaps: tuple[Gap, ...] = ()
    ended: BootEnd | None = None  # told again by every read until the worker's next boot
    caught_up: bool = False  # nothing more now: come back later


class _Found(NamedTuple):
    offset: int
    sequence: int
    version: int
    payload: memoryview
    end: int


class JournalReader:
    """Reads from a committed position on. Never blocks, never raises for what a file contains.

    What cannot be read at the very end of a living worker's journal is not written yet; at the end of a dead boot it is torn;
    anywhere else it is a Gap.
    """

    def __init__(self, folder: Path, worker: str, position: Position | None = None) -> None:
        self._root = folder
        self._folder = folder / check_worker_name(worker)
        self._worker = worker
        self._at = position
        self._decoder: msgspec.msgpack.Decoder[Stored] = msgspec.msgpack.Decoder(Stored)
        self._descriptor = -1
        self._opened: SegmentName | None = None

    @property
    def position(self) -> Position | None:
        """Behind the last record that was given out."""
        return self._at

    def read(self, records_max: int = RECORDS_MAX) -> Batch:
        """The next records, as many as are there and at most `records_max`. OSError if a file cannot be read."""
        gaps: list[Gap] = []
        names = segments_in(self._folder)
        if self._at is None:
            if not names:
                return Batch(self._worker, None, caught_up=True)
            self._at = Position(names[0].boot, names[0].segment, 0, 0)
        elif names and names[-1].boot < self._at.boot:
            return self._replaced(names)
        while True:
            records, end_mark = self._take(records_max, gaps)
            if records:
                return Batch(self._worker, self._at, tuple(records), tuple(gaps))
            if end_mark:
                return self._ended(names, gaps, clean=True, torn_bytes=False)
            step = self._beyond(gaps)
            if step is not None or gaps:
                return step or Batch(self._worker, self._at, (), tuple(gaps))

    def close(self) -> None:
        """Close the open segment file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._opened = -1, None

    # -- whole records ----------------------------------------------------------------------------------------------------

    def _take(self, records_max: int, gaps: list[Gap]) -> tuple[list[Record], bool]:
        """Records from here to the first that is not whole, or to an end mark: it is not passed, so it says the same again."""
        at = self._here()
        records: list[Record] = []
        buffer = self._bytes(at.offset, HEADER_BYTES)
        if any(buffer):  # mostly there is nothing, and a chunk of nothing costs more than all else of an idle look
            buffer = self._bytes(at.offset, CHUNK_BYTES)
        offset, sequence = at.offset, at.sequence
        end_mark = False
        while len(records) + len(gaps) < records_max:
            found = _record_at(buffer, offset - at.offset, at.boot)  # one cut by the chunk's end comes with the next read
            if found is None or found.sequence <= sequence:
                break
            if found.sequence > sequence + 1:
                gaps.append(self._gap(at.segment, offset, found.sequence - sequence - 1, "records are missing before this one"))
            stored = self._decoded(found, at.segment, offset, gaps)
            if isinstance(stored, EndMark):
                sequence = found.sequence - 1
                end_mark = True
                break
            offset, sequence = at.offset + found.end, found.sequence
            if stored is not None:
                records.append(stored)
        self._at = Position(at.boot, at.segment, offset, sequence)
        return records, end_mark

    def _decoded(self, found: _Found, segment: int, offset: int, gaps: list[Gap]) -> Stored | None:
        """None, and a Gap of this one record, when it is whole but cannot be understood."""
        if found.version != VERSION:
            reason = f"record version {found.version} is not known here, only {VERSION}: the books are older than the worker"
            gaps.append(self._gap(segment, offset, 1, reason))
            return None
        try:
            return self._decoder.decode(found.payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            gaps.append(self._gap(segment, offset, 1, f"the record is whole but says something unknown: {error}"))
            return None

    # -- what is not a whole record ---------------------------------------------------------------------------------------

    def _beyond(self, gaps: list[Gap]) -> Batch | None:
        """Decide what the place without a whole record is, and step over it. None: stepped, read on."""
        dead = worker_is_dead(self._root, self._worker)  # asked before looking again: what is there then is all there will be
        at = self._here()
        names = segments_in(self._folder)
        boot_over = dead or names[-1:] > [SegmentName(at.boot, 2**62)]
        later = [name for name in names if name.boot == at.boot and name.segment > at.segment]
        moved_on = any(self._is_begun(name) for name in later)
        head = bytes(self._bytes(at.offset, HEADER_BYTES))
        if boot_over or moved_on or any(head):
            found = self._next_whole(at)
            if found is not None and not self._whole_here():  # it may have been written since
                gaps.append(self._gap(at.segment, at.offset, found.sequence - at.sequence - 1, "unreadable bytes between records"))
                self._at = Position(at.boot, at.segment, found.offset, found.sequence - 1)
                return None
            if found is not None:
                return None
        if not (boot_over or moved_on):
            return Batch(self._worker, at, (), tuple(gaps), caught_up=True)
        if SegmentName(at.boot, at.segment) not in names:
            gaps.append(self._gap(at.segment, at.offset, None, "the segment's file is gone"))
        if later:
            self._at = Position(at.boot, later[0].segment, 0, at.sequence)
            return None
        return self._ended(names, gaps, clean=False, torn_bytes=any(head))

    def _ended(self, names: list[SegmentName], gaps: list[Gap], *, clean: bool, torn_bytes: bool) -> Batch:
        """The boot holds nothing more. Tell it, and stand at the next boot's beginning if there is one."""
        at = self._here()
        end = BootEnd(at.boot, clean, torn_bytes)
        following = [name for name in names if name.boot > at.boot]
        if not following:
            return Batch(self._worker, at, (), tuple(gaps), end, caught_up=True)
        first = following[0]
        if first.boot != at.boot + 1:
            reason = f"boots {at.boot + 1} to {first.boot - 1} are missing"
            gaps.append(Gap(self._worker, first.boot, first.segment, 0, None, reason))
        self._at = Position(first.boot, first.segment, 0, 0)
        return Batch(self._worker, at, (), tuple(gaps), end)

    def _replaced(self, names: list[SegmentName]) -> Batch:
        """The folder holds only boots older than the position: it is not the journal that was read before."""
        at = self._here()
        reason = f"the journal went back: boot {at.boot} was read, boot {names[-1].boot} is the newest now"
        return Batch(self._worker, at, (), (Gap(self._worker, at.boot, at.segment, at.offset, None, reason),), caught_up=True)

    def _whole_here(self) -> bool:
        at = self._here()
        found = _record_at(self._bytes(at.offset, RECORD_BYTES_MAX + HEADER_BYTES), 0, at.boot)
        return found is not None and found.sequence > at.sequence

    def _next_whole(self, at: Position) -> _Found | None:
        """The next readable record of this segment, found by the boot number in its header."""
        rest = self._bytes(at.offset, None)
        pattern = CRC.pack(at.boot)
        place = rest.find(pattern, BOOT_AT)
        while place >= 0:
            found = _record_at(rest, place - BOOT_AT, at.boot)
            if found is not None and found.sequence > at.sequence:
                return found._replace(offset=at.offset + found.offset)
            place = rest.find(pattern, place + 1)
        return None

    def _is_begun(self, name: SegmentName) -> bool:
        """Whether anything was written to a segment: then the ones before it are complete."""
        try:
            with open(self._folder / name.file_name, "rb") as file:
                return any(file.read(HEADER_BYTES))
        except FileNotFoundError:  # a spare that was removed
            return False

    # -- files ------------------------------------------------------------------------------------------------------------

    def _here(self) -> Position:
        assert self._at is not None
        return self._at

    def _bytes(self, offset: int, count: int | None) -> bytes:
        """Bytes of the current segment; short or empty when there are no more, or no such file."""
        at = self._here()
        name = SegmentName(at.boot, at.segment)
        if self._opened != name:
            self.close()
            try:
                self._descriptor = os.open(self._folder / name.file_name, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return b""
            self._opened = name
        if count is None:
            count = max(0, os.fstat(self._descriptor).st_size - offset)
        return os.pread(self._descriptor, count, offset)

    def _gap(self, segment: int, offset: int, missing: int | None, reason: str) -> Gap:
        return Gap(self._worker, self._here().boot, segment, offset, missing, reason)


def segments_covered(folder: Path, worker: str, position: Position) -> tuple[SegmentName, ...]:
    """Segments wholly before a committed position. The position's own stays: it is being written, and carries the boot on."""
    names = segments_in(folder / check_worker_name(worker))
    return tuple(name for name in names if name < (position.boot, position.segment))


def delete_covered(folder: Path, worker: str, position: Position) -> int:
    """Delete the segments wholly before a position that the ledger has committed; how many went."""
    covered = segments_covered(folder, worker, position)
    for name in covered:
        (folder / worker / name.file_name).unlink(missing_ok=True)
    return len(covered)


def follow(reader: JournalReader) -> Iterator[Batch]:
    """Batches until there is nothing more now; the last one has `caught_up`."""
    while True:
        batch = reader.read()
        yield batch
        if batch.caught_up:
            return


def _record_at(buffer: bytes, start: int, boot: int) -> _Found | None:
    """The whole record at this place, or None: torn, not written yet, damaged, or of another boot."""
    if start < 0 or start + HEADER_BYTES > len(buffer):
        return None
    crc, payload_bytes, of_boot, sequence, version = HEADER.unpack_from(buffer, start)
    end = start + HEADER_BYTES + payload_bytes
    if not payload_bytes or of_boot != boot or end - start > RECORD_BYTES_MAX or end > len(buffer):
        return None
    whole = memoryview(buffer)[start:end]
    if crc32(whole[CRC.size :]) != crc:
        return None
    return _Found(start, sequence, version, whole[HEADER_BYTES:], end)
