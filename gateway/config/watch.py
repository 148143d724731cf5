"""Has a configuration file changed? Comparison of stats; books ask again and again, and load again when it has.

By polling, since it sees whatever happened to a file wherever it is: written, replaced, removed, a mounted folder swapped by its
symbolic link. At 10,000 team files one look takes 30 ms: take it off the event loop, and as seldom as `pause_after_s` says.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

FOLDERS = ("models", "teams")
LOOK_EVERY_S = 1.0
LOOK_EVERY_MAX_S = 5.0  # from some 17,000 files on; who cannot wait has SIGHUP and the admin port
LOOKS_PERCENT = 1  # of a core, for ever
TICK_NS = 20_000_000  # the system stamps files by a clock that moves every 1 to 10 ms; twice that is safe
_SETTLE_LOOKS_MAX = 3  # a file that is written all the time is loaded as it is


class Stamp(NamedTuple):
    """What changes when a file is written or replaced.

    A rewrite of the same size leaves no trace within one tick of the file system's clock; stamps that are kept are `settled`
    first. File systems of coarser clocks (2 s of some memory cards) and of clocks elsewhere (NFS) are outside of that.
    """

    modified_ns: int
    changed_ns: int
    size_bytes: int
    inode: int
    is_file: bool


Stamps = dict[str, Stamp | None]
"""By path; None: it is not there."""


def stamp_of(path: str | Path) -> Stamp | None:
    """The file as it is now, symbolic links followed; None when it is not there or may not be looked at."""
    try:
        stat = os.stat(path)
    except (OSError, ValueError):
        return None
    return Stamp(stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino, S_ISREG(stat.st_mode))


def names_in(folder: Path) -> list[str]:
    """What is in a folder, sorted, without hidden files (editors and mounted volumes keep theirs there); empty without the folder."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []


def stamps_of(folder: Path, also: Iterable[Path] = ()) -> Stamps:
    """Every file a configuration folder is read from; `also` are the files it names (`Loaded.named_files`)."""
    paths = [str(path) for path in (folder / "gateway.yaml", folder / "tiers.yaml", *also)]
    for inner in FOLDERS:
        begin = str(folder / inner / "x")[:-1]  # a text for each file: thousands of `Path` take longer than their stats
        try:
            paths += [begin + name for name in names_in(folder / inner) if name.endswith((".yaml", ".yml"))]
        except OSError:  # reading the folder tells
            continue
    return {path: stamp_of(path) for path in paths}


def settled(stamps: Stamps) -> Stamps:
    """Stamps to be kept, from before the files are read: none that a later write could leave as it is. Waits for a tick, if need be."""
    for _ in range(_SETTLE_LOOKS_MAX):
        now_ns = time.time_ns()
        fresh = {path: stamp.changed_ns for path, stamp in stamps.items() if stamp and now_ns - TICK_NS < stamp.changed_ns <= now_ns}
        if not fresh:
            break
        time.sleep((max(fresh.values()) + TICK_NS - now_ns) / 1e9)
        stamps = stamps | {path: stamp_of(path) for path in fresh}
    return stamps


def changed_since(before: Stamps, now: Stamps) -> list[str]:
    """The paths that were added, removed, written or replaced between two looks."""
    if before == now:  # nearly always, and many times faster
        return []
    return sorted(path for path in before.keys() | now.keys() if before.get(path) != now.get(path))


def pause_after_s(look_s: float) -> float:
    """How long to wait after a look that took so much CPU time: looks stay within LOOKS_PERCENT of a core, but for the bounds."""
    return min(max(LOOK_EVERY_S, look_s * 100 / LOOKS_PERCENT), LOOK_EVERY_MAX_S)
