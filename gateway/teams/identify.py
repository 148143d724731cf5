"""From the Authorization header to a team and its key. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from gateway.errors import ApiError, invalid_request
from gateway.teams import Identity, key_hash

KEY_BYTES_MAX = 512


class NotIdentified(msgspec.Struct, frozen=True):
    """Nobody we know: why, for who counts it, and the 401 to answer with."""

    reason: Literal["missing", "unknown", "revoked", "expired"]
    error: ApiError


_NO_KEY = NotIdentified(
    "missing",
    ApiError(
        401,
        "invalid_request_error",
        "You didn't provide an API key. Send the key your team was given in an Authorization header: `Authorization: Bearer gk-...`.",
    ),
)


def identify(authorization: bytes | None, by_key_hash: Mapping[str, Identity], now_us: int) -> Identity | NotIdentified:
    """Who calls. A key that has expired or was revoked is told apart from a wrong one."""
    scheme, _, token = (authorization or b"").strip().partition(b" ")
    token = token.strip()
    if scheme.lower() != b"bearer" or not token or len(token) > KEY_BYTES_MAX:
        return _NO_KEY
    identity = by_key_hash.get(key_hash(token))
    if identity is None:
        message = f"Incorrect API key provided: {shown(token)}. Ask the people who run this gateway for a key of your team."
        return NotIdentified("unknown", _bad_key(message))
    key = identity.key
    if key.revoked:
        return NotIdentified("revoked", _bad_key(f"The API key {key.id} of team {identity.team.name} was revoked. Ask for a new one."))
    if key.expires_at_us is not None and key.expires_at_us <= now_us:
        return NotIdentified("expired", _bad_key(f"The API key {key.id} of team {identity.team.name} has expired. Ask for a new one."))
    return identity


def shown(token: bytes) -> str:
    """A key as an error may show it: enough to recognise one's own, too little to use."""
    text = token.decode("ascii", "replace")
    return f"{text[:6]}***{text[-3:]}" if len(text) >= 20 else "***"


def _bad_key(message: str) -> ApiError:
    return invalid_request(message, status=401, code="invalid_api_key")
