"""Decisions as callers see them: headers of an answer, and the 429 of a refusal. Pure.

Source of every form: reference/limits-and-errors.md sections 2 to 5. `type` and `code` are OpenAI's to the letter; the message
has OpenAI's form and names our own limits, and who is asked to change them.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.admission import Limit, Reading, Refused
from gateway.admission.limits import TierExcludes
from gateway.errors import ApiError, invalid_request
from gateway.units import duration_text

RETRY_WAIT_MS_MAX = 60_000  # longer Retry-After is ignored by openai-node, which then hammers: tell it not to retry

_KIND_TEXT = {"rpm": "requests per min (RPM)", "rpd": "requests per day (RPD)", "tpm": "tokens per min (TPM)"}


def ratelimit_headers(readings: Iterable[Reading]) -> bytes:
    """`x-ratelimit-*` of an answer as a block of header lines, each ended by CRLF; b"" when nothing limits the call.

    Of several buckets the one with the smallest remaining / limit speaks, requests and tokens apart. The account's never do:
    they would tell every team what all the others use.
    """
    requests: Reading | None = None
    tokens: Reading | None = None
    for reading in readings:
        limit = reading.limit
        if limit.scope == "account":
            continue
        if limit.kind == "tpm":
            if tokens is None or _is_tighter(reading, tokens):
                tokens = reading
        elif requests is None or _is_tighter(reading, requests):
            requests = reading
    block = _block("requests", requests) if requests is not None else ""
    return (block + _block("tokens", tokens) if tokens is not None else block).encode("ascii")


def _is_tighter(one: Reading, other: Reading) -> bool:
    return one.remaining_units * other.limit.capacity_units < other.remaining_units * one.limit.capacity_units


def _block(what: str, reading: Reading) -> str:
    reset_ms = reading.reset_ms
    # Most buckets are nearly empty, so most resets need no formatter (which is a quarter of the block's cost).
    reset = f"{reset_ms}ms" if 0 < reset_ms < 1000 else duration_text(reset_ms * 1000)
    return (
        f"x-ratelimit-limit-{what}: {reading.limit.capacity_units}\r\n"
        f"x-ratelimit-remaining-{what}: {reading.remaining_units}\r\n"
        f"x-ratelimit-reset-{what}: {reset}\r\n"
    )


def refusal(refused: Refused, *, model: str, team: str) -> ApiError:
    """The 429 of a refusal. Retried by SDKs when the wait is short; a long wait, or none that would help, says so."""
    limit = refused.limit
    words = _account_words if limit.scope == "account" else _team_words
    return ApiError(
        429,
        "tokens" if limit.kind == "tpm" else "requests",
        words(refused, model[:100], team),
        code="rate_limit_exceeded",
        retry_after_ms=refused.wait_ms,
        should_retry=False if refused.wait_ms is None or refused.wait_ms > RETRY_WAIT_MS_MAX else None,
    )


def _team_words(refused: Refused, model: str, team: str) -> str:
    limit = refused.limit
    where = f"for {model} in organization {team} on {_KIND_TEXT[limit.kind]}: Limit {limit.capacity_units}"
    whose = f"This is the limit {_whose(limit, team)}; the people who run this gateway can change it."
    if refused.wait_ms is None:
        return (
            f"Request too large {where}, Requested {refused.requested_units}. "
            f"The input or output tokens must be reduced in order to run successfully. {whose}"
        )
    wait = duration_text(refused.wait_ms * 1000)
    return (
        f"Rate limit reached {where}, Used {refused.used_units}, Requested {refused.requested_units}. Please try again in {wait}. {whose}"
    )


def _account_words(refused: Refused, model: str, team: str) -> str:
    """Without a number: the account's limits and use are not a team's to know."""
    where = f"for {model} in organization {team} on {_KIND_TEXT[refused.limit.kind]}"
    if refused.wait_ms is None:
        return (
            f"Request too large {where}: it exceeds the capacity that all teams of this gateway share. "
            "The input or output tokens must be reduced in order to run successfully."
        )
    wait = duration_text(refused.wait_ms * 1000)
    return (
        f"Rate limit reached {where}: the capacity that all teams of this gateway share is used up. Please try again in {wait}. "
        f"This is no limit of team {team}; the people who run this gateway can raise the shared one."
    )


def _whose(limit: Limit, team: str) -> str:
    what, _, name = limit.subject.partition(":")
    if limit.scope == "key":
        return f"of key {name} of team {team} over all models"
    if limit.scope == "team":
        return f"of team {team} over all models"
    return f"of team {team} for the {what} {name}" if what == "model" else f"of team {team} for the models of group {name}"


def tier_excluded(excluded: TierExcludes) -> ApiError:
    """In the shape of OpenAI's `model_not_found`, with the reason."""
    return invalid_request(
        f"The model `{excluded.model}` does not exist or you do not have access to it. "
        f"Team {excluded.team} is in tier {excluded.tier}, which does not include this model.",
        status=404,
        code="model_not_found",
    )
