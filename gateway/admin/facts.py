"""Models and teams as they are shown: what the configuration says, without its secrets."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import msgspec

from gateway.catalogue import RATE_SCALE, Card, Rates
from gateway.config.snapshot import Snapshot
from gateway.teams import Key, Team


def models_shown(snapshot: Snapshot) -> list[dict[str, Any]]:
    """Every card, in the order of the catalogue."""
    return [_card(card) for card in snapshot.catalogue.cards]


def teams_shown(snapshot: Snapshot) -> list[dict[str, Any]]:
    """Every team with the tier it holds now."""
    return [_team(team, snapshot) for team in snapshot.teams]


def _card(card: Card) -> dict[str, Any]:
    return {
        "model": card.model,
        "aliases": card.aliases,
        "snapshots": card.snapshots,
        "context_window_tokens": card.context_window_tokens,
        "max_output_tokens": card.max_output_tokens,
        "endpoints": card.endpoints,
        "features": card.features,
        "modalities": card.modalities,
        "limits": card.limits,
        "shutdown_date": card.shutdown_date,
        "prices": [
            {
                "version": table.version,
                "source": table.source,
                "picousd_each": {tier: _rates(rates) for tier, rates in {"standard": table.standard, **table.service_tiers}.items()},
            }
            for table in card.prices
        ],
    }


def _rates(rates: Rates) -> dict[str, str]:
    """Pico-dollars of one unit of each meter, exact: "2500000", and "1/3" where a price is per minute."""
    return {meter: str(Fraction(rate, RATE_SCALE)) for meter, rate in rates.items()}


def _team(team: Team, snapshot: Snapshot) -> dict[str, Any]:
    held = snapshot.team_tiers.get(team.name, snapshot.start_tier) if team.tier == "auto" else team.tier
    shown: dict[str, Any] = msgspec.to_builtins(team)
    return {"team": shown.pop("name"), **shown, "tier_held": held, "keys": [_key(key) for key in team.keys]}


def _key(key: Key) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(key)
    del shown["hash"]
    return shown
