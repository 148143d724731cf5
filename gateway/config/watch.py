"""Has a configuration file changed? Pure comparison of stats; books ask once a second and load again when it has.

At 10,000 team files one question is 10,000 stats (tens of milliseconds): ask it off the event loop.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

FOLDERS = ("models", "teams")


class Stamp(NamedTuple):
    """What changes when a file is written or replaced. A rewrite of the same size within one clock tick of the disk is not seen."""

    modified_ns: int
    changed_ns: int
    size_bytes: int
    inode: int
    is_file: bool


Stamps = dict[str, Stamp | None]
"""By path; None: it is not there."""


def stamp_of(path: Path) -> Stamp | None:
    """The file as it is now, symbolic links followed; None when it is not there or may not be looked at."""
    try:
        stat = path.stat()
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
    paths = [folder / "gateway.yaml", folder / "tiers.yaml", *also]
    for inner in FOLDERS:
        try:
            paths += [folder / inner / name for name in names_in(folder / inner) if name.endswith((".yaml", ".yml"))]
        except OSError:  # reading the folder tells
            continue
    return {str(path): stamp_of(path) for path in paths}


def changed_since(before: Stamps, now: Stamps) -> list[str]:
    """The paths that were added, removed, written or replaced between two looks."""
    return sorted(path for path in before.keys() | now.keys() if before.get(path) != now.get(path))
