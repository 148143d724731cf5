"""Facts about models: prices, limits by tier, capabilities, names. Step 3 and 8 read them. Pure.

Values only, checked when they are made. Never knows teams, files or the network: `config/` reads YAML and calls `parse_card`.
"""

from __future__ import annotations

import msgspec

from gateway.units import Limits, Meter

RATE_SCALE = 60_000
"""Rates are integers of 1/60,000 pico-dollar per unit, so that a price per minute is whole per millisecond."""

Rates = dict[Meter, int]
"""Price of one unit of each meter, in 1/RATE_SCALE pico-dollars. A meter that is missing has no price; that is never zero."""


class PriceTable(msgspec.Struct, frozen=True):
    """The prices of a card from one date on. Source and date come from the YAML and go into every entry as `price_version`."""

    version: str  # "<model>@<effective_from>", e.g. "gpt-4o@2024-10-02"
    effective_from_us: int  # unix time, UTC midnight of the date
    source: str
    standard: Rates
    service_tiers: dict[str, Rates] = {}  # "batch", "flex", "priority", "ultrafast", ...
    long_context_above_tokens: int | None = None  # input tokens; above, the whole call has the long_context rates
    long_context: Rates = {}
    long_context_service_tiers: dict[str, Rates] = {}


class Card(msgspec.Struct, frozen=True):
    """What is known of one model: one YAML file."""

    model: str
    aliases: tuple[str, ...] = ()
    snapshots: tuple[str, ...] = ()
    context_window_tokens: int | None = None
    max_output_tokens: int | None = None
    knowledge_cutoff: str | None = None
    modalities: dict[str, tuple[str, ...]] = {}
    endpoints: tuple[str, ...] = ()
    features: dict[str, bool] = {}
    reasoning: bool = False  # bills hidden output tokens, which no count of delivered bytes shows
    shutdown_date: str | None = None
    data_residency_uplift_percent: int = 0  # added to every price on accounts with `data_residency: true`
    prices: tuple[PriceTable, ...] = ()  # oldest first
    snapshot_prices: dict[str, tuple[PriceTable, ...]] = {}  # for snapshots that do not share the card's table
    limits: dict[str, Limits] = {}  # by tier; when not empty, a tier that is not listed may not use the model
    limit_group: str = ""  # buckets are shared by all cards of a group; default: the model itself


class Catalogue(msgspec.Struct, frozen=True):
    """All cards, by every name a caller may use. A name is exact, or a listed alias or snapshot; never a prefix."""

    cards: tuple[Card, ...] = ()
    default_limits: dict[str, Limits] = {}  # by tier, from tiers.yaml, for cards that state none

    def by_name(self) -> dict[str, Card]:
        """Index: model id, alias or snapshot -> card."""
        return {name: card for card in self.cards for name in (card.model, *card.aliases, *card.snapshots)}


def limits_of(card: Card, tier: str, default_limits: dict[str, Limits]) -> Limits | None:
    """The limits of a tier on this model; None when the tier may not use it."""
    if card.limits:
        return card.limits.get(tier)
    return default_limits.get(tier, Limits())
