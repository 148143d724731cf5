"""Which buckets a call must pass, and what it costs in each. Pure.

`limits_for` depends on facts alone (team, key, card, tiers), so callers keep its answer as long as they keep the snapshot.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from gateway.admission import PERIOD_MS, Ask, Limit, LimitKind, Scope
from gateway.admission.shares import prepaid
from gateway.catalogue import Card, limits_of
from gateway.teams import Key, Team
from gateway.units import Limits

KINDS: tuple[LimitKind, ...] = ("rpm", "rpd", "tpm")
OTHER_GROUP = "-other-"  # of calls without a card; no model is called so


class TierExcludes(msgspec.Struct, frozen=True):
    """The card states limits by tier and this tier is not among them: the team may not use the model."""

    model: str
    team: str
    tier: str


def limits_for(
    team: Team,
    key: Key,
    card: Card | None,
    tier: str,
    default_limits: Mapping[str, Limits],
    account_name: str,
    account_tier: str | None,
) -> tuple[Limit, ...] | TierExcludes:
    """Every bucket of a call: of its key, its team, its model's group, and last of the upstream account. Empty: nothing limits it.

    A limit the team has for the model stands instead of the tier's of the same kind. A call without a card (a model nobody
    described, a path without a model) has the tier's default limits, in one bucket for all of them.
    The account's are those its own tier has on the card; what OpenAI grants beyond the cards is not known here.
    """
    slot, calendar = f"team:{team.name}", team.days == "calendar"
    found = [
        *_limits("key", slot, f"key:{key.id}", key.limits, calendar),
        *_limits("team", slot, "team", team.limits_all_models, calendar),
    ]
    if card is None:
        found += _limits("group", slot, f"group:{OTHER_GROUP}", default_limits.get(tier), calendar)
        return tuple(found)
    of_tier = limits_of(card, tier, dict(default_limits))
    if of_tier is None:
        return TierExcludes(card.model, team.name, tier)
    group = card.limit_group or card.model
    own = _merged([team.limits[name] for name in (*card.snapshots, *card.aliases, card.model) if name in team.limits])
    of_group = team.limits.get(group, Limits())
    if group != card.model:
        # Other cards draw on the group's bucket with the group's size, so this model's own limits need a bucket of their own.
        found += _limits("group", slot, f"model:{card.model}", own, calendar)
    else:
        of_group = own
    found += _limits("group", slot, f"group:{group}", _merged([of_tier, of_group]), calendar)
    if account_tier is not None:
        found += _limits("account", f"account:{account_name}", f"group:{group}", card.limits.get(account_tier), calendar=False)
    return tuple(found)


def _limits(scope: Scope, slot: str, subject: str, limits: Limits | None, calendar: bool) -> list[Limit]:
    sizes: list[tuple[LimitKind, int | None]] = [(kind, getattr(limits, kind, None)) for kind in KINDS]
    return [
        Limit(kind, scope, slot, subject, capacity_units, PERIOD_MS[kind], calendar and kind == "rpd")
        for kind, capacity_units in sizes
        if capacity_units is not None
    ]


def _merged(ranked: list[Limits]) -> Limits:
    """Of each kind the last that names it."""
    merged: dict[str, int] = {}
    for limits in ranked:
        merged.update({kind: units for kind in KINDS if (units := getattr(limits, kind)) is not None})
    return Limits(**merged)


def ask_for(
    exchange_id: str,
    limits: tuple[Limit, ...],
    input_tokens: int,
    output_tokens: int,
    estimate: Literal["learned", "openai"] = "learned",
) -> Ask:
    """One request and its worst case of tokens, as costs of these buckets.

    The output part is clamped to what the smallest token bucket holds beside the input, so that a small limit is not locked
    out by a large output cap; with `openai` the cap counts in full. The input is never clamped: one that can never fit is
    refused by the bucket, with no wait.
    """
    tokens = input_tokens + output_tokens
    if estimate == "learned":
        for limit in limits:
            if limit.kind == "tpm":
                room_units = prepaid(limit).capacity_units if limit.scope == "account" else limit.capacity_units
                if room_units < tokens:
                    tokens = max(input_tokens, room_units)
    return Ask(exchange_id, limits, units_for(limits, 1, tokens))


def account_part(ask: Ask) -> Ask:
    """What the call takes of the capacity that all teams share, and nothing of its own team's."""
    of_account = [(limit, cost) for limit, cost in zip(ask.limits, ask.costs_units, strict=True) if limit.scope == "account"]
    return Ask(ask.exchange_id, tuple(limit for limit, _ in of_account), tuple(cost for _, cost in of_account))


def units_for(limits: tuple[Limit, ...], requests: int, tokens: int) -> tuple[int, ...]:
    """What so many requests and tokens are in each of these buckets: costs of an ask, or actual units when it settles."""
    return tuple([tokens if limit.kind == "tpm" else requests for limit in limits])
