"""Steps 3 and 4: what a call means (endpoint, model, price card, account) and what it may use at most."""

from __future__ import annotations

import msgspec

from gateway.admission import Ask
from gateway.admission.answers import tier_excluded
from gateway.admission.limits import TierExcludes, ask_for
from gateway.catalogue import Card
from gateway.config.snapshot import Account, Facts
from gateway.endpoints.job import choose_card
from gateway.endpoints.route import Route
from gateway.endpoints.table import Endpoint, Kind
from gateway.errors import ApiError, invalid_request
from gateway.metering.body import CallBody
from gateway.metering.estimate import AskTokens, estimate, usage_of_ask
from gateway.pricing import Priced, price_ask
from gateway.relay.call import Call
from gateway.teams import Identity, Team
from gateway.units import Usage

_NOTHING = AskTokens(0, 0)


class Job(msgspec.Struct, frozen=True):
    """One call, understood: everything that admission, relay and the entry need to know of it."""

    exchange_id: str
    call: Call
    where: Route
    identity: Identity
    account: Account
    body: CallBody | None  # None: nothing in the endpoint's body matters here
    card: Card | None  # None: no model, or one without a card
    model_asked: str | None
    streams: bool
    ask: Ask
    ask_usage: Usage  # empty where nothing is billed
    ask_cost_picousd: int | None
    price_version: str | None

    @property
    def endpoint(self) -> Endpoint:
        """The row of the table."""
        return self.where.endpoint


def understand(call: Call, where: Route, identity: Identity, facts: Facts, exchange_id: str, now_us: int) -> Job | ApiError:
    """Read what matters of a call, choose its card, account and buckets, and estimate its worst case."""
    team, endpoint = identity.team, where.endpoint
    body = _read_body(call, endpoint, team)
    if isinstance(body, ApiError):
        return body
    model = where.parameters.get("model") if body is None else body.model
    card = None if model is None else choose_card(model, team, facts.cards)
    if isinstance(card, ApiError):
        return card
    account = facts.account_of(team)
    limits = facts.limits_of(team, identity.key, card)
    if isinstance(limits, TierExcludes):
        return tier_excluded(limits)
    tokens, usage, cost, version = _NOTHING, Usage(), 0 if endpoint.kind is Kind.FREE else None, None
    if endpoint.kind is Kind.METERED and body is not None:
        tokens = _worst_case(body, card, team, endpoint, facts)
        usage = usage_of_ask(tokens)
        cost, version = cost_of_ask(card, body, usage, account, now_us)
    return Job(
        exchange_id=exchange_id, call=call, where=where, identity=identity, account=account, body=body, card=card, model_asked=model,
        streams=body is not None and body.stream,
        ask=ask_for(exchange_id, limits, tokens.input_tokens, tokens.output_tokens, team.estimate),
        ask_usage=usage, ask_cost_picousd=cost, price_version=version,
    )  # fmt: skip


def _read_body(call: Call, endpoint: Endpoint, team: Team) -> CallBody | ApiError | None:
    """The body of an endpoint whose body matters; None for the others. Refuses what cannot be metered honestly."""
    if endpoint.kind is Kind.WITHHELD:
        message = "This list would show what other teams have stored, so it is not given. Ask for your own objects by their ids."
        return invalid_request(message, status=403, code="shared_list")
    if endpoint.kind is Kind.UNMETERED and team.unmetered_paths != "allow":
        what = f"`{call.method} {call.path[:100].decode('ascii', 'replace')}`"
        message = (
            f"{what} is billed by OpenAI, and this gateway does not meter it yet, so it is refused for team {team.name}. "
            "Set `unmetered_paths: allow` in the team's file to let it pass, counted but without a price."
        )
        return invalid_request(message, status=403, code="unmetered_path")
    if endpoint.read is None:
        return None
    if call.header(b"content-encoding") is not None and _is_compressed(call):
        return invalid_request("Send the request body uncompressed: this endpoint is metered.", status=415, code="unsupported_encoding")
    return endpoint.read(call.body())


def _is_compressed(call: Call) -> bool:
    return any(name == b"content-encoding" and value.strip().lower() != b"identity" for name, value in call.headers)


def _worst_case(body: CallBody, card: Card | None, team: Team, endpoint: Endpoint, facts: Facts) -> AskTokens:
    learned, place = facts.snapshot, f"{team.name}\0{card.model if card else body.model}\0{endpoint.name}"
    return estimate(
        body,
        model_output_tokens_max=card.max_output_tokens if card else None,
        learned_output_tokens=learned.learned_output_tokens.get(place),
        learned_input_tokens=learned.learned_input_tokens.get(place),
        settings=facts.snapshot.settings.estimate,
        policy=team.estimate,
    )


def cost_of_ask(card: Card | None, body: CallBody, usage: Usage, account: Account, now_us: int) -> tuple[int | None, str | None]:
    """(pico-dollars, price version) of a worst case; None where there is no card, and no cost where the card has no price."""
    if card is None:
        return None, None
    priced = price_ask(card, body.model or card.model, body.service_tier, usage, now_us, data_residency=account.data_residency)
    return (priced.cost_picousd, priced.price_version) if isinstance(priced, Priced) else (None, priced.price_version)
