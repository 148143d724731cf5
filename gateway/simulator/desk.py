"""What the endpoints of one simulator share: its seed, its pace, its account, and what it remembers."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any

from gateway.simulator import models, prices
from gateway.simulator.account import AccountWriter, Line, LineKind
from gateway.simulator.call import Answer, Call
from gateway.simulator.draw import Dice, Draw, Prompt, Wish, dictated, draw, tier_served
from gateway.simulator.faults import FaultQueue
from gateway.simulator.models import Kind, Model
from gateway.simulator.refusal import invalid
from gateway.units import Meter

STORED_MAX = 10_000  # responses remembered; the oldest are forgotten first
KNOWN_TIERS = ("auto", "default", "flex", "scale", "priority", "fast", "ultrafast")
NOT_CONTENT = frozenset({"stream", "stream_options", "user", "metadata", "store"})  # members that do not change an answer


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast answers are generated. 0: as fast as possible."""

    tokens_per_second: int = 0
    first_token_ms: int = 0

    @property
    def instant(self) -> bool:
        """Whether nothing is waited for."""
        return not self.tokens_per_second and not self.first_token_ms


class Desk:
    """What one simulator has: its seed, pace, account, queued faults, and the responses it remembers."""

    def __init__(self, account: AccountWriter, seed: int, pace: Pace) -> None:
        self.account = account
        self.seed = seed
        self.pace = pace
        self.faults = FaultQueue()
        self.stored: OrderedDict[str, Any] = OrderedDict()
        self._boot = secrets.token_hex(10)
        self._count = 0

    def new_id(self, prefix: str) -> str:
        """An id that no simulator has given before: "req_…", "chatcmpl-…"."""
        self._count += 1
        return f"{prefix}{self._boot}{self._count:012x}"

    def model(self, call: Call, kind: Kind, asked: str | None = None) -> Model:
        """The model that answers this call. Refusal 404: there is none of that name on this endpoint."""
        model = models.served(asked or call.text("model"), kind)
        return replace(model, name=call.faults.model) if call.faults.model else model

    def draw(self, call: Call, model: Model, tier: str, prompt: Prompt, wish: Wish, meters: frozenset[Meter]) -> Draw:
        """What this call uses: as its header dictates, or drawn."""
        if call.dictated_usage is not None:
            return dictated(call.dictated_usage, model, tier, wish, meters)
        return draw(self.dice(call, model), model, tier, prompt, wish)

    def dice(self, call: Call, model: Model) -> Dice:
        """Dice for this call's content: what does not change the answer (stream, user, metadata) does not change them."""
        content = {name: value for name, value in call.body.items() if name not in NOT_CONTENT}
        return Dice(self.seed, call.path, model.name, content, len(call.file))

    def store(self, response_id: str, record: Any) -> None:
        """Remember a response, and forget the oldest beyond STORED_MAX."""
        self.stored[response_id] = record
        if len(self.stored) > STORED_MAX:
            self.stored.popitem(last=False)

    def tier(self, call: Call, model: Model) -> str:
        """The service tier this call is served at."""
        if call.faults.service_tier is not None:
            return call.faults.service_tier
        asked = call.body.get("service_tier")
        if asked is not None and asked not in KNOWN_TIERS:
            raise invalid(f"Invalid value for 'service_tier': expected one of {', '.join(KNOWN_TIERS)}.", "service_tier")
        return tier_served(asked, {tier: prices.has_tier(model.name, tier) for tier in ("priority", "flex", "ultrafast")})

    def write(self, call: Call, answer: Answer, drawn: Draw | None, status: int | None, *, complete: bool) -> None:
        """Write the line of an answer."""
        kind: LineKind = "free" if drawn is None else "billed"
        self._append(call, kind, drawn, answer.answer_id, status, streamed=answer.streamed, complete=complete, model=answer.model)

    def write_refused(self, call: Call, status: int | None) -> None:
        """Write the line of a call that was answered with an error, or not at all; it costs nothing."""
        self._append(call, "refused", None, None, status, streamed=False, complete=status is not None, model=None)

    def _append(
        self, call: Call, kind: LineKind, drawn: Draw | None, answer_id: str | None, status: int | None,
        *, streamed: bool, complete: bool, model: str | None,
    ) -> None:  # fmt: skip
        quantities = drawn.quantities if drawn else {}
        self.account.append(
            Line(
                kind=kind,
                request_id=call.request_id,
                client_request_id=call.client_request_id,
                method=call.method,
                path=call.path,
                model=drawn.model if drawn else model,
                service_tier=drawn.service_tier if drawn else None,
                quantities=quantities,
                details=drawn.details if drawn else {},
                cost_picousd=prices.cost_picousd(drawn.model, drawn.service_tier, quantities) if drawn else 0,
                status=status,
                streamed=streamed,
                complete=complete,
                answer_id=answer_id,
                started_at_us=call.started_at_us,
                ended_at_us=time.time_ns() // 1000,
            )
        )
