"""One gateway for each journal folder: a second one would find every journal and the books locked, one role after another."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path

import structlog

from gateway.serve.listeners import ServeError

LOCK_FILE = "serve.lock"
WAIT_S = 1.0  # a gateway that was killed may have had a child about to begin, which holds the lock for an instant more
ASK_EVERY_S = 0.02
WITHOUT_LOCK = {errno.ENOSPC, errno.EDQUOT, errno.EIO}  # a disk that may recover: the roles say so by /readyz, and try again

_log = structlog.get_logger("gateway.serve")


def hold_journals(folder: str, held: int | None) -> int | None:
    """The descriptor of the folder's lock, held until the process ends, however it ends; None: the disk would not have a file.

    `held` is the lock that the release before left: kept when it is this folder's, else closed. Raises ServeError when another
    gateway has the folder, or nothing can be made in it.
    """
    path = Path(folder) / LOCK_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        if held is not None:
            os.close(held)
        if error.errno in WITHOUT_LOCK:
            _log.warning("journals_not_locked", folder=folder, reason=error.strerror)
            return None
        raise ServeError(f"cannot keep a journal in {folder}: {error.strerror}. Change journal.folder in gateway.yaml.") from error
    if held is not None:
        if os.path.sameopenfile(held, lock):
            os.close(lock)
            os.set_inheritable(held, False)
            return held
        os.close(held)
    if not _locked(lock):
        os.close(lock)
        raise ServeError(f"the journal in {folder} is in use by another gateway. Give this one its own journal.folder, or stop the other.")
    return lock


def _locked(lock: int) -> bool:
    deadline_s = time.monotonic() + WAIT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline_s:
                return False
        time.sleep(ASK_EVERY_S)
