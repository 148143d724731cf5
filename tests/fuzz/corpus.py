"""The corpus: what the seeds make, and what was found and kept, one folder a target."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from .target import Target

CORPUS = Path(__file__).parent / "corpus"


def inputs(target: Target) -> Iterator[tuple[str, bytes]]:
    """Every input of a target with its name: its seeds, then its folder."""
    yield from sorted(target.seeds().items())
    folder = CORPUS / target.name
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            yield path.name, path.read_bytes()


def write_seeds(target: Target, folder: Path) -> None:
    """The seeds as files, as libFuzzer wants them."""
    for name, seed in target.seeds().items():
        (folder / re.sub(r"[^A-Za-z0-9]+", "-", name)).write_bytes(seed)
