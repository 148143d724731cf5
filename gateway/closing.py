"""Steps 7 and 8: from what was seen of an exchange to its entry. Total: whatever was seen, there is an entry."""

from __future__ import annotations

from gateway.admission import Refused
from gateway.catalogue import Card
from gateway.config.snapshot import Account, Facts
from gateway.endpoints.table import Kind
from gateway.job import Job, cost_of_ask
from gateway.journal.records import Entry, Intent
from gateway.metering.answers import Observed
from gateway.metering.close import ENDED, usage_at_end
from gateway.pricing import Priced, price
from gateway.relay.carry import Carry, End
from gateway.teams import Team
from gateway.units import Usage, UsageSource, tokens_of

_OUTCOMES: dict[End, str] = {
    "closed": "upstream_error",
    "bad_answer": "upstream_error",
    "head_timeout": "upstream_timeout",
    "stalled": "upstream_timeout",
    "client_gone": "client_gone",
}


def intent_of(job: Job, shadowed: Refused | None, admitted_at_us: int) -> Intent:
    """What is written down before OpenAI is contacted. `shadowed`: what would have refused it, were its team's limits enforced."""
    call, identity = job.call, job.identity
    return Intent(
        exchange_id=job.exchange_id,
        session_id=None,
        team=identity.team.name,
        key=identity.key.id,
        account=job.account.name,
        endpoint=job.endpoint.name,
        model_asked=job.model_asked,
        service_tier_asked=job.body.service_tier if job.body else None,
        ask_usage=job.ask_usage,
        ask_cost_picousd=job.ask_cost_picousd,
        price_version=job.price_version,
        client_request_id=_text(call.header(b"x-client-request-id")),
        retry_count=_count(call.header(b"x-stainless-retry-count")),
        admitted_at_us=admitted_at_us,
        marks=_marks(job, shadowed),
    )


def _marks(job: Job, shadowed: Refused | None) -> tuple[str, ...]:
    """How it was admitted, and that its input is partly kept at OpenAI, which estimates learn from."""
    marks = ("history",) if job.body is not None and job.body.history else ()
    return marks if shadowed is None else (*marks, f"shadow:{shadowed.limit.scope}:{shadowed.limit.kind}")


def close_exchange(
    job: Job, intent: Intent, carry: Carry, end: End, facts: Facts, *, started_ns: int, ended_ns: int, ended_at_us: int
) -> Entry:
    """Observe and price: the entry of an exchange that has ended, however it ended."""
    status = carry.head.status if carry.head is not None else None
    observed = carry.tap.finish() if carry.tap is not None else None
    usage, source = _usage(job, observed, status, complete=end in ("complete", "ended"))
    service_tier = observed.service_tier if observed else None
    if source == "unknown":
        cost, version = _worst_cost(job, usage, ended_at_us)
    else:
        served = observed.model_served if observed else None
        cost, version = _cost(job, served, service_tier or _tier_asked(job, source), usage, source, ended_at_us, facts)
    late = _is_late(job, observed)
    return Entry(
        exchange_id=intent.exchange_id,
        session_id=None,
        team=intent.team,
        key=intent.key,
        account=intent.account,
        endpoint=intent.endpoint,
        model_asked=intent.model_asked,
        model_served=observed.model_served if observed else None,
        service_tier=service_tier,
        usage=usage,
        details=observed.details if observed else {},
        usage_source=source,
        cost_picousd=cost,
        price_version=version,
        status=status,
        error_code=(observed.error_code or observed.lost) if observed else end,
        upstream_request_id=_text(carry.head.request_id) if carry.head is not None else None,
        client_request_id=intent.client_request_id,
        admitted_at_us=intent.admitted_at_us,
        ended_at_us=max(ended_at_us, intent.admitted_at_us),
        timings_us=_timings(carry, started_ns + job.call.waited_ns, started_ns, ended_ns),
        retry_count=intent.retry_count,
        outcome="client_gone" if carry.client_left else _outcome(end, status, observed),
        ask_tokens=tokens_of(job.ask_usage) or None,
        streamed=job.streams,
        answer_id=observed.answer_id if observed else None,
        body_bytes=job.call.body_bytes,
        marks=intent.marks,
        late_usage=observed.usage if late and observed else None,
    )


def _usage(job: Job, observed: Observed | None, status: int | None, *, complete: bool) -> tuple[Usage, UsageSource]:
    kind = job.endpoint.kind
    if kind in (Kind.UNMETERED, Kind.UNKNOWN):
        return {}, "unknown" if status is None or status < 400 else "not_billed"
    return usage_at_end(
        observed,
        ask=job.ask_usage,
        status=status,
        complete=complete,
        billable=kind is Kind.METERED,
        hides_tokens=job.card is None or job.card.reasoning or (job.body is not None and job.body.audio_out),
        streamed=job.streams,
        background=job.body is not None and job.body.background,
    )


def _worst_cost(job: Job, usage: Usage, ended_at_us: int) -> tuple[int | None, str | None]:
    """Of the ask; priced again where more than it was seen."""
    if job.body is None or usage == job.ask_usage:
        return job.ask_cost_picousd, job.price_version
    return cost_of_ask(job.card, job.body, usage, job.account, ended_at_us)


def _tier_asked(job: Job, source: UsageSource) -> str | None:
    """A stream that broke before it said which tier serves it is taken to have the one it asked for."""
    return job.body.service_tier if source == "estimated" and job.body is not None else None


def _cost(
    job: Job, served: str | None, service_tier: str | None, usage: Usage, source: UsageSource, ended_at_us: int, facts: Facts
) -> tuple[int | None, str | None]:
    if source == "not_billed":
        return 0, None
    return cost_served(facts, job.identity.team, job.account, served or job.model_asked, service_tier, usage, ended_at_us)


def cost_served(
    facts: Facts, team: Team | None, account: Account | None, served: str | None, service_tier: str | None, usage: Usage, at_us: int
) -> tuple[int | None, str | None]:
    """(pico-dollars, price version): the model served prices the call.

    A served name that no card lists is unpriced, unless its team has said what it costs. None where there is no price.
    """
    card: Card | None = facts.cards.get(served or "")
    if card is None and team is not None and team.unknown_model == "price_as":
        card = facts.cards.get(team.price_unknown_as or "")
    if card is None:
        return None, None
    priced = price(card, served or card.model, service_tier, usage, at_us, data_residency=account is not None and account.data_residency)
    return (priced.cost_picousd, priced.price_version) if isinstance(priced, Priced) else (None, priced.price_version)


def _is_late(job: Job, observed: Observed | None) -> bool:
    """A stored response whose usage is there now, and may not have been when its own exchange ended."""
    return job.endpoint.late_usage and observed is not None and observed.answer_status in ENDED and observed.usage is not None


def _outcome(end: End, status: int | None, observed: Observed | None) -> str:
    if end in _OUTCOMES:
        return _OUTCOMES[end]
    if status is None or status >= 500 or status == 401:  # 401: it is the account's key that was refused
        return "upstream_error"
    if status >= 400:
        return "client_error"
    return "upstream_error" if observed is not None and observed.error_code is not None else "ok"  # an error inside a stream


def _timings(carry: Carry, worked_from_ns: int, started_ns: int, ended_ns: int) -> dict[str, int]:
    """Microseconds since the call was accepted, of the moments there were; and what the gateway itself took of them.

    `worked_from_ns`: the start, put off by the waits for the client's body and for a connection.
    """
    moments = carry.moments
    timings = {
        "overhead": (moments.sent_ns - worked_from_ns + ended_ns - moments.last_ns) // 1000,
        "sent": (moments.sent_ns - started_ns) // 1000,
        "last": (moments.last_ns - started_ns) // 1000,
    }
    if moments.head_ns:
        timings["head"] = (moments.head_ns - started_ns) // 1000
    if moments.first_token_ns:
        timings["first_token"] = (moments.first_token_ns - started_ns) // 1000
    return timings


def _text(value: bytes | None) -> str | None:
    return value[:200].decode("utf-8", "replace") if value else None


def _count(value: bytes | None) -> int | None:
    return int(value) if value is not None and len(value) < 4 and value.isdigit() else None
