"""`python -m gateway.books '<BooksOptions as JSON>'`: how `serve` starts the books."""

from __future__ import annotations

import asyncio
import os
import sys

import msgspec

from gateway.books.root import BooksOptions, run_books
from gateway.logs import configure_logs

if __name__ == "__main__":
    configure_logs()
    sys.exit(asyncio.run(run_books(msgspec.json.decode(sys.argv[1], type=BooksOptions), os.environ)))
