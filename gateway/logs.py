"""How every process logs: one JSON line an event, on standard error. Never a secret, a body or a local variable."""

from __future__ import annotations

import sys

import structlog


def configure_logs() -> None:
    """To be called once, where a process starts."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,  # without local variables: they hold secrets
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
