"""`tiers.yaml`: the format, what it becomes, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from gateway.catalogue.schema import Tiers, TiersModel
from gateway.units import PICOUSD_PER_USD, Limits

SHIPPED = Path(__file__).parents[2] / "config" / "tiers.yaml"


def parse_tiers(raw: dict[str, Any]) -> Tiers:
    return TiersModel.model_validate(raw).to_tiers()


def test_the_shipped_tiers_are_as_the_design_says() -> None:
    start_tier, tiers, default_limits = parse_tiers(yaml.safe_load(SHIPPED.read_text()))
    assert start_tier == "tier-1"
    assert [(tier.name, tier.spent_picousd // PICOUSD_PER_USD, tier.days, tier.requests) for tier in tiers] == [
        ("free", 0, 0, 0), ("tier-1", 5, 0, 0), ("tier-2", 50, 7, 0),
        ("tier-3", 100, 7, 0), ("tier-4", 250, 14, 0), ("tier-5", 1000, 30, 0),
    ]  # fmt: skip
    assert default_limits["tier-1"] == Limits(rpm=500, rpd=None, tpm=200_000)
    assert "free" not in default_limits


def test_money_is_exact_and_requests_count() -> None:
    _, tiers, _ = parse_tiers({"start": "a", "tiers": {"a": {}, "b": {"spent_usd": "0.000000000001", "requests": 100}}})
    assert tiers == (("a", 0, 0, 0), ("b", 1, 0, 100))


@pytest.mark.parametrize(
    "raw, words",
    [
        ({"start": "b", "tiers": {"a": {}}}, "start: b is not a tier; allowed: a"),
        ({"start": "a", "tiers": {}}, "at least 1 item"),
        ({"start": "a", "tiers": {"a": {}, "auto": {}}}, 'a tier cannot be called "auto"'),
        ({"start": "a", "tiers": {"a": {}}, "default_limits": {"c": {}}}, "default_limits: c is not a tier; allowed: a"),
        ({"start": "a", "tiers": {"a": {"spent_usd": 5}}}, "a price is a quoted string"),
        ({"start": "a", "tiers": {"a": {"spent_usd": "0.0000000000001"}}}, "finer than a pico-dollar"),
        ({"start": "a", "tiers": {"a": {"days": -1}}}, "greater than or equal to 0"),
        ({"start": "a", "tiers": {"a": {"weeks": 1}}}, "Extra inputs are not permitted"),
        ({"tiers": {"a": {}}}, "Field required"),
    ],
)
def test_what_tiers_may_not_say(raw: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as refused:
        parse_tiers(raw)
    assert words in str(refused.value)
