"""Which exchanges were admitted and which were settled, so that neither happens twice. Pure, and bounded.

Repetitions come within milliseconds (a retry after a lost reply), so a settled id is kept for thousands of further exchanges
and not for ever.
"""

from __future__ import annotations

from gateway.admission import Admitted

OPEN_MAX = 65_536  # unsettled; far above what one worker carries at once
RECENT_MAX = 8_192  # settled, about 1 KB each


class Decided:
    """Admissions by exchange id: all that are open (up to OPEN_MAX, then the oldest are forgotten) and the recently settled.

    Two generations of each: when the younger is full it becomes the older, and the older goes. So between one and two times
    the maximum is kept, and no call pays for the clearing.
    """

    __slots__ = ("_open", "_open_max", "_open_older", "_recent", "_recent_max", "_recent_older")

    def __init__(self, open_max: int = OPEN_MAX, recent_max: int = RECENT_MAX) -> None:
        self._open_max = open_max
        self._recent_max = recent_max
        self._open: dict[str, Admitted] = {}
        self._open_older: dict[str, Admitted] = {}
        self._recent: dict[str, Admitted | None] = {}
        self._recent_older: dict[str, Admitted | None] = {}

    def __len__(self) -> int:
        return len(self._open) + len(self._open_older) + len(self._recent) + len(self._recent_older)

    def first(self, exchange_id: str) -> Admitted | None:
        """What was decided for this id before; None when it is new or long forgotten."""
        return (
            self._open.get(exchange_id)
            or self._recent.get(exchange_id)
            or self._open_older.get(exchange_id)
            or self._recent_older.get(exchange_id)
        )

    def admit(self, admitted: Admitted) -> None:
        """Remember an admission until it is settled."""
        if len(self._open) >= self._open_max:
            self._open_older, self._open = self._open, {}
        self._open[admitted.reservation.exchange_id] = admitted

    def settle(self, exchange_id: str) -> bool:
        """True the first time for an id. An id that was never seen is settled too: its reservation is the caller's to know."""
        if exchange_id in self._recent or exchange_id in self._recent_older:
            return False
        if len(self._recent) >= self._recent_max:
            self._recent_older, self._recent = self._recent, {}
        self._recent[exchange_id] = self._open.pop(exchange_id, None) or self._open_older.pop(exchange_id, None)
        return True
