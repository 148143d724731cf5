"""The process beside a worker that makes its journal durable. Bare: it imports nothing of ours and nothing heavy (9 MB, 30 ms).

    python -I -S syncer.py <interval ms> <descriptor of the socket> <descriptor of the shared memory>

Why a process: a thread wants the GIL several times a commit, and what it takes from the worker's loop is more than the sync
costs. Here the worker stores a number, and nothing else is done on its side: it wakes nobody as long as records keep coming.
It ends when the worker has ended, however that ended, and syncs what was written until then.
"""

from __future__ import annotations

import errno
import mmap
import os
import select
import signal
import socket
import sys
from contextlib import suppress

WORDS_BYTES = 4 * 8
WRITTEN, DURABLE, ERROR, ASLEEP = range(4)  # words of the shared memory: the worker writes the first, we the others; it clears the last
SEGMENT, WAKE, FLUSH = b"s", b"w", b"f"  # from the worker: records go into what comes along; look; sync, and say when
DONE = b"d"  # to the worker, after a FLUSH
QUIET_LOOKS_MAX = 250  # in a row without a new record, a second: then sleep until woken


def main(interval_ms: int, control: socket.socket, words: memoryview) -> None:
    """Look for new records every `interval_ms`, and sync when there are. Ends with the worker, or with the disk's first error."""
    control.setblocking(False)
    message_or_end = select.poll()
    message_or_end.register(control, select.POLLIN)
    segments: list[int] = []  # not yet wholly durable, oldest first; the last one is being written
    quiet_looks = 0
    worker_lives = True
    while worker_lives:
        message_or_end.poll(interval_ms if quiet_looks <= QUIET_LOOKS_MAX else None)
        target = words[WRITTEN]  # before the segments: those that hold its records are all among them
        messages = _received(control, segments)
        if b"" in messages:
            worker_lives = False
            target = words[WRITTEN]  # what came until its end; of this the segments are here
        quiet_looks = 0 if messages or target != words[DURABLE] else quiet_looks + 1
        words[ASLEEP] = quiet_looks >= QUIET_LOOKS_MAX  # said one look before it is done: a record that comes meanwhile is seen
        if target != words[DURABLE]:
            try:
                for descriptor in segments:
                    os.fdatasync(descriptor)
            except OSError as error:
                words[ERROR] = error.errno or errno.EIO
                return
            while len(segments) > 1:
                os.close(segments.pop(0))
            words[DURABLE] = target
        if FLUSH in messages and worker_lives:
            with suppress(ConnectionError):  # it has gone since
                control.send(DONE)


def _received(control: socket.socket, segments: list[int]) -> list[bytes]:
    """The messages that wait, the last one empty when the worker has gone; the segments they bring are added."""
    messages: list[bytes] = []
    while messages[-1:] != [b""]:
        try:
            message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        except BlockingIOError:
            break
        except ConnectionError:
            message, descriptors = b"", []
        if message == SEGMENT and not descriptors:
            raise OSError(errno.EMFILE, "a segment came without its descriptor")  # better dead than durable by name only
        messages.append(message)
        segments += descriptors
    return messages


if __name__ == "__main__":
    for ignored in (signal.SIGINT, signal.SIGTERM):  # sent to all by a terminal or a supervisor: the worker has records to write yet
        signal.signal(ignored, signal.SIG_IGN)
    interval, control_descriptor, memory_descriptor = map(int, sys.argv[1:])
    shared = memoryview(mmap.mmap(memory_descriptor, WORDS_BYTES)).cast("Q")  # a word is stored and loaded whole
    main(interval, socket.socket(fileno=control_descriptor), shared)
