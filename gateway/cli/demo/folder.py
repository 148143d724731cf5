"""The demo's configuration: one simulated account and two teams, written as users write theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from gateway.config.shipped import shipped_folder
from gateway.config.write import new_api_key
from gateway.teams import key_hash

FAULTY_MODEL = "gpt-4o-mini"
GATEWAY_YAML = """\
proxy: {{listen: "127.0.0.1:0", drain_timeout_ms: 10000}}
admin: {{listen: "127.0.0.1:0"}}
accounts:
  simulator: {{base_url: "{base_url}", api_key: not-a-secret}}
journal: {{folder: journal}}
ledger: sqlite:ledger.db
"""
TEAM_YAML = """\
team: {name}
tier: {tier}
keys:
  - {{id: {name}-demo, hash: "sha256:{hash}"}}
limits_all_models: {limits}
"""


class DemoTeam(NamedTuple):
    """A team of the demo."""

    name: str
    tier: str
    limits: str  # as in its file
    callers: int
    pause_ms: tuple[int, int]  # between two calls of one caller


TEAMS = (
    DemoTeam("search", "tier-3", "{rpm: 600, tpm: 400000}", callers=4, pause_ms=(100, 500)),
    DemoTeam("support", "tier-1", "{rpm: 20, tpm: 40000}", callers=4, pause_ms=(50, 250)),  # runs into its limit within seconds
)


def write_configuration(folder: Path, base_url: str, *, plant_fault: bool) -> dict[str, str]:
    """Write it; the teams' keys by name."""
    keys = {}
    (folder / "teams").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "gateway.yaml").write_text(GATEWAY_YAML.format(base_url=base_url), encoding="utf-8")
    for team in TEAMS:
        keys[team.name] = new_api_key(team.name)
        text = TEAM_YAML.format(name=team.name, tier=team.tier, limits=team.limits, hash=key_hash(keys[team.name].encode()))
        (folder / "teams" / f"{team.name}.yaml").write_text(text, encoding="utf-8")
    if plant_fault:
        (folder / "models" / f"{FAULTY_MODEL}.yaml").write_text(_faulty_card(), encoding="utf-8")
    return keys


def _faulty_card() -> str:
    """The shipped card with another price for output, a cent more for a million tokens. It takes the shipped one's place."""
    card: dict[str, Any] = yaml.safe_load((shipped_folder() / "models" / f"{FAULTY_MODEL}.yaml").read_text(encoding="utf-8"))
    text_prices = card["prices"][-1]["usd_per_million_tokens"]["text"]
    assert text_prices["output"] == "0.60"
    text_prices["output"] = "0.61"
    return yaml.safe_dump(card, sort_keys=False)
