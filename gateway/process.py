"""What every process of `serve` does first: log alike, and end with the process that started it."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

import structlog

PR_SET_PDEATHSIG = 1  # linux/prctl.h
M_MMAP_THRESHOLD = -3  # malloc.h
M_TRIM_THRESHOLD = -1
LARGE_BLOCK_BYTES = 131_072  # what glibc begins with
LARGE_BLOCK_BYTES_OF_WORKER = 1_048_576  # well above the 256 KiB that a read from TLS asks for: a mapping each time doubled its cost
FREE_TOP_BYTES = 8_388_608  # of the heap's end that is kept: with the threshold above set, glibc would give it back at 128 KiB, each time
FILES_OF_ITS_OWN = 64  # of a role: journal, control socket, large bodies that wait on disk


def configure_logs() -> None:
    """One JSON line an event, on standard error. Never a secret, a body or a local variable."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,  # without local variables: they hold secrets
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def end_with_parent(parent_pid: int) -> None:
    """Be sent SIGTERM when the parent dies, however it dies: a role that nobody watches over would hold its ports for ever."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent_pid:  # it died before we asked
        os.kill(os.getpid(), signal.SIGTERM)


def give_back_memory(large_block_bytes: int) -> None:
    """Have blocks from this size on returned to the system when they are freed, also once there were larger ones.

    glibc raises its threshold to the largest block that was ever freed (up to 32 MiB); after a few huge answers blocks of that size lie in
    its heap among small ones, and what is freed between them stays: 80 MiB of a worker that did nothing any more.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, large_block_bytes)
        mallopt(M_TRIM_THRESHOLD, FREE_TOP_BYTES)


def trim_memory() -> None:
    """Return what is free inside the heap: 5 ms once after 45 MB in small blocks were freed, otherwise far below one."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


def allow_open_files() -> None:
    """Raise the limit of open files of this process, and so of its children, as far as the system lets it.

    Systems give 1,024 unless asked, for programs that use select(); each call that is under way takes two, its client's and OpenAI's.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def clients_max(wanted: int, upstream_max: int) -> int:
    """As many client connections as are wanted, or as this process has files for: beyond, they would be dropped without an answer.

    `upstream_max`: connections to OpenAI that there may be beside them; where files are few, they get half.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    room = max(2, soft - FILES_OF_ITS_OWN)
    return min(wanted, room - min(upstream_max, room // 2))
