"""Time-outs are swept: what is due expires, unless something has come, or it was forgotten, since the sweep looked."""

from __future__ import annotations

import asyncio

from gateway.relay.deadlines import NEVER, Deadlines


class Due:
    """Due from the beginning. The first of several that expires makes the others forgotten."""

    def __init__(self, deadlines: Deadlines, others: list[Due], over: asyncio.Event) -> None:
        self.deadline_s, self.has_expired = 0.0, False
        self._deadlines, self._others, self._over = deadlines, others, over

    def expired(self) -> None:
        self.has_expired, self.deadline_s = True, NEVER
        for other in self._others:
            if other is not self:
                self._deadlines.remove(other)
        asyncio.get_running_loop().call_soon(self._over.set)  # behind all that the same sweep found


def test_what_is_forgotten_between_a_sweep_and_its_turn_does_not_expire() -> None:
    async def count() -> int:
        deadlines, due, over = Deadlines(), list[Due](), asyncio.Event()
        due += [Due(deadlines, due, over) for _ in range(3)]
        for one in due:
            deadlines.add(one)
        deadlines.start(asyncio.get_running_loop())
        await over.wait()
        deadlines.stop()
        return sum(one.has_expired for one in due)

    assert asyncio.run(count()) == 1
