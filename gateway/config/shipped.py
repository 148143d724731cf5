"""The model cards and tiers that come with the gateway: in a wheel `gateway/shipped/`, in a checkout the repository's `config/`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def shipped_folder() -> Path:
    """A configuration folder that loads as it is."""
    package = Path(str(files("gateway")))
    inside = package / "shipped"
    return inside if inside.is_dir() else package.parent / "config"
