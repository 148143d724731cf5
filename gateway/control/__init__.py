"""The control socket: what passes between a worker and the books that is not history. Beside the journal; not pure.

One Unix socket per worker, in its journal folder. The worker listens, the books connect, and connect again for ever. Down go
the configuration snapshot, refills of emptied buckets, questions about limits, and drain; up go one report a second and
questions about who made a stored answer. Nothing here is needed to carry a call: a worker whose books are away serves on with
the snapshot it has, and what must not be lost is in the journal.

Frames are a length of four bytes (big endian) and a MessagePack message, both ends bounded. Whoever can open the socket (mode 0600)
is trusted to ask, never to be well: garbage closes its own connection and nothing else. Never knows what a snapshot
contains: it carries bytes, so this room stands beside `config` and not above it.
"""

from gateway.control.books_end import LinkHandlers, WorkerAway, WorkerLink
from gateway.control.messages import (
    Decided,
    Hello,
    LimitReading,
    LimitsAnswer,
    NotTaken,
    OwnerAnswer,
    Refusal,
    Report,
    Spent,
    Taken,
)
from gateway.control.paths import control_path
from gateway.control.worker_end import BooksAway, WorkerControl, WorkerHandlers

__all__ = [
    "BooksAway",
    "Decided",
    "Hello",
    "LimitReading",
    "LimitsAnswer",
    "LinkHandlers",
    "NotTaken",
    "OwnerAnswer",
    "Refusal",
    "Report",
    "Spent",
    "Taken",
    "WorkerAway",
    "WorkerControl",
    "WorkerHandlers",
    "WorkerLink",
    "control_path",
]
