"""What becomes of intents whose worker died: the worst case they reserved, marked `unknown`. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.journal.records import Entry, Intent
from gateway.journal.unknown import unknown_entry

ORPHAN = "orphan"  # the mark by which people tell these entries from other unknown ones


def orphans(intents: Iterable[Intent], ended_at_us: int) -> tuple[Entry, ...]:
    """One entry for each intent that a dead boot left open, at the reserved amount.

    Only for a boot that was read to its end. A real entry that turns up later supersedes it.
    """
    return tuple(unknown_entry(intent, ended_at_us=ended_at_us, outcome="unknown", marks=(ORPHAN,)) for intent in intents)
