"""`python -m gateway.books '<BooksOptions as JSON>'`: how `serve` starts the books."""

from __future__ import annotations

import asyncio
import os
import sys

import msgspec
import structlog

from gateway.books.root import BooksOptions, run_books

if __name__ == "__main__":
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,  # without local variables: they hold secrets
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    sys.exit(asyncio.run(run_books(msgspec.json.decode(sys.argv[1], type=BooksOptions), os.environ)))
