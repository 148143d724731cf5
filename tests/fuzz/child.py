"""One target in a process of its own: libFuzzer takes it over. `python -m tests.fuzz.child <target> <libFuzzer's arguments>`."""

from __future__ import annotations

import random
import sys

import atheris

# The gateway is imported here for the first time, so that its branches are counted; what a target does not read is left out of it.
with atheris.instrument_imports(include=["gateway"]):
    from .table import TARGETS

PARTS_SHARE = 0.6  # of the mutations are by parts, the others libFuzzer's own


def main() -> None:
    """Does not return: libFuzzer ends the process."""
    target = TARGETS[sys.argv[1]]
    again = f"{sys.executable} -m {__package__}.child {target.name}"  # libFuzzer runs it through a shell, for minimising
    arguments, grammar = [again, *sys.argv[2:]], target.grammar
    if grammar is None:
        atheris.Setup(arguments, target.check)
    else:

        def mutate(data: bytes, bytes_max: int, seed: int) -> bytes:
            draw = random.Random(seed)
            return grammar.mutate(data, draw)[:bytes_max] if draw.random() < PARTS_SHARE else atheris.Mutate(data, bytes_max)

        atheris.Setup(arguments, target.check, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
