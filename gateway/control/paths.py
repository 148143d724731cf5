"""Where a worker's socket lies. A Unix socket's path holds 107 bytes, a journal folder's may be longer."""

from __future__ import annotations

import os
import stat
import tempfile
from hashlib import sha256
from pathlib import Path

PATH_BYTES_MAX = 100  # sun_path holds 108 with its end on Linux, 104 on macOS
HASH_DIGITS = 32


def control_path(folder: Path, worker: str) -> Path:
    """The socket of a worker under a journal folder: the same for every process, wherever it was started.

    A path that is too long is replaced by a short one in a private folder of the temp folder, named after a hash of the long one.
    """
    path = Path(os.path.abspath(folder)) / worker / "control.sock"
    if len(os.fsencode(path)) <= PATH_BYTES_MAX:
        return path
    digest = sha256(os.fsencode(path)).hexdigest()[:HASH_DIGITS]
    short = Path(tempfile.gettempdir()) / f"gateway-{os.getuid()}" / f"{digest}.sock"
    if len(os.fsencode(short)) <= PATH_BYTES_MAX:
        return short
    return Path("/tmp") / f"gateway-{os.getuid()}" / f"{digest}.sock"  # TMPDIR is long itself; the folder is checked to be ours


def make_private_folder(folder: Path) -> None:
    """The folder of a short path: mode 0700 and ours. Anyone may write into the temp folder, so one that somebody else made is refused.

    Raises PermissionError.
    """
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        pass
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"{folder} must be a folder of mode 0700 that belongs to this user: somebody else may have made it")
