"""The books' side: what is whole is given out once and in order, and every hole has a name."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.journal.format import ENTRY_BYTES_MAX, HEADER_BYTES, EndMark, Position, segments_in, worker_is_dead
from gateway.journal.reader import Batch, BootEnd, Gap, JournalReader, delete_covered, follow, segments_covered
from gateway.journal.records import Record
from gateway.journal.writer import JournalWriter

SMALL = 4 * ENTRY_BYTES_MAX
BOOT = 1_790_000_000
encode = msgspec.msgpack.encode


def read_all(folder: Path, position: Position | None = None) -> tuple[list[Record], list[Gap], list[BootEnd]]:
    reader = JournalReader(folder, "w0", position)
    batches = list(follow(reader))
    reader.close()
    ends = [batch.ended for batch in batches if batch.ended]
    return [record for batch in batches for record in batch.records], [gap for batch in batches for gap in batch.gaps], ends


@contextmanager
def alive(folder: Path) -> Iterator[None]:
    """Hold the worker's lock, as a living worker does."""
    lock = os.open(folder / "w0" / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(lock)


def three(make: Any, boot: int = BOOT, first: int = 1) -> list[bytes]:
    return [make.record(encode(make.entry(number)), boot, number) for number in range(first, first + 3)]


def test_nothing_written_is_nothing_to_read(tmp_path: Path) -> None:
    assert JournalReader(tmp_path, "w0").read() == Batch("w0", None, caught_up=True)
    assert worker_is_dead(tmp_path, "w0")


@pytest.mark.parametrize("living", [True, False], ids=["living worker", "dead worker"])
def test_a_last_record_torn_at_any_byte(tmp_path: Path, make: Any, living: bool) -> None:
    one, two, last = three(make)
    whole = one + two + last
    path = make.segment(tmp_path, BOOT, 1, b"")
    for cut in range(len(last)):
        path.write_bytes((whole[: len(one + two) + cut]).ljust(SMALL, b"\0"))
        if living:
            with alive(tmp_path):
                reader = JournalReader(tmp_path, "w0")
                *_, tail = follow(reader)
                assert (tail.gaps, tail.ended, tail.caught_up) == ((), None, True)
                path.write_bytes(whole.ljust(SMALL, b"\0"))
                assert reader.read().records == (make.entry(3),), "when it is there it is read"
                reader.close()
        else:
            torn = any(last[:cut])
            assert read_all(tmp_path) == ([make.entry(1), make.entry(2)], [], [BootEnd(BOOT, clean=False, torn_bytes=torn)])


def test_a_record_without_its_crc_is_not_there_yet(tmp_path: Path, make: Any) -> None:
    one, two, last = three(make)
    path = make.segment(tmp_path, BOOT, 1, (one + two + bytes(4) + last[4:]).ljust(SMALL, b"\0"))
    with alive(tmp_path):
        reader = JournalReader(tmp_path, "w0")
        assert len(reader.read().records) == 2
        assert reader.read() == Batch("w0", reader.position, caught_up=True)
        path.write_bytes((one + two + last).ljust(SMALL, b"\0"))
        assert reader.read().records == (make.entry(3),)
        reader.close()


@pytest.mark.parametrize("living", [True, False], ids=["living worker", "dead worker"])
def test_any_flipped_byte_in_the_middle_costs_one_record_and_is_a_gap(tmp_path: Path, make: Any, living: bool) -> None:
    one, two, last = three(make)
    for place in range(len(two)):
        damaged = bytearray(one + two + last)
        damaged[len(one) + place] ^= 0x41
        make.segment(tmp_path, BOOT, 1, bytes(damaged).ljust(SMALL, b"\0"))
        if living:
            with alive(tmp_path):
                records, gaps, _ = read_all(tmp_path)
        else:
            records, gaps, _ = read_all(tmp_path)
        assert records == [make.entry(1), make.entry(3)]
        assert gaps == [Gap("w0", BOOT, 1, len(one), 1, "unreadable bytes between records")]


def test_a_page_lost_in_a_power_cut_is_a_gap(tmp_path: Path, make: Any) -> None:
    records = [make.record(encode(make.entry(number)), BOOT, number) for number in range(1, 7)]
    lost = records[0] + bytes(len(b"".join(records[1:5]))) + records[5]
    make.segment(tmp_path, BOOT, 1, lost.ljust(SMALL, b"\0"))
    with alive(tmp_path):  # zeros may be a place that is not written yet
        assert read_all(tmp_path)[:2] == ([make.entry(1)], [])
    found, gaps, _ = read_all(tmp_path)
    assert found == [make.entry(1), make.entry(6)]
    assert [gap.missing for gap in gaps] == [4]


def test_a_lost_segment_is_a_gap_with_the_number_of_records(tmp_path: Path, make: Any) -> None:
    make.segment(tmp_path, BOOT, 1, b"".join(three(make)))
    make.segment(tmp_path, BOOT, 3, b"".join(three(make, first=7)))
    records, gaps, _ = read_all(tmp_path)
    assert records == [make.entry(number) for number in (1, 2, 3, 7, 8, 9)]
    assert [(gap.segment, gap.missing) for gap in gaps] == [(3, 3)]


def test_a_segment_that_went_while_it_was_read_is_a_gap(tmp_path: Path, make: Any) -> None:
    make.segment(tmp_path, BOOT + 1, 1, make.record(encode(make.entry(1)), BOOT + 1, 1))
    records, gaps, _ = read_all(tmp_path, Position(BOOT, 2, 100, 7))
    assert records == [make.entry(1)]
    assert [(gap.boot, gap.segment, gap.missing) for gap in gaps] == [(BOOT, 2, None)]


def test_records_before_the_first_segment_are_a_gap(tmp_path: Path, make: Any) -> None:
    make.segment(tmp_path, BOOT, 5, b"".join(three(make, first=41)))
    _, gaps, _ = read_all(tmp_path)
    assert [gap.missing for gap in gaps] == [40]


def test_a_missing_boot_is_a_gap(tmp_path: Path, make: Any) -> None:
    make.segment(tmp_path, BOOT, 1, b"".join(three(make)))
    make.segment(tmp_path, BOOT + 2, 1, b"".join(three(make, boot=BOOT + 2)))
    records, gaps, ends = read_all(tmp_path)
    assert len(records) == 6
    assert [(gap.boot, gap.missing) for gap in gaps] == [(BOOT + 2, None)]
    assert [end.boot for end in ends] == [BOOT, BOOT + 2]


def test_a_journal_that_went_back_is_told_and_not_read(tmp_path: Path, make: Any) -> None:
    make.segment(tmp_path, BOOT, 1, b"".join(three(make)))
    records, gaps, _ = read_all(tmp_path, Position(BOOT + 1, 1, 0, 0))
    assert records == []
    assert "went back" in gaps[0].reason


def test_an_unknown_version_is_a_gap_that_says_so(tmp_path: Path, make: Any) -> None:
    one, _, last = three(make)
    make.segment(tmp_path, BOOT, 1, one + make.record(b"\xc0", BOOT, 2, version=9) + last)
    records, gaps, _ = read_all(tmp_path)
    assert records == [make.entry(1), make.entry(3)]
    assert gaps[0].missing == 1
    assert "version 9" in gaps[0].reason


def test_a_whole_record_that_says_something_unknown_is_a_gap(tmp_path: Path, make: Any) -> None:
    one, _, last = three(make)
    make.segment(tmp_path, BOOT, 1, one + make.record(encode(["z", 1]), BOOT, 2) + last)
    records, gaps, _ = read_all(tmp_path)
    assert records == [make.entry(1), make.entry(3)]
    assert "unknown" in gaps[0].reason


def test_many_unknown_records_come_in_bounded_batches(tmp_path: Path, make: Any) -> None:
    make.segment(tmp_path, BOOT, 1, b"".join(make.record(b"\xc0", BOOT, number, version=9) for number in range(1, 101)))
    reader = JournalReader(tmp_path, "w0")
    batches = [reader.read(records_max=10) for _ in range(11)]
    reader.close()
    assert max(len(batch.gaps) for batch in batches) <= 10
    assert sum(len(batch.gaps) for batch in batches) == 100


def test_an_old_record_in_the_place_of_a_new_one_is_not_taken(tmp_path: Path, make: Any) -> None:
    one, two, last = three(make)
    make.segment(tmp_path, BOOT, 1, one + two + one + last)
    records, gaps, _ = read_all(tmp_path)
    assert records == [make.entry(1), make.entry(2), make.entry(3)]
    assert [gap.missing for gap in gaps] == [0]


def test_a_clean_end_is_told_by_its_mark_and_again_after_the_books_restart(tmp_path: Path, make: Any) -> None:
    make.segment(tmp_path, BOOT, 1, b"".join(three(make)) + make.record(encode(EndMark()), BOOT, 4))
    reader = JournalReader(tmp_path, "w0")
    *_, last = follow(reader)
    reader.close()
    assert last.ended == BootEnd(BOOT, clean=True, torn_bytes=False)
    assert read_all(tmp_path, last.position) == ([], [], [BootEnd(BOOT, clean=True, torn_bytes=False)])


def test_a_hole_before_the_end_mark_is_told_once(tmp_path: Path, make: Any) -> None:
    make.segment(tmp_path, BOOT, 1, b"".join(three(make)) + make.record(encode(EndMark()), BOOT, 6))
    reader = JournalReader(tmp_path, "w0")
    batches = [reader.read() for _ in range(4)]
    reader.close()
    assert [gap.missing for batch in batches for gap in batch.gaps] == [2]
    assert batches[-1].ended == BootEnd(BOOT, clean=True, torn_bytes=False)


def test_boots_and_segments_follow_each_other_from_any_position(tmp_path: Path, make: Any) -> None:
    written: list[Record] = []
    for boot in range(5):
        with JournalWriter(tmp_path, "w0", segment_bytes=SMALL, sync=lambda _: None) as journal:
            for number in range(120 * boot, 120 * (boot + 1)):
                make.until(lambda journal=journal: journal.ready)
                for record, write in ((make.intent(number), journal.intend), (make.entry(number), journal.append)):
                    write(record)
                    written.append(record)
    assert len(segments_in(tmp_path / "w0")) > 5
    records: list[Record] = []
    ends: set[int] = set()
    position: Position | None = None
    while True:  # every batch by a new reader that only knows the position, as JSON
        reader = JournalReader(tmp_path, "w0", position)
        batch = reader.read(records_max=7)
        after = reader.position
        reader.close()
        assert not batch.gaps
        records += batch.records
        ends |= {batch.ended.boot} if batch.ended else set()
        assert batch.position is not None
        assert not batch.records or batch.position == after
        if batch.caught_up:
            break
        position = msgspec.json.decode(msgspec.json.encode(after), type=Position)
    assert records == written
    assert sorted(ends) == [journal.boot - 4 + boot for boot in range(5)]


def test_a_batch_can_be_read_again_from_the_position_that_was_committed_before_it(tmp_path: Path, make: Any) -> None:
    make.segment(tmp_path, BOOT, 1, b"".join(three(make)) + make.record(encode(EndMark()), BOOT, 4))
    make.segment(tmp_path, BOOT + 1, 1, b"".join(three(make, boot=BOOT + 1)))
    reader = JournalReader(tmp_path, "w0")
    committed = reader.read().position
    assert reader.read().ended == BootEnd(BOOT, clean=True, torn_bytes=False)
    assert len(reader.read().records) == 3
    reader.close()
    again = JournalReader(tmp_path, "w0", committed)
    assert again.read().ended == BootEnd(BOOT, clean=True, torn_bytes=False)
    assert len(again.read().records) == 3
    again.close()


def test_a_living_worker_is_followed_across_segments(tmp_path: Path, make: Any) -> None:
    reader = JournalReader(tmp_path, "w0")
    records: list[Record] = []
    with JournalWriter(tmp_path, "w0", segment_bytes=SMALL, sync=lambda _: None) as journal:
        assert not worker_is_dead(tmp_path, "w0")
        for number in range(150):
            make.until(lambda: journal.ready)
            journal.intend(make.intent(number))
            if number % 7 == 0:
                for batch in follow(reader):
                    assert batch.gaps == ()
                    assert batch.ended is None
                    records += batch.records
        segments = segments_in(tmp_path / "w0")[-1].segment
    assert segments > 1
    records += [record for batch in follow(reader) for record in batch.records]
    reader.close()
    assert records == [make.intent(number) for number in range(150)]
    assert worker_is_dead(tmp_path, "w0")


def test_only_what_is_wholly_committed_is_deleted(tmp_path: Path, make: Any) -> None:
    for boot, segment in ((BOOT, 1), (BOOT, 2), (BOOT + 1, 1), (BOOT + 1, 2), (BOOT + 1, 3)):
        make.segment(tmp_path, boot, segment, bytes(SMALL))
    position = Position(BOOT + 1, 2, SMALL, 9)
    assert segments_covered(tmp_path, "w0", position) == ((BOOT, 1), (BOOT, 2), (BOOT + 1, 1))
    assert delete_covered(tmp_path, "w0", position) == 3
    assert segments_in(tmp_path / "w0") == [(BOOT + 1, 2), (BOOT + 1, 3)]
    assert delete_covered(tmp_path, "w0", position) == 0


def test_boots_stay_dense_after_segments_were_deleted(tmp_path: Path, make: Any) -> None:
    with JournalWriter(tmp_path, "w0", segment_bytes=SMALL) as journal:
        journal.intend(make.intent())
    delete_covered(tmp_path, "w0", Position(journal.boot, 1, SMALL, 2))
    with JournalWriter(tmp_path, "w0", segment_bytes=SMALL) as again:
        assert again.boot == journal.boot + 1


some_bytes = st.binary(max_size=300)


@settings(max_examples=150, deadline=None)
@given(pieces=st.lists(some_bytes | st.integers(1, 9), max_size=8), later=st.lists(some_bytes, max_size=2), living=st.booleans())
def test_any_bytes_in_a_segment_are_read_to_the_end_without_an_error(
    tmp_path_factory: pytest.TempPathFactory, make: Any, pieces: list[bytes | int], later: list[bytes], living: bool
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    content = b"".join(p if isinstance(p, bytes) else make.record(encode(make.entry(p)), BOOT, p) for p in pieces)
    make.segment(folder, BOOT, 1, content)
    for place, more in enumerate(later):
        make.segment(folder, BOOT, 2 + place, more)
    if living:
        with alive(folder):
            records, gaps, _ = read_all(folder)
    else:
        records, gaps, _ = read_all(folder)
    numbers = [record.exchange_id for record in records]
    assert numbers == sorted(set(numbers)), "in order, none twice"
    if numbers and not gaps:
        assert numbers == [make.entry(number).exchange_id for number in range(1, len(numbers) + 1)]


def test_header_layout_is_what_files_on_disk_have(make: Any) -> None:
    """Records of older boots stay readable: this test changes only together with the version."""
    record = make.record(b"\xc0", 7, 3)
    assert HEADER_BYTES == 21
    assert record[4:] == bytes.fromhex("01000000" "07000000" "0300000000000000" "01" "c0")  # fmt: skip
