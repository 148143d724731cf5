"""The cards that ship with the gateway: what pricing is tested on."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from gateway.catalogue import Card, Catalogue
from gateway.catalogue.parse import parse_card

MODELS = Path(__file__).parents[2] / "config" / "models"


@pytest.fixture(scope="session")
def cards() -> dict[str, Card]:
    """Every shipped card, by every name of its."""
    return Catalogue(tuple(parse_card(yaml.safe_load(path.read_text())) for path in sorted(MODELS.glob("*.yaml")))).by_name()
