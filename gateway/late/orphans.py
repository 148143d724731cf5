"""What becomes of intents whose worker died: the worst case they reserved, marked `unknown`. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.journal.records import Entry, Intent
from gateway.units import tokens_of

ORPHAN = "orphan"  # the mark by which people tell these entries from other unknown ones


def orphans(intents: Iterable[Intent], ended_at_us: int) -> tuple[Entry, ...]:
    """One entry for each intent that a dead boot left open, at the reserved amount.

    Only for a boot that was read to its end. A real entry that turns up later supersedes it.
    """
    return tuple(orphan(intent, ended_at_us) for intent in intents)


def orphan(intent: Intent, ended_at_us: int) -> Entry:
    """The entry that stands for an exchange nobody saw end: it may have been billed in full."""
    return Entry(
        exchange_id=intent.exchange_id,
        session_id=intent.session_id,
        team=intent.team,
        key=intent.key,
        account=intent.account,
        endpoint=intent.endpoint,
        model_asked=intent.model_asked,
        model_served=None,
        service_tier=None,
        usage=intent.ask_usage,
        details={},
        usage_source="unknown",
        cost_picousd=intent.ask_cost_picousd,
        price_version=intent.price_version,
        status=None,
        error_code=None,
        upstream_request_id=None,
        client_request_id=intent.client_request_id,
        admitted_at_us=intent.admitted_at_us,
        ended_at_us=ended_at_us,
        timings_us={},
        retry_count=intent.retry_count,
        outcome="unknown",
        ask_tokens=tokens_of(intent.ask_usage),
        marks=(*intent.marks, ORPHAN),
    )
