"""`python -m gateway.dashboards FOLDER`: write every dashboard as JSON, the same bytes each time."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from gateway.dashboards import DASHBOARDS


def write(folder: Path) -> None:
    """One file a dashboard; what else is there stays."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, build in DASHBOARDS.items():
        (folder / name).write_text(json.dumps(build(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m gateway.dashboards FOLDER")
    write(Path(sys.argv[1]))
