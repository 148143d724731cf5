"""`python -m gateway.books '<BooksOptions as JSON>' <pid of serve>`: how `serve` starts the books."""

from __future__ import annotations

import asyncio
import os
import sys

import msgspec

from gateway import failpoints
from gateway.books.root import BooksOptions, run_books
from gateway.process import LARGE_BLOCK_BYTES, configure_logs, end_with_parent, give_back_memory

if __name__ == "__main__":
    configure_logs()
    end_with_parent(int(sys.argv[2]))
    give_back_memory(LARGE_BLOCK_BYTES)
    failpoints.arm("books", os.environ.get(failpoints.VARIABLE, ""))
    given = msgspec.json.decode(sys.argv[1], type=BooksOptions)
    sys.exit(asyncio.run(run_books(given, os.environ, on_loaded=lambda: print("loaded", flush=True))))
