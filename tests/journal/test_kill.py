"""`kill -9` loses nothing whose append returned, however often and whenever it comes."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

import gateway
from gateway.journal.reader import JournalReader, follow
from gateway.journal.records import Entry, Intent

CHILD = """
import os, sys
from pathlib import Path
import msgspec
from gateway.journal.records import Entry, Intent
from gateway.journal.writer import JournalFull, JournalWriter

intent = msgspec.msgpack.decode(bytes.fromhex(sys.argv[2]), type=Intent)
entry = msgspec.msgpack.decode(bytes.fromhex(sys.argv[3]), type=Entry)
journal = JournalWriter(Path(sys.argv[1]), "w0", segment_bytes=65_536, commit_interval_ms=1)
number = 0
while True:
    number += 1
    name = f"gx-{journal.boot}-{number}"
    while True:
        try:
            journal.intend(msgspec.structs.replace(intent, exchange_id=name))
            break
        except JournalFull:
            pass
    os.write(1, b".")
    journal.append(msgspec.structs.replace(entry, exchange_id=name))
    os.write(1, b".")
"""


def writer_process(folder: Path, make: Any, stdout: int) -> subprocess.Popen[bytes]:
    arguments = [sys.executable, "-c", CHILD, str(folder)]
    arguments += [msgspec.msgpack.encode(record).hex() for record in (make.intent(), make.entry())]
    home = str(Path(gateway.__file__).parents[1])
    return subprocess.Popen(arguments, stdout=stdout, env={**os.environ, "PYTHONPATH": home})


def killed_after(folder: Path, acknowledged: int, make: Any) -> int:
    """Run a writer until it has said so many times that an append returned, kill it; how many it had said by then."""
    with writer_process(folder, make, subprocess.PIPE) as child:
        assert child.stdout is not None
        said = len(child.stdout.read(acknowledged))
        child.kill()
        return said + len(child.stdout.read())


def test_a_killed_worker_leaves_a_dense_prefix_with_all_it_acknowledged(tmp_path: Path, make: Any) -> None:
    chance = random.Random(20_250_601)
    said = [killed_after(tmp_path, chance.randint(1, 4_000), make) for _ in range(6)]
    reader = JournalReader(tmp_path, "w0")
    names: dict[int, list[tuple[str, type]]] = {}
    ends = []
    for batch in follow(reader):
        assert batch.gaps == ()
        assert batch.position is not None
        for record in batch.records:
            names.setdefault(batch.position.boot, []).append((record.exchange_id, type(record)))
        ends += [batch.ended] if batch.ended else []
    reader.close()
    assert [end.clean for end in ends] == [False] * 6
    assert len(names) == 6
    for (boot, found), acknowledged in zip(names.items(), said, strict=True):
        assert acknowledged <= len(found) <= acknowledged + 1
        assert found == [(f"gx-{boot}-{number // 2 + 1}", (Intent, Entry)[number % 2]) for number in range(len(found))]


def test_a_reader_at_the_heels_of_a_fast_writer_sees_no_hole_and_no_end_before_the_kill(tmp_path: Path, make: Any) -> None:
    reader = JournalReader(tmp_path, "w0")
    found = 0
    with writer_process(tmp_path, make, subprocess.DEVNULL) as child:
        while found < 20_000:
            assert child.poll() is None
            batch = reader.read()
            assert (batch.gaps, batch.ended) == ((), None)
            found += len(batch.records)
        child.kill()
    last = list(follow(reader))
    found += sum(len(batch.records) for batch in last)
    reader.close()
    assert not [gap for batch in last for gap in batch.gaps]
    assert last[-1].ended is not None
    assert last[-1].position is not None
    assert last[-1].position.sequence == found
