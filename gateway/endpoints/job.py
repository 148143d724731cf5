"""Which model a call asks for, and whether its team may use it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.catalogue import Card
from gateway.errors import ApiError, invalid_request
from gateway.teams import Team


def choose_card(asked: str, team: Team, cards: Mapping[str, Card]) -> Card | ApiError | None:
    """The card of the model asked for; None when the team may call models without one, unpriced.

    Names match exactly: the card's id, or an alias or snapshot it lists. A team that is allowed a card's id is allowed
    its snapshots, which share its price and its limits.
    """
    card = cards.get(asked)
    if card is None:
        if team.unknown_model == "refuse":
            return model_not_found(asked)
        if not _allowed(asked, None, team):
            return model_not_found(asked)
        return cards.get(team.price_unknown_as or "") if team.unknown_model == "price_as" else None
    return card if _allowed(asked, card, team) else model_not_found(asked)


def may_see(name: str, team: Team, cards: Mapping[str, Card]) -> bool:
    """Whether the list of models shows this one to the team."""
    return not isinstance(choose_card(name, team, cards), ApiError)


def model_not_found(model: str) -> ApiError:
    """As OpenAI says it. Source: reference/limits-and-errors.md section 4."""
    return invalid_request(f"The model `{model[:100]}` does not exist or you do not have access to it.", status=404, code="model_not_found")


def _allowed(asked: str, card: Card | None, team: Team) -> bool:
    return "*" in team.models or asked in team.models or (card is not None and card.model in team.models)
