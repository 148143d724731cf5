"""What stands for an exchange whose end nobody saw: the worst case that its intent reserved, marked `unknown`. Pure."""

from __future__ import annotations

from gateway.journal.records import Entry, Intent
from gateway.units import tokens_of


def unknown_entry(
    intent: Intent,
    *,
    ended_at_us: int,
    outcome: str,
    error_code: str | None = None,
    streamed: bool = False,
    body_bytes: int = 0,
    marks: tuple[str, ...] = (),
) -> Entry:
    """OpenAI may have billed it in full. `marks` come after the intent's own; it never ends before it began, whatever the clock says."""
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
        error_code=error_code,
        upstream_request_id=None,
        client_request_id=intent.client_request_id,
        admitted_at_us=intent.admitted_at_us,
        ended_at_us=max(ended_at_us, intent.admitted_at_us),
        timings_us={},
        retry_count=intent.retry_count,
        outcome=outcome,
        ask_tokens=tokens_of(intent.ask_usage) or None,
        streamed=streamed,
        body_bytes=body_bytes,
        marks=(*intent.marks, *marks),
    )
