"""The call an endpoint is given, and the answer it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gateway.simulator import prices
from gateway.simulator.draw import Draw
from gateway.simulator.faults import NO_FAULTS, Faults
from gateway.simulator.refusal import invalid, missing
from gateway.simulator.usage import malform
from gateway.units import Usage


@dataclass(frozen=True, slots=True)
class Call:
    """One request as the endpoints see it."""

    method: str
    path: str  # with /v1
    body: dict[str, Any]
    request_id: str
    client_request_id: str | None
    started_at_us: int
    params: Mapping[str, str] = field(default_factory=dict)  # out of the path
    query: Mapping[str, str] = field(default_factory=dict)
    faults: Faults = NO_FAULTS
    dictated_usage: str | None = None  # X-Simulator-Usage
    file: bytes = b""  # of a multipart upload

    def text(self, name: str) -> str:
        """A required member of the body that is a string."""
        value = self.body.get(name)
        if value is None:
            raise missing(name)
        if not isinstance(value, str):
            raise invalid(f"Invalid type for '{name}': expected a string.", name)
        return value

    def number(self, name: str, default: int | None, low: int, high: int) -> int | None:
        """An optional whole number of the body, within bounds."""
        value = self.body.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise invalid(f"Invalid value for '{name}': expected a whole number from {low} to {high}.", name)
        return value

    def object(self, name: str) -> dict[str, Any]:
        """An optional object of the body; absent is empty."""
        value = self.body.get(name)
        if value is not None and not isinstance(value, dict):
            raise invalid(f"Invalid type for '{name}': expected an object.", name)
        return value or {}

    def array(self, name: str) -> list[Any]:
        """An optional array of the body; absent is empty."""
        value = self.body.get(name)
        if value is not None and not isinstance(value, list):
            raise invalid(f"Invalid type for '{name}': expected an array.", name)
        return value or []

    def flag(self, name: str) -> bool:
        """An optional boolean of the body; absent is false."""
        return self.body.get(name) in (True, "true", "True")

    def usage(self, reported: dict[str, Any]) -> Any:
        """The usage object as this call's faults want it."""
        return malform(reported, self.faults.malformed_usage) if self.faults.malformed_usage else reported


@dataclass(frozen=True, slots=True)
class Step:
    """Bytes of an answer, and how much had been generated when they could be sent: cumulative output tokens and fees."""

    data: bytes
    text: int = 0
    audio: int = 0
    fees: Usage = field(default_factory=dict)
    final: bool = False  # carries the bill or comes after it: sent only when the account has its line
    pause_ms: int = 0


@dataclass(slots=True)
class Answer:
    """What an endpoint answers. `steps` of an answer that is not streamed: one, the whole body."""

    steps: list[Step]
    draw: Draw | None = None  # None: nothing is billed
    streamed: bool = False
    answer_id: str | None = None
    model: str | None = None
    later: bool = False  # the work goes on without this client and writes its own line (background)
    generated: Callable[[], None] | None = None  # called when all of it has been generated, before the last bytes
    failure: Callable[[str, int, Step], bytes] | None = None  # the event that ends a stream early: how, its index, where


def json_answer(body: Any, drawn: Draw | None = None, answer_id: str | None = None) -> Answer:
    """An answer that is one JSON object."""
    step = Step(msgspec.json.encode(body), final=True)
    if drawn is not None:
        step = Step(step.data, drawn.output_text, drawn.output_audio, fees_of(drawn), final=True)
    return Answer([step], drawn, answer_id=answer_id)


def fees_of(drawn: Draw) -> Usage:
    """The part of the usage that is paid per call."""
    return {meter: n for meter, n in drawn.quantities.items() if meter in prices.USD_EACH}
