"""The process that syncs beside a worker: what is durable, what its own death and the worker's change, and how it rests."""

from __future__ import annotations

import errno
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

import gateway
from gateway.journal import syncer
from gateway.journal.allocate import Segment, make_segment
from gateway.journal.commit import JournalFailed
from gateway.journal.commit_process import DEATHS_MAX, ProcessCommitter
from gateway.journal.format import ENTRY_BYTES_MAX
from gateway.journal.reader import JournalReader, follow
from gateway.journal.writer import JournalWriter

SMALL = 4 * ENTRY_BYTES_MAX
NEVER_MS = 3_600_000  # it looks only when it is told to


@contextmanager
def committing(interval_ms: int = 1) -> Iterator[ProcessCommitter]:
    committer = ProcessCommitter(interval_ms, Segment.close)
    try:
        yield committer
    finally:
        committer.close()


def a_segment(folder: Path, number: int = 1) -> Segment:
    return make_segment(folder / f"{number}", mmap.PAGESIZE, os.posix_fallocate)


def that_cannot_be_synced() -> Segment:
    """A pipe in the place of a file: EINVAL."""
    reader, writer = os.pipe()
    os.close(reader)
    return Segment(Path("pipe"), writer, mmap.mmap(-1, mmap.PAGESIZE))


def lives(pid: int) -> bool:
    """False also for one that has ended and whose parent has not asked yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


def test_records_become_durable_by_themselves_and_at_once_when_asked(tmp_path: Path, make: Any) -> None:
    with committing() as committer:
        committer.begin(a_segment(tmp_path))
        committer.wrote(1)
        make.until(lambda: committer.durable == 1)
    with committing(NEVER_MS) as committer:
        committer.flush()
        committer.begin(a_segment(tmp_path))
        committer.wrote(2)
        committer.flush()
        assert committer.durable == 2


def test_segments_are_closed_here_once_they_are_durable(tmp_path: Path) -> None:
    with committing(NEVER_MS) as committer:
        segments = [a_segment(tmp_path, number) for number in range(1, 4)]
        for number, segment in enumerate(segments, 1):
            committer.begin(segment)
            committer.wrote(number)
            committer.flush()
        assert [segment.memory.closed for segment in segments] == [True, True, False]
    assert segments[2].memory.closed


def test_a_segment_that_cannot_be_synced_is_final_and_holds_back_what_is_newer(tmp_path: Path) -> None:
    with committing(NEVER_MS) as committer:
        committer.begin(a_segment(tmp_path, 1))
        committer.wrote(1)
        committer.flush()
        committer.begin(that_cannot_be_synced())
        committer.wrote(2)
        committer.begin(a_segment(tmp_path, 2))
        committer.wrote(3)
        with pytest.raises(JournalFailed, match="Invalid argument"):
            committer.flush()
        assert committer.durable == 1
        assert committer.failure is not None
        assert committer.failure.errno == errno.EINVAL
        committer.tend()  # it has ended, and another one would not know of the failure
        committer.wrote(4)
        with pytest.raises(JournalFailed):
            committer.flush()


def test_a_failure_is_seen_without_another_record(tmp_path: Path, make: Any) -> None:
    with committing() as committer:
        committer.begin(that_cannot_be_synced())
        committer.wrote(1)
        make.until(lambda: committer.failure is not None)


def test_a_syncer_that_is_killed_is_followed_by_one_with_every_segment(tmp_path: Path, make: Any) -> None:
    with committing(NEVER_MS) as committer:
        for number in range(1, 4):
            committer.begin(a_segment(tmp_path, number))
            committer.wrote(number)
        killed = committer.syncer_pid
        os.kill(killed, signal.SIGKILL)
        make.until(lambda: not lives(killed))
        committer.wrote(4)
        committer.begin(a_segment(tmp_path, 4))
        committer.tend()
        assert committer.syncer_pid != killed
        committer.wrote(5)
        committer.flush()
        assert (committer.durable, committer.failure) == (5, None)


def test_a_flush_outlives_the_syncer_it_waits_for(tmp_path: Path) -> None:
    with committing(NEVER_MS) as committer:
        committer.begin(a_segment(tmp_path))
        committer.wrote(1)
        os.kill(committer.syncer_pid, signal.SIGSTOP)
        with pytest.raises(TimeoutError, match="within 1 ms"):
            committer.flush(timeout_ms=1)
        threading.Timer(0.05, os.kill, (committer.syncer_pid, signal.SIGKILL)).start()
        committer.flush()
        assert committer.durable == 1


def test_syncers_that_die_in_vain_are_a_failure_in_the_end(tmp_path: Path, make: Any) -> None:
    with committing(NEVER_MS) as committer:
        committer.begin(a_segment(tmp_path))
        for death in range(DEATHS_MAX + 1):
            assert committer.failure is None, death
            committer.wrote(death + 1)
            killed = committer.syncer_pid
            os.kill(killed, signal.SIGKILL)
            make.until(lambda killed=killed: not lives(killed))
            committer.tend()
        assert "synced nothing" in str(committer.failure)
        committer.wrote(100)
        committer.begin(a_segment(tmp_path, 2))
        with pytest.raises(JournalFailed, match="synced nothing"):
            committer.flush()


def test_a_syncer_that_cannot_be_started_again_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with committing(NEVER_MS) as committer:
        committer.begin(a_segment(tmp_path))
        monkeypatch.setattr(sys, "executable", str(tmp_path / "no python"))
        os.kill(committer.syncer_pid, signal.SIGKILL)
        committer.wrote(1)
        with pytest.raises(JournalFailed, match="no python"):
            committer.flush()


def test_what_ends_a_whole_group_does_not_end_it(tmp_path: Path) -> None:
    with committing(NEVER_MS) as committer:
        committer.begin(a_segment(tmp_path))
        committer.wrote(1)
        committer.flush()
        pid = committer.syncer_pid
        for sent in (signal.SIGINT, signal.SIGTERM):
            os.kill(pid, sent)
        committer.wrote(2)
        committer.flush()
        assert committer.syncer_pid == pid


# Its program, in a thread here: both of its ends are ours


@contextmanager
def a_syncer(interval_ms: int) -> Iterator[tuple[socket.socket, memoryview, threading.Thread]]:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    words = memoryview(bytearray(syncer.WORDS_BYTES)).cast("Q")
    thread = threading.Thread(target=syncer.main, args=(interval_ms, its, words))
    thread.start()
    try:
        yield ours, words, thread
    finally:
        ours.close()
        thread.join(10)
        its.close()


def test_it_sleeps_when_nothing_is_written_and_loses_no_record_that_comes_then(tmp_path: Path, make: Any) -> None:
    with a_syncer(1) as (control, words, _):
        segment = a_segment(tmp_path)
        socket.send_fds(control, [syncer.SEGMENT], [segment.descriptor])
        for sequence in range(1, 4):
            make.until(lambda: words[syncer.ASLEEP] == 1)
            words[syncer.WRITTEN] = sequence
            words[syncer.ASLEEP] = 0
            control.send(syncer.WAKE)
            make.until(lambda sequence=sequence: words[syncer.DURABLE] == sequence)
        assert words[syncer.ERROR] == 0
        segment.close()


def test_a_wake_that_is_taken_before_its_record_is_seen_keeps_it_awake(make: Any) -> None:
    """The look that takes the message may have read the number before the record: it must look again, and not sleep for good."""
    with a_syncer(1) as (control, words, _):
        make.until(lambda: words[syncer.ASLEEP] == 1)
        words[syncer.ASLEEP] = 0
        control.send(syncer.FLUSH)  # wakes as WAKE does, and answers when the look is over
        control.settimeout(10)
        assert control.recv(1) == syncer.DONE
        words[syncer.WRITTEN] = 1  # the worker saw it awake: no message
        make.until(lambda: words[syncer.DURABLE] == 1)


class LastWords(list[int]):
    """A worker that writes one more record, and is killed, right after its number was read."""

    def __init__(self, control: socket.socket) -> None:
        super().__init__([7, 0, 0, 0])
        self._control = control

    def __getitem__(self, word: Any) -> Any:
        number = super().__getitem__(word)
        if word == syncer.WRITTEN and number == 7:
            self[word] = 8
            self._control.close()
        return number


def test_when_the_worker_has_gone_the_rest_is_synced_and_it_ends() -> None:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    words: Any = LastWords(ours)
    syncer.main(1, its, words)
    assert words[syncer.DURABLE] == 8
    its.close()


# Through the writer


def write(journal: JournalWriter, make: Any, count: int) -> None:
    for number in range(count):
        make.until(lambda: journal.ready)
        journal.intend(make.intent(number))
        journal.append(make.entry(number))


def test_a_journal_over_many_segments_with_a_syncer_that_is_killed_now_and_then(tmp_path: Path, make: Any) -> None:
    with JournalWriter(tmp_path, "w0", segment_bytes=SMALL, commit_by="process") as journal:
        killed = set()
        for turn in range(1, 4):
            write(journal, make, 40)
            committer = journal._committer
            assert isinstance(committer, ProcessCommitter)
            pid = committer.syncer_pid
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
            journal.flush()
            assert journal.durable_sequence == journal.written_sequence == turn * 80
            make.until(lambda pid=pid: not lives(pid))
            journal.tend()
        assert journal.healthy
        assert len(killed) == 3
    journal.tend()  # by a timer that was set before
    assert not lives(committer.syncer_pid), "nothing is started behind the end"
    reader = JournalReader(tmp_path, "w0")
    batches = list(follow(reader))
    reader.close()
    assert sum(len(batch.records) for batch in batches) == 240
    assert [batch.ended.clean for batch in batches if batch.ended] == [True]
    assert not [gap for batch in batches for gap in batch.gaps]


CHILD = """
import sys
from pathlib import Path
import msgspec
from gateway.journal.records import Intent
from gateway.journal.writer import JournalWriter
journal = JournalWriter(Path(sys.argv[1]), "w0", commit_by="process")
journal.intend(msgspec.msgpack.decode(bytes.fromhex(sys.argv[2]), type=Intent))
journal.flush()
print(journal._committer.syncer_pid, flush=True)
sys.stdin.read()
"""


def test_it_ends_with_a_worker_that_is_killed_and_holds_no_lock_of_it(tmp_path: Path, make: Any) -> None:
    argv = [sys.executable, "-c", CHILD, str(tmp_path), msgspec.msgpack.encode(make.intent()).hex()]
    home = {**os.environ, "PYTHONPATH": str(Path(gateway.__file__).parents[1])}
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=home) as worker:
        assert worker.stdout is not None
        pid = int(worker.stdout.readline())
        os.kill(pid, signal.SIGSTOP)
        worker.kill()
    with JournalWriter(tmp_path, "w0"):
        assert lives(pid)
    os.kill(pid, signal.SIGCONT)
    make.until(lambda: not lives(pid))
