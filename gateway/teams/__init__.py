"""Step 2, identify: from an API key to its team, tier, limits and policies. Pure.

Values only. Never sees a key in clear longer than it takes to hash it; never knows prices, files or the network.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Literal

import msgspec

from gateway.units import Limits

OnClientGone = Literal["cancel", "drain"]
UnknownModel = Literal["refuse", "allow_unpriced", "price_as"]


class Budget(msgspec.Struct, frozen=True):
    """What may be spent in a UTC day and month, pico-dollars; soft marks as percent of either."""

    month_picousd: int | None = None
    day_picousd: int | None = None
    soft_percent: tuple[int, ...] = ()


class RealtimeCaps(msgspec.Struct, frozen=True):
    """Caps on realtime sessions; None: no cap."""

    sessions_max: int | None = None
    session_seconds_max: int | None = None
    session_picousd_max: int | None = None
    audio_seconds_per_minute_max: int | None = None
    audio_seconds_per_day_max: int | None = None


class Key(msgspec.Struct, frozen=True):
    """One API key of a team. Only its hash is kept."""

    id: str
    hash: str  # sha256 of the key, 64 hex digits
    expires_at_us: int | None = None
    revoked: bool = False
    limits: Limits | None = None  # of this key over all models
    budget: Budget | None = None


class Team(msgspec.Struct, frozen=True):
    """One tenant: one YAML file."""

    name: str
    tier: str  # a tier's name, or "auto"
    keys: tuple[Key, ...] = ()
    models: tuple[str, ...] = ("*",)  # ids or aliases as listed on cards; "*": every model with a card
    limits: dict[str, Limits] = {}  # by model: replaces the tier's limits of the kinds it names
    limits_all_models: Limits | None = None  # over all models together
    budget: Budget | None = None
    realtime: RealtimeCaps | None = None
    account: str | None = None  # upstream account; None: the first
    on_client_gone: OnClientGone = "cancel"
    drain_seconds_max: int = 60
    unknown_model: UnknownModel = "refuse"
    price_unknown_as: str | None = None  # the model of `unknown_model: price_as: <model>`
    unmetered_paths: Literal["refuse", "allow"] = "refuse"
    estimate: Literal["learned", "openai"] = "learned"
    mode: Literal["enforce", "shadow"] = "enforce"
    days: Literal["rolling", "calendar"] = "rolling"


class Identity(msgspec.Struct, frozen=True):
    """Who calls: a team and which of its keys."""

    team: Team
    key: Key


def key_hash(api_key: bytes) -> str:
    """What is stored of a key: SHA-256 as hex. Keys carry 256 random bits, so a plain hash cannot be searched backwards."""
    return sha256(api_key).hexdigest()
