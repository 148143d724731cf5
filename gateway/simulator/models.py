"""Which models the simulator serves, on which endpoints, and under which name it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gateway.simulator import prices
from gateway.simulator.refusal import no_model

Kind = Literal["chat", "responses", "completions", "embeddings", "moderations", "images", "transcriptions", "realtime"]

MODERATION_MODELS = ("omni-moderation-latest",)  # free: in no price table
CHAT_ONLY = frozenset({"gpt-4o-search-preview", "gpt-5-search-api", *prices.AUDIO_PRICES})
RESPONSES_ONLY = frozenset({"computer-use-preview"})
SERVED_AS = {  # an alias answers under its dated name where the reference names one
    "gpt-4o": "gpt-4o-2024-08-06",
    "gpt-4o-realtime-preview": "gpt-4o-realtime-preview-2025-06-03",
    "gpt-4o-mini-realtime-preview": "gpt-4o-mini-realtime-preview-2024-12-17",
    "gpt-realtime": "gpt-realtime-2025-08-28",
    "gpt-realtime-mini": "gpt-realtime-mini-2025-12-15",
}


@dataclass(frozen=True, slots=True)
class Model:
    """A model as it answers: the name that goes into `model` of the answer, and what it can do."""

    name: str
    row: str
    reasoning: bool
    audio: bool


def names() -> list[str]:
    """Every name that may be asked for, as GET /models lists them."""
    return [*(row for row in prices.PRICES if not row.startswith("ft:")), *prices.SNAPSHOTS, *MODERATION_MODELS]


def served(asked: str, kind: Kind) -> Model:
    """The model that answers for the one asked for. Refusal: there is none on this endpoint."""
    row = prices.row_of(asked)
    if row is None or kind not in kinds_of(row):
        raise no_model(asked)
    return Model(SERVED_AS.get(asked, asked), row, prices.is_reasoning(row), row in prices.AUDIO_PRICES or row in prices.REALTIME_PRICES)


def kinds_of(row: str) -> frozenset[Kind]:
    """The endpoints a row of the price table answers on."""
    if row in CHAT_ONLY:
        return frozenset({"chat"})
    if row in RESPONSES_ONLY:
        return frozenset({"responses"})
    if row in prices.TEXT_PRICES:
        return frozenset({"chat", "responses"})
    if row == "gpt-4o-realtime-preview":  # its card names these endpoints
        return frozenset({"chat", "responses", "realtime"})
    return frozenset({_other_kind(row)})


def _other_kind(row: str) -> Kind:
    if row in prices.COMPLETION_PRICES:
        return "completions"
    if row in prices.EMBEDDING_PRICES:
        return "embeddings"
    if row in prices.TRANSCRIPTION_PRICES:
        return "transcriptions"
    return "images" if row in prices.IMAGE_PRICES else "realtime"
