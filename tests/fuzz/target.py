"""What a target is, and what all of them share: how an input is cut, and how work must grow."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .grammar import Grammar

CASES = Path(__file__).parent.parent / "cases"
MARK = b"\x1e"  # stands around what a growing input repeats; no reader gives it a meaning
GROWN_BYTES = 65_536
GROWTH = 4  # the second input is so many times the first; linear work grows like it, quadratic work with its square
GROWTH_MAX = 9.0  # between the two, and far from both
CPU_FLOOR_S = 0.15  # what the larger may cost in any case: nothing waits long for that
TRIES = 3  # whatever else runs disturbs

Seeds = Mapping[str, bytes]


@dataclass(frozen=True)
class Target:
    """One reader under test. `check` raises AssertionError, or whatever the reader should not have raised, on a broken promise.

    The first CONTROL_BYTES of an input say how the reader is used (`check` tells), the rest is what it reads. `grows` reads
    nothing but the bytes: with it there is a second target, whose work must grow no faster than its input.
    """

    name: str
    check: Callable[[bytes], None]
    seeds: Callable[[], Seeds]
    grows: Callable[[bytes], object] | None = None
    input_bytes_max: int = 4_096
    grammar: Grammar | None = None  # None: bytes are as good as parts
    is_growth: bool = False

    def growing(self, inputs: Sequence[bytes]) -> Target | None:
        """The target for the growth of work, which begins with these inputs, `before MARK repeated MARK after`; None: it cannot grow."""
        reads = self.grows
        if reads is None:
            return None

        def seeds() -> Seeds:
            return {str(number): grown for number, grown in enumerate(inputs)}

        check = partial(check_growth, reads=reads)
        return Target(f"{self.name}-growth", check, seeds, input_bytes_max=1_024, is_growth=True)


CONTROL_BYTES = 2
PIECES_MAX = 300  # of one input: a fuzzer learns more from a thousand inputs than from one that is cut a thousand times


def control(data: bytes) -> tuple[int, int, bytes]:
    """(flags, how it is cut, the bytes to read)."""
    return (data[0] if data else 0), (data[1] if len(data) > 1 else 0), data[CONTROL_BYTES:]


def cut(data: bytes, how: int) -> Iterator[bytes]:
    """In pieces: 0 whole, below 128 each of so many bytes, above in two at that share of the length. Never an empty one."""
    if how == 0:
        pieces = [data]
    elif how < 128:
        size = max(how, len(data) // PIECES_MAX)
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
    else:
        place = len(data) * (how - 127) // 129
        pieces = [data[:place], data[place:]]
    return (piece for piece in pieces if piece)


def check_growth(data: bytes, reads: Callable[[bytes], object], clock_s: Callable[[], float] = time.process_time) -> None:
    """Hold the CPU time of a reader against the size of what it reads. Raises AssertionError when it grows with the square."""
    before, first, rest = data.partition(MARK)
    repeated, second, after = rest.partition(MARK)
    if not first or not second or not repeated:
        return

    def taken_s(times: int) -> float:
        grown = before + repeated * times + after
        gc.disable()  # its own work grows faster than what is read
        began_s = clock_s()
        try:
            reads(grown)
        finally:
            gc.enable()
        return clock_s() - began_s

    times, rate = GROWN_BYTES // len(repeated) + 1, 0.0
    for _ in range(TRIES):
        large_s = taken_s(GROWTH * times)
        if large_s < CPU_FLOOR_S:
            return
        rate = large_s / max(taken_s(times), CPU_FLOOR_S / GROWTH**2)
        if rate < GROWTH_MAX:
            return
    raise AssertionError(f"{GROWTH} times the bytes took {rate:.1f} times the work: {before!r} ({repeated!r})* {after!r}")
