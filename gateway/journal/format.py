"""How records lie in a segment file, and how places in a journal are named.

    <folder>/<worker>/lock                      held by flock as long as the worker lives
    <folder>/<worker>/<boot>-<segment>.journal  10 and 8 digits; preallocated, so it ends in zeros

A record is a header and a MessagePack payload. The CRC covers all that follows it and is written last, so a record that is
half there is not there. Sequence numbers are dense within a boot and start at 1; boots are dense too. The first boot of an
empty folder is the time in seconds: a journal that was wiped never repeats a number, and its hole is seen.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
from pathlib import Path
from typing import NamedTuple

import msgspec

from gateway.journal.records import Closed, Entry, Intent

HEADER = struct.Struct("<IIIQB")  # CRC32 of the rest, payload bytes, boot, sequence, version
HEADER_BYTES = HEADER.size
CRC = struct.Struct("<I")
AFTER_CRC = struct.Struct("<IIQB")
BOOT_AT = 8  # offset of the boot inside the header
VERSION = 1
RECORD_BYTES_MAX = 65_536  # what a reader accepts; a writer stays far below it
ENTRY_BYTES_MAX = 6_144  # header included: the room an intent reserves. fit.py proves that every entry can be made to fit
BOOT_MAX = 2**32 - 1

_NAME = re.compile(r"(\d{10})-(\d{8})\.journal")


class EndMark(msgspec.Struct, frozen=True, array_like=True, tag="end"):
    """The last record of a boot that was closed in order."""


Stored = Intent | Entry | Closed | EndMark


class Position(msgspec.Struct, frozen=True, order=True):
    """A place in one worker's journal: everything before it was read. Later places compare greater. Encodes to JSON."""

    boot: int
    segment: int
    offset: int
    sequence: int  # of the last record before this place; 0: none in this boot


class SegmentName(NamedTuple):
    """Which segment a file is; sorts in the order of writing."""

    boot: int
    segment: int

    @property
    def file_name(self) -> str:
        return f"{self.boot:010d}-{self.segment:08d}.journal"


def segments_in(folder: Path) -> list[SegmentName]:
    """Every segment of one worker's folder in the order of writing; empty when there is no folder."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    matches = (_NAME.fullmatch(name) for name in names)
    return sorted(SegmentName(int(match[1]), int(match[2])) for match in matches if match)


def check_worker_name(worker: str) -> str:
    """The name itself, fit to be a folder. ValueError otherwise."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", worker):
        raise ValueError(f"{worker!r} cannot name a worker: use 1 to 64 letters, digits, '.', '_' and '-', starting with a letter or digit")
    return worker


def worker_is_dead(folder: Path, worker: str) -> bool:
    """True when nobody holds the worker's lock: it will write nothing more under its newest boot.

    Probed with a shared lock for an instant; a starting writer retries past that.
    """
    try:
        lock = os.open(folder / check_worker_name(worker) / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True
