"""What every process of `serve` does first: log alike, and end with the process that started it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

import structlog

PR_SET_PDEATHSIG = 1  # linux/prctl.h


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
