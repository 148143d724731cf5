"""Folding: one transaction, repeatable, nothing counted twice."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.journal.fit import COST_PICOUSD_MAX
from gateway.journal.format import Position
from gateway.journal.records import Closed
from gateway.late.orphans import orphans
from gateway.ledger import Event, Folded, Ledger, LedgerForeign, LedgerUnavailable, Superseding
from gateway.ledger.sqlite import SqliteLedger
from gateway.units import Meter


def test_it_is_a_ledger(books: Any) -> None:
    ledger: Ledger = books.ledger  # mypy holds the port against it
    assert ledger.watermark("w0") is None


def test_a_batch_is_taken_in_whole(books: Any, make: Any) -> None:
    folded = books.fold(make.intent(1), make.intent(2), make.entry(1), make.entry(3, cost_picousd=None))
    assert folded == Folded(1, new=(make.entry(1), make.entry(3, cost_picousd=None)))
    assert books.total() == (2, 1_100_000_001, {Meter.INPUT_TEXT: 240, Meter.OUTPUT_TEXT: 160})
    assert [found.intent for found in books.ledger.open_intents("w0")] == [make.intent(2)]
    assert books.ledger.watermark("w0") == Position(1, 1, 400, 4)
    assert books.ledger.watermark("w1") is None


def test_the_same_batch_twice_changes_nothing(books: Any, make: Any) -> None:
    batch = (make.intent(1), make.intent(2), make.entry(1), make.intent(3), Closed("gx-3"))
    position = books.next(batch)
    books.ledger.fold("w0", position, batch)
    before = books.total(), list(books.ledger.entries()), books.ledger.open_intents("w0")
    assert books.ledger.fold("w0", position, batch) == Folded(1, replayed=True)
    assert (books.total(), list(books.ledger.entries()), books.ledger.open_intents("w0")) == before


def test_entries_that_are_there_already_are_not_counted_again_from_another_place(books: Any, make: Any) -> None:
    books.fold(make.entry(1))
    assert books.fold(make.intent(1), make.entry(1), make.entry(1)) == Folded(1)
    assert books.total()[0] == 1
    books.fold(make.intent(1))  # its entry is known: it does not open again
    assert books.ledger.open_intents("w0") == []


def test_intents_stay_open_over_batches_until_their_end_comes(books: Any, make: Any) -> None:
    books.fold(make.intent(1), make.intent(2), make.intent(3))
    books.fold(make.entry(1))
    books.fold(Closed("gx-2"))
    assert [(found.worker, found.boot, found.intent) for found in books.ledger.open_intents("w0")] == [("w0", 1, make.intent(3))]
    assert books.ledger.open_intents("w0", boot_max=0) == []
    assert books.ledger.open_intents("w1") == []
    assert books.ids() == ["gx-1"]


def test_a_second_differing_entry_is_refused_counted_and_noted_once(books: Any, make: Any) -> None:
    other = make.entry(1, cost_picousd=5)
    assert books.fold(make.entry(1), other).duplicates == 1
    assert books.fold(other).duplicates == 1
    assert books.total()[:2] == (1, 1_100_000_001)
    assert [(event.kind, event.subject) for event in books.ledger.events()] == [("duplicate_entry", "gx-1")]


def test_an_orphan_stands_until_the_real_entry_comes(books: Any, make: Any) -> None:
    books.fold(make.intent(1), make.intent(2))
    (first, second) = orphans([found.intent for found in books.ledger.open_intents("w0", boot_max=1)], make.noon_us + 5)
    assert books.ledger.fold_orphans("w0", [first, second]) == Folded(1, new=(first, second))
    assert books.ledger.fold_orphans("w0", [first, second]) == Folded(1)
    assert books.ledger.open_intents("w0") == []
    assert books.total() == (2, 22_000_000_000, {Meter.INPUT_TEXT: 800, Meter.OUTPUT_TEXT: 2_000})
    assert books.ledger.usage([])[0].unknown_calls == 2

    real = make.entry(1, usage={Meter.OUTPUT_AUDIO: 7}, cost_picousd=3)
    assert books.fold(real) == Folded(2, superseding=(Superseding(first, real),))
    assert books.total() == (2, 11_000_000_003, {Meter.INPUT_TEXT: 400, Meter.OUTPUT_TEXT: 1_000, Meter.OUTPUT_AUDIO: 7})
    assert books.fold(real) == Folded(2)
    assert books.fold(make.entry(1)).duplicates == 1
    assert [(entry["revision"], entry["origin"]) for entry in books.ledger.entries({"exchange_id": "gx-1"}, effective_only=False)] == [
        (1, "orphan"),
        (2, "journal"),
    ]


def test_an_orphan_never_takes_the_place_of_an_entry(books: Any, make: Any) -> None:
    books.fold(make.intent(1))
    late = orphans([make.intent(1)], make.noon_us)
    books.fold(make.entry(1))
    assert books.ledger.fold_orphans("w0", late) == Folded(1)
    assert books.ledger.fold_orphans("w0", orphans([make.intent(2)], make.noon_us)) == Folded(1), "nobody intended that"
    books.fold(make.intent(3))
    assert books.ledger.fold_orphans("w1", orphans([make.intent(3)], make.noon_us)) == Folded(1), "another worker's is not ours to close"
    assert books.ids() == ["gx-1"]


def test_usage_that_comes_later_supersedes_whatever_was_there(books: Any, make: Any) -> None:
    first = make.entry(1, usage={}, usage_source="estimated", cost_picousd=None)
    final = make.entry(1)
    books.fold(first)
    assert books.ledger.supersede(final) == Folded(2, superseding=(Superseding(first, final),))
    assert books.ledger.supersede(final) == Folded(2), "told twice"
    assert books.fold(first) == Folded(2), "the journal's entry read again"
    assert books.total() == (1, 1_100_000_001, {Meter.INPUT_TEXT: 120, Meter.OUTPUT_TEXT: 80})
    assert books.ledger.effective("gx-1") == final


def test_usage_that_comes_before_its_entry_ends_the_intent_and_stays(books: Any, make: Any) -> None:
    books.fold(make.intent(1))
    assert books.ledger.supersede(make.entry(1)) == Folded(1, new=(make.entry(1),))
    assert books.ledger.open_intents("w0") == []
    assert books.fold(make.entry(1, usage={}, usage_source="estimated")).duplicates == 1
    assert books.total()[1] == 1_100_000_001


def test_a_correction_may_move_to_another_model_hour_and_team(books: Any, make: Any) -> None:
    books.fold(make.entry(1))
    books.ledger.supersede(make.entry(1, team="search", model_served="o3", admitted_at_us=make.noon_us + 86_400_000_000, cost_picousd=9))
    assert [(row.by, row.calls, row.cost_picousd) for row in books.ledger.usage(["team", "model", "day"])] == [
        ({"team": "search", "model": "o3", "day": "2026-05-02"}, 1, 9)
    ]
    assert books.total()[:2] == (1, 9)


def test_numbers_no_ledger_can_hold_are_kept_as_unknown_and_unpriced(books: Any, make: Any) -> None:
    wild = [{"cost_picousd": COST_PICOUSD_MAX + 1}, {"cost_picousd": 2**64 - 1}, {"retry_count": 2**64 - 1}]
    folded = books.fold(*(make.entry(number, **changes) for number, changes in enumerate(wild)))
    assert folded.out_of_range == 3
    assert [entry.cost_picousd for entry in folded.new] == [None, None, 1_100_000_001]
    assert books.ledger.usage([])[0].unpriced_calls == 2
    assert books.total()[:2] == (3, 1_100_000_001)


def test_events_are_kept_once(books: Any) -> None:
    promoted = Event("promoted", "voice to tier-2", 5, {"from": "tier-1", "requests": 100})
    gap = Event("gap", "w0 5/1/100", 7)
    assert books.ledger.add_events([promoted, gap]) == (promoted, gap)
    assert books.ledger.add_events([promoted, Event("gap", "w0 5/1/200", 9)]) == (Event("gap", "w0 5/1/200", 9),)
    assert books.ledger.events("promoted") == [promoted]
    assert [event.at_us for event in books.ledger.events()] == [5, 7, 9]
    assert [event.at_us for event in books.ledger.events(limit=2)] == [7, 9]
    assert [event.at_us for event in books.ledger.events(since_us=9)] == [9]


def test_what_breaks_in_the_middle_changes_nothing(books: Any, make: Any) -> None:
    with pytest.raises(OverflowError):
        books.ledger.fold("w0", Position(2**70, 1, 0, 1), [make.intent(2), make.entry(1)])
    assert books.total() == (0, 0, {})
    assert books.ledger.open_intents("w0") == []
    books.fold(make.entry(1))
    assert books.total()[0] == 1


def test_a_locked_file_is_named_and_the_batch_can_be_folded_later(books: Any, make: Any) -> None:
    batch = (make.entry(1),)
    position = books.next(batch)
    other = sqlite3.connect(books.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerUnavailable, match="locked"):
        books.ledger.fold("w0", position, batch)
    assert books.ledger.usage([]) == [], "reading goes on"
    other.execute("ROLLBACK")
    other.close()
    assert len(books.ledger.fold("w0", position, batch).new) == 1


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_named_and_the_batch_can_be_folded_when_there_is_space(tiny_disk: Path, make: Any) -> None:
    books = make.books(tiny_disk / "ledger.db")
    ballast = tiny_disk / "ballast"
    with pytest.raises(OSError, match="No space"):
        ballast.write_bytes(bytes(2 << 20))
    batch = tuple(make.entry(number) for number in range(500))
    position = books.next(batch)
    with pytest.raises(LedgerUnavailable):
        books.ledger.fold("w0", position, batch)
    ballast.unlink()
    assert len(books.ledger.fold("w0", position, batch).new) == 500
    assert books.total()[0] == 500
    books.ledger.close()


def test_an_entry_is_never_changed(books: Any, make: Any) -> None:
    books.fold(make.entry(1))
    other = sqlite3.connect(books.path)
    with pytest.raises(sqlite3.IntegrityError, match="never changed"):
        other.execute("UPDATE entries SET cost_picousd = 0")
    other.close()


def test_others_on_this_machine_cannot_read_the_ledger(books: Any, make: Any) -> None:
    books.fold(make.entry(1))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in books.path.parent.glob("ledger.db*")}
    assert modes.keys() == {"ledger.db", "ledger.db-wal", "ledger.db-shm"}
    assert not any(mode & 0o137 for mode in modes.values()), modes


def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"not a database " * 100)
    with pytest.raises(LedgerUnavailable, match="not a ledger"):
        SqliteLedger(tmp_path / "ledger.db")


def test_a_ledger_of_a_newer_program_is_refused_and_left_alone(books: Any) -> None:
    other = sqlite3.connect(books.path)
    other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.raises(LedgerForeign, match="99"):
        SqliteLedger(books.path)


def test_a_meter_that_is_new_joins_an_older_file(tmp_path: Path, make: Any) -> None:
    books = make.books(tmp_path / "ledger.db")
    books.fold(make.entry(1))
    books.ledger.close()
    older = sqlite3.connect(books.path)
    for table in ("rollup_hours", "rollup_days"):
        older.execute(f"ALTER TABLE {table} DROP COLUMN images")
    older.close()
    again = make.books(tmp_path / "ledger.db")
    again.sequence = books.sequence
    again.fold(make.entry(2, usage={Meter.IMAGES: 3}))
    assert again.total() == (2, 2_200_000_002, {Meter.INPUT_TEXT: 120, Meter.OUTPUT_TEXT: 80, Meter.IMAGES: 3})
    again.ledger.close()
