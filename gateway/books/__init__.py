"""The books: the control plane, one process a machine. Its composition root; not pure.

    root        builds everything, runs it, closes it: `run_books`
    bookkeeper  journals into the ledger, and what follows from it: metrics, late usage, orphans. One thread
    follow      when the bookkeeper turns: often while there is work, seldom when there is none, again when it failed
    reloading   the configuration: watched, loaded, given to all workers or to none
    links       the control sockets of the workers that live
    learned     what calls are seen to use
    readiness   every check of /readyz and the name of its state

Nothing a call waits for happens here. Books may be killed at any moment: the journals keep what was not folded, and the
workers serve on with the configuration they have.
"""

from gateway.books.root import BooksOptions, run_books

__all__ = ["BooksOptions", "run_books"]
