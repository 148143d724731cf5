"""The worker's side: room is reserved, records become durable, faults of the disk are seen."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.journal.commit import JournalFailed
from gateway.journal.format import ENTRY_BYTES_MAX, HEADER_BYTES, segments_in
from gateway.journal.reader import JournalReader, follow
from gateway.journal.records import TEXT_CHARS_MAX, Closed, Entry, Intent, Record
from gateway.journal.writer import JournalFull, JournalLocked, JournalWriter

SMALL = 4 * ENTRY_BYTES_MAX


class Disk:
    """A port to the disk: gives as many segments as it has, and can break."""

    def __init__(self, segments: int) -> None:
        self.segments = segments
        self.broken = False
        self.synced = 0

    def allocate(self, descriptor: int, offset: int, count: int) -> None:
        if self.segments <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.segments -= 1
        os.posix_fallocate(descriptor, offset, count)

    def sync(self, descriptor: int) -> None:
        if self.broken:
            raise OSError(errno.EIO, "Input/output error")
        os.fdatasync(descriptor)
        self.synced += 1


def everything(folder: Path) -> list[Record]:
    reader = JournalReader(folder, "w0")
    batches = list(follow(reader))
    reader.close()
    assert not [gap for batch in batches for gap in batch.gaps]
    return [record for batch in batches for record in batch.records]


def count_until_full(write: Callable[[int], None]) -> int:
    for number in range(10_000):
        try:
            write(number)
        except JournalFull:
            return number
    raise AssertionError("the journal never became full")


def largest(entry: Entry) -> Entry:
    """The longest entry that is written as it is: one byte more and it is trimmed."""
    bare = len(msgspec.msgpack.encode(msgspec.structs.replace(entry, error_code="x" * 1_000))) - 1_000
    return msgspec.structs.replace(entry, error_code="x" * (ENTRY_BYTES_MAX - HEADER_BYTES - bare))


def test_the_longest_entry_is_written_as_it_is_and_a_longer_one_trimmed(tmp_path: Path, make: Any) -> None:
    fits = largest(make.entry(1))
    longer = msgspec.structs.replace(fits, error_code=f"{fits.error_code}x")
    with JournalWriter(tmp_path, "w0", segment_bytes=SMALL) as journal:
        make.until(lambda: journal.ready)
        journal.append(fits)
        journal.append(longer)
    first, second = everything(tmp_path)
    assert first == fits
    assert isinstance(second, Entry)
    assert second.error_code == "x" * TEXT_CHARS_MAX


def test_what_is_written_is_read_back_in_order(tmp_path: Path, make: Any) -> None:
    written = [make.intent(1), make.intent(2, session_id="s1"), make.entry(2), make.entry(1)]
    with JournalWriter(tmp_path, "w0", segment_bytes=SMALL) as journal:
        for record in written:
            (journal.intend if isinstance(record, Intent) else journal.append)(record)
        assert everything(tmp_path) == written, "an append is seen at once, before any sync"
        assert journal.open_intents == 0
        journal.intend(make.intent(3))
        journal.close_intent(make.intent(3).exchange_id)
    assert everything(tmp_path) == [*written, make.intent(3), Closed(make.intent(3).exchange_id)]


def test_records_become_durable_by_themselves(tmp_path: Path, make: Any) -> None:
    with JournalWriter(tmp_path, "w0", segment_bytes=SMALL, commit_interval_ms=1) as journal:
        journal.intend(make.intent())
        make.until(lambda: journal.durable_sequence == 1)
        journal.append(make.entry())
        make.until(lambda: journal.durable_sequence == 2)


def test_flush_returns_when_all_is_durable_without_waiting_for_the_interval(tmp_path: Path, make: Any) -> None:
    with JournalWriter(tmp_path, "w0", segment_bytes=SMALL, commit_interval_ms=3_600_000) as journal:
        journal.flush()
        for number in range(100):  # over many segments
            make.until(lambda: journal.ready)
            journal.intend(make.intent(number))
            journal.append(make.entry(number))
        journal.flush()
        assert journal.durable_sequence == journal.written_sequence == 200


def test_a_sync_that_fails_is_seen_and_ends_admission_but_entries_are_still_taken(tmp_path: Path, make: Any) -> None:
    disk = Disk(100)
    journal = JournalWriter(tmp_path, "w0", segment_bytes=SMALL, sync=disk.sync)
    journal.intend(make.intent(1))
    journal.flush()
    assert journal.healthy
    make.until(lambda: journal.ready)
    disk.broken = True
    journal.append(make.entry(1, exchange_id="not intended"))
    with pytest.raises(JournalFailed, match="Input/output error"):
        journal.flush()
    assert not journal.healthy
    assert not journal.ready
    assert "Input/output error" in str(journal.problem)
    disk.broken = False  # a later sync would lie: the kernel has dropped the pages
    with pytest.raises(JournalFailed):
        journal.intend(make.intent(2))
    journal.append(make.entry(1))
    with pytest.raises(JournalFailed):
        journal.close()
    assert [record.exchange_id for record in everything(tmp_path)] == [make.entry(1).exchange_id, "not intended", make.entry(1).exchange_id]


def test_flush_says_when_the_disk_is_too_slow(tmp_path: Path, make: Any) -> None:
    stuck = make.gate()
    with JournalWriter(tmp_path, "w0", segment_bytes=SMALL, sync=stuck.sync) as journal:
        journal.intend(make.intent())
        with pytest.raises(TimeoutError):
            journal.flush(timeout_ms=1)
        stuck.open()
        journal.flush()


def test_a_full_disk_refuses_intents_never_entries_and_recovers_by_itself(tmp_path: Path, make: Any) -> None:
    disk = Disk(2)
    with JournalWriter(tmp_path, "w0", segment_bytes=SMALL, retry_interval_ms=1, allocate=disk.allocate) as journal:
        make.until(lambda: journal.free_bytes > SMALL)  # both segments are there: the disk gives blocks before the writer has them
        taken = count_until_full(lambda number: journal.intend(make.intent(number)))
        assert taken >= 4
        make.until(lambda: journal.problem is not None)
        assert "No space left" in str(journal.problem)
        assert not journal.ready
        strangers = count_until_full(lambda number: journal.append(make.entry(10**6 + number)))  # nobody reserved their room
        assert strangers < 100
        for number in range(taken):
            journal.append(make.entry(number, error_code="é" * 9_000, model_served="x" * 9_000))
        assert journal.open_intents == 0
        assert count_until_full(lambda number: journal.intend(make.intent(100 + number))) < 8, "what the entries left is given out again"
        disk.segments = 50
        make.until(lambda: journal.ready)
        journal.intend(make.intent(300))
        assert journal.problem is None
    assert len([record for record in everything(tmp_path) if isinstance(record, Entry)]) == taken + strangers


def test_a_disk_that_is_full_from_the_start_is_not_ready_and_recovers(tmp_path: Path, make: Any) -> None:
    disk = Disk(0)
    with JournalWriter(tmp_path, "w0", segment_bytes=SMALL, retry_interval_ms=1, allocate=disk.allocate) as journal:
        assert not journal.ready
        assert journal.free_bytes == 0
        with pytest.raises(JournalFull):
            journal.intend(make.intent())
        with pytest.raises(JournalFull):
            journal.append(make.entry())
        assert not list((tmp_path / "w0").glob("*.journal")), "no empty file is left behind"
        disk.segments = 3
        make.until(lambda: journal.ready)
        journal.intend(make.intent())
        journal.append(make.entry())
    assert everything(tmp_path) == [make.intent(), make.entry()]


def test_a_disk_that_stays_full_closes_in_peace(tmp_path: Path) -> None:
    JournalWriter(tmp_path, "w0", segment_bytes=SMALL, allocate=Disk(0).allocate).close()
    assert not list((tmp_path / "w0").glob("*.journal"))


def test_an_allocation_that_gives_too_little_is_not_written_to(tmp_path: Path) -> None:
    def half(descriptor: int, offset: int, count: int) -> None:
        os.posix_fallocate(descriptor, offset, count // 2)

    with JournalWriter(tmp_path, "w0", segment_bytes=SMALL, allocate=half) as journal:
        assert not journal.ready
        assert "fewer" in str(journal.problem)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_real_full_disk(tiny_disk: Path, make: Any) -> None:
    with JournalWriter(tiny_disk, "w0", segment_bytes=SMALL, retry_interval_ms=1) as journal:
        ballast = tiny_disk / "ballast"
        with pytest.raises(OSError, match="No space"):
            ballast.write_bytes(bytes(1 << 20))
        taken = count_until_full(lambda number: journal.intend(make.intent(number)))
        for number in range(taken):
            journal.append(make.entry(number))
        ballast.unlink()
        make.until(lambda: journal.ready)
    assert len(everything(tiny_disk)) == 2 * taken


@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(st.tuples(st.sampled_from(["intend", "append", "close"]), st.integers(0, 30), st.integers(0, 1_000)), max_size=120),
    segments=st.integers(0, 4),
)
def test_an_intent_that_was_taken_always_finds_room_for_its_entry(
    tmp_path_factory: pytest.TempPathFactory, make: Any, steps: list[tuple[str, int, int]], segments: int
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    written = 0
    with JournalWriter(folder, "w0", segment_bytes=SMALL, allocate=Disk(segments).allocate, sync=lambda _: None) as journal:
        opened: list[int] = []
        for number, (step, pick, length) in enumerate(steps):
            if step == "intend":
                try:
                    journal.intend(make.intent(number, client_request_id="x" * length * 6))
                except JournalFull:
                    continue
                opened.append(number)
            elif not opened:
                continue
            elif step == "append":
                entry = make.entry(opened.pop(pick % len(opened)), error_code="x" * length * 6)
                journal.append(largest(entry) if length % 2 else entry)
            else:
                journal.close_intent(make.intent(opened.pop(pick % len(opened))).exchange_id)
            written += 1
        for number in opened:
            journal.append(largest(make.entry(number)))
    assert len(everything(folder)) == written + len(opened)


def test_a_foreign_number_past_64_bits_does_not_lose_the_entry(tmp_path: Path, make: Any) -> None:
    with JournalWriter(tmp_path, "w0", segment_bytes=SMALL) as journal:
        journal.intend(make.intent(1, retry_count=2**70))
        journal.append(make.entry(1, retry_count=2**70, upstream_request_id="\ud800"))
    intent, entry = everything(tmp_path)
    assert isinstance(intent, Intent)
    assert isinstance(entry, Entry)
    assert (intent.retry_count, entry.retry_count, entry.upstream_request_id) == (None, None, r"\ud800")
    assert entry.cost_picousd == make.entry().cost_picousd


def test_one_worker_has_one_writer(tmp_path: Path) -> None:
    with JournalWriter(tmp_path, "w0", segment_bytes=SMALL) as journal:
        with pytest.raises(JournalLocked, match="w0"):
            JournalWriter(tmp_path, "w0", segment_bytes=SMALL, lock_wait_ms=1)
        with JournalWriter(tmp_path, "w1", segment_bytes=SMALL):
            pass
    with JournalWriter(tmp_path, "w0", segment_bytes=SMALL) as again:
        assert again.boot == journal.boot + 1, "boots are dense"


def test_closing_removes_the_segments_that_were_never_begun(tmp_path: Path, make: Any) -> None:
    with JournalWriter(tmp_path, "w0", segment_bytes=SMALL) as journal:
        journal.intend(make.intent())
    assert [name.segment for name in segments_in(tmp_path / "w0")] == [1]
    journal.close()  # again: nothing happens


def test_free_bytes_fall_with_each_intent_and_more_is_made_ahead_of_need(tmp_path: Path, make: Any) -> None:
    with JournalWriter(tmp_path, "w0", segment_bytes=SMALL) as journal:
        for number in range(40):  # ten segments' worth of reserved entries
            make.until(lambda: journal.ready)
            before = journal.free_bytes
            journal.intend(make.intent(number))
            assert journal.free_bytes != before
        assert len(segments_in(tmp_path / "w0")) >= 10


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "x" * 65, " "])
def test_a_worker_is_named_so_that_it_can_be_a_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a worker"):
        JournalWriter(tmp_path, name)


def test_segments_too_small_to_reserve_in_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="segment_bytes"):
        JournalWriter(tmp_path, "w0", segment_bytes=SMALL - 1)
