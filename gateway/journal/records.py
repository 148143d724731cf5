"""What a worker writes down: an intent before OpenAI is contacted, an entry when the exchange ends. Values.

Both are encoded as MessagePack arrays: fields may be added at the end with a default, and are never removed or moved.
"""

from __future__ import annotations

import msgspec

from gateway.units import Meter, UsageSource

TEXT_CHARS_MAX = 200  # of any text that came from outside: an entry must fit in the room its intent reserved


class Intent(msgspec.Struct, frozen=True, array_like=True, tag="i"):
    """An exchange that is about to reach OpenAI, and what it may use at most."""

    exchange_id: str
    session_id: str | None
    team: str
    key: str
    account: str
    endpoint: str
    model_asked: str | None  # None: the endpoint has no model
    service_tier_asked: str | None
    ask_usage: dict[Meter, int]  # the worst case that was reserved
    ask_cost_picousd: int | None  # None: there was no price
    price_version: str | None
    client_request_id: str | None
    retry_count: int | None  # as the SDK says in x-stainless-retry-count; None: it does not
    admitted_at_us: int  # unix time
    marks: tuple[str, ...] = ()  # e.g. "shadow", "store_away": how it was admitted


class Entry(msgspec.Struct, frozen=True, array_like=True, tag="e"):
    """An exchange that ended. Immutable: a correction is a further entry with the same id that supersedes it."""

    exchange_id: str
    session_id: str | None
    team: str
    key: str
    account: str
    endpoint: str
    model_asked: str | None
    model_served: str | None
    service_tier: str | None  # as served; None: not said, which is standard
    usage: dict[Meter, int]
    details: dict[str, int]  # subsets and facts, never priced: reasoning_tokens, prediction_rejected_tokens, ...
    usage_source: UsageSource
    cost_picousd: int | None  # None: unpriced
    price_version: str | None
    status: int | None  # HTTP status of OpenAI's answer; None: none came
    error_code: str | None
    upstream_request_id: str | None
    client_request_id: str | None
    admitted_at_us: int
    ended_at_us: int
    timings_us: dict[str, int]  # since its head was read: "sent", "head", "first_token", "last"; "overhead": what we took of it
    retry_count: int | None
    outcome: str  # ok, client_error, upstream_error, upstream_timeout, client_gone, gateway_error, unknown
    ask_tokens: int | None  # the worst case, before a small bucket clamps it
    streamed: bool = False
    answer_id: str | None = None  # the id of the object OpenAI made: resp_…, chatcmpl-…
    body_bytes: int = 0  # of the request
    marks: tuple[str, ...] = ()
    late_usage: dict[Meter, int] | None = None  # what this answer says of the exchange that made `answer_id`; never this entry's own


class Closed(msgspec.Struct, frozen=True, array_like=True, tag="c"):
    """An intent that ended with no entry of its own: a session whose every exchange has its entry, or a call that never left."""

    exchange_id: str


Record = Intent | Entry | Closed
