"""From raw values, as YAML gives them, to checked ones; and what a card leaves unsaid. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.catalogue import Card
from gateway.catalogue.schema import CardModel
from gateway.units import Meter

_METER_OF = {
    ("text", "input"): Meter.INPUT_TEXT,
    ("text", "output"): Meter.OUTPUT_TEXT,
    ("audio", "input"): Meter.INPUT_AUDIO,
    ("audio", "output"): Meter.OUTPUT_AUDIO,
    ("image", "input"): Meter.INPUT_IMAGE,
    ("image", "output"): Meter.OUTPUT_IMAGE,
}


def parse_card(raw: Mapping[str, Any]) -> Card:
    """One model card. pydantic.ValidationError (a ValueError) holds every problem with its key and what is allowed."""
    return CardModel.model_validate(raw).to_card()


def modalities_without_price(card: Card) -> tuple[str, ...]:
    """What the card says the model takes or gives as tokens and has no price for now, e.g. ("image input",): it would be unpriced.

    Looks at the newest standard row. Cards that bill by other units than tokens, or have no table at all, give nothing.
    """
    rates = card.prices[-1].standard if card.prices else {}
    if not rates.keys() & set(_METER_OF.values()):
        return ()
    declared = ((modality, direction) for modality, directions in card.modalities.items() for direction in directions)
    return tuple(" ".join(pair) for pair in declared if pair in _METER_OF and _METER_OF[pair] not in rates)
