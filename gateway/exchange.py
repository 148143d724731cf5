"""THE PATH: one exchange from accepted to recorded, step by step.

Steps read in order: 2 identify, 3 recognise, 4 estimate, 5 admit, 6 forward, 7 observe, 8 price, 9 settle, 10 record.
Each is a function of its room; this file is their order, and what happens when one says no. Every exit gives back or
settles what was reserved, and whatever reached OpenAI ends in exactly one entry.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.admission import Refused
from gateway.admission.answers import ratelimit_headers, refusal
from gateway.admission.limits import account_part
from gateway.closing import close_exchange, intent_of
from gateway.config.snapshot import Facts
from gateway.control import BooksAway
from gateway.endpoints.job import may_see
from gateway.endpoints.route import route
from gateway.endpoints.taps import ModelsFilter, PassThrough, Replaced
from gateway.errors import ApiError, invalid_request
from gateway.house import House
from gateway.job import Job, understand
from gateway.journal.commit import JournalError
from gateway.journal.records import Entry, Intent
from gateway.journal.unknown import unknown_entry
from gateway.metering.answers import read_plain_answer
from gateway.metering.observers import AnswerObserver
from gateway.relay.answer import AnswerHead
from gateway.relay.call import Body, Call, Client
from gateway.relay.carry import Begun, Carry, End, Tap
from gateway.relay.connect import AllInUse, NoConnection
from gateway.relay.head import answer_lines, upstream_head, without_credentials
from gateway.relay.pool import Pool
from gateway.teams.identify import NotIdentified, identify


async def exchange(call: Call, client: Client, house: House) -> None:
    """Carry one call from accepted to recorded."""
    started_ns = house.clock_ns()
    facts, pools = house.facts, house.pools  # one frozen snapshot and its connections, kept to the end
    if facts is None:
        return client.refuse(_NOT_READY)
    job = await _understood(call, facts, house)  # 2 identify, 3 recognise, 4 estimate
    if isinstance(job, ApiError):
        return client.refuse(job)
    named = _objects_named(job)
    stranger = await _not_their_own(named, job, house) if named else None
    if stranger is not None:
        return _refuse(stranger, job, client, house)

    decision = await house.counters.reserve(job.ask, house.now_us() // 1000)  # 5 admit
    house.tally.decided(job, decision)
    limit_lines = _header_lines(ratelimit_headers(decision.readings))
    shadowed = decision if isinstance(decision, Refused) else None
    if shadowed is not None:
        if job.identity.team.mode == "enforce":
            error = refusal(shadowed, model=job.model_asked or "this call", team=job.identity.team.name)
            return client.refuse(error, limit_lines + _own_ids(job))
        decision = await house.counters.reserve(account_part(job.ask), house.now_us() // 1000)  # it passes, and others share that
    pool, waits_from_ns = pools[job.account.name], house.clock_ns()
    try:
        upstream = await pool.acquire()
    except Exception as error:
        house.give_back(decision)  # nothing reached OpenAI
        if not isinstance(error, NoConnection):
            raise
        return _refuse(_no_connection(error), job, client, house)
    call.waited_ns += house.clock_ns() - waits_from_ns
    intent = intent_of(job, shadowed, house.now_us())
    if client.gone or not _intended(intent, house):  # written down before OpenAI is contacted
        house.give_back(decision)
        pool.release(upstream)
        return None if client.gone else _refuse(_JOURNAL_FULL, job, client, house)

    carry = Carry(client, pool, upstream, lambda head: _begin(head, job, facts, limit_lines), house.clock_ns, drain_ms=_drain_ms(job))
    house.began(job, carry)
    try:
        body = _request_body(job)
        carry.send(_request_head(job, pool, body), body, head_request=call.method == "HEAD")  # 6 forward
        end = await carry.done
        entry = close_exchange(  # 7 observe, 8 price
            job, intent, carry, end, facts, started_ns=started_ns, ended_ns=house.clock_ns(), ended_at_us=house.now_us()
        )
    except Exception:
        carry.abandon()
        house.record(job, carry, decision, _broken(intent, job, house.now_us()))  # no reason to lose a call
        raise
    house.record(job, carry, decision, entry)  # 9 settle, 10 record
    if carry.head is not None:
        carry.release()  # the last bytes have waited for the entry, and for nothing else
    else:
        client.refuse(_no_answer(end), _own_ids(job))


async def _understood(call: Call, facts: Facts, house: House) -> Job | ApiError:
    """Who calls, what for, and how much that may be: read as soon as it is there, and refused and counted at the first no."""
    identity = identify(call.header(b"authorization"), facts.by_key_hash, house.now_us())
    if isinstance(identity, NotIdentified):
        if call.is_preflight:  # it never has a key. Of origins that may call it is answered before it comes here
            return _PAGE_REFUSED
        house.tally.turned_away(identity)
        return identity.error
    where = route(call.method, call.path)
    if isinstance(where, ApiError):
        house.tally.refused(identity.team.name, "other", None, None, where.status)
        return where
    waits_from_ns = house.clock_ns()
    problem = await call.received
    call.waited_ns += house.clock_ns() - waits_from_ns
    job = problem or understand(call, where, identity, facts, house.ids.next(), house.now_us())
    if isinstance(job, ApiError):
        house.tally.refused(identity.team.name, where.endpoint.name, None, None, job.status)
    return job


def _refuse(error: ApiError, job: Job, client: Client, house: House) -> None:
    """Answer a call that is understood and does not go upstream, and count it."""
    house.tally.refused(job.identity.team.name, job.endpoint.name, job.card.model if job.card else None, None, error.status)
    client.refuse(error, _own_ids(job))


async def _not_their_own(named: Sequence[tuple[str, str]], job: Job, house: House) -> ApiError | None:
    """A stored object belongs to the team that made it; for others it is not there."""
    for object_id, named_by in named:
        try:
            if await house.owner_of(object_id) == job.identity.team.name:
                continue
        except BooksAway:
            message = "The gateway cannot tell now whose object this is. Try again in a moment."
            return ApiError(503, "server_error", message, code="owner_unknown", retry_after_ms=1_000)
        shown = object_id[:100]
        if named_by == "previous_response_id":  # as OpenAI says it
            return invalid_request(f"Previous response with id '{shown}' not found.", code="previous_response_not_found", param=named_by)
        return invalid_request(f"No object with id '{shown}' was found for your team.", status=404, code="not_found", param=named_by)
    return None


def _objects_named(job: Job) -> Sequence[tuple[str, str]]:
    """Stored objects that a call names, and where: in its path, or in its body."""
    own, body = job.endpoint.owned_id, job.body
    if own is not None:
        return [(job.where.parameters[own], own)]
    if body is None or not body.history:
        return ()
    named = [(body.previous_response_id, "previous_response_id"), (body.conversation_id, "conversation")]
    return [(object_id, name) for object_id, name in named if object_id is not None]


def _broken(intent: Intent, job: Job, ended_at_us: int) -> Entry:
    """Of an exchange that broke inside the gateway after OpenAI was contacted."""
    error, call = "gateway_error", job.call
    return unknown_entry(intent, ended_at_us=ended_at_us, outcome=error, error_code=error, streamed=job.streams, body_bytes=call.body_bytes)


def _intended(intent: Intent, house: House) -> bool:
    try:
        house.journal.intend(intent)
    except (JournalError, OSError):  # no room, or a fault of the disk that comes through as it is
        return False
    return True


def _request_head(job: Job, pool: Pool, body: Body) -> bytes:
    """The request towards OpenAI, with the account's credentials in place of the team's."""
    call = job.call
    body_bytes = len(body) if isinstance(body, bytes) else call.body_bytes
    query = without_credentials(call.query)
    target = pool.path_prefix + job.where.upstream_path + (b"?" + query if query else b"")
    return upstream_head(
        call.method.encode(),
        target,
        call.headers,
        account_lines=pool.account_lines,
        exchange_id=job.exchange_id,
        content_length=body_bytes if body_bytes or call.method not in _BODILESS else None,
        identity_encoding=job.endpoint.observe is not None or job.endpoint.lists_models,
    )


def _request_body(job: Job) -> Body:
    """As it came; where a stream would not report its usage, with the option that makes it."""
    prepare = job.endpoint.prepare_stream
    if prepare is not None and job.streams and job.body is not None and not job.body.usage_asked:
        return prepare(job.call.body())
    return job.call.body_to_send()


def _begin(head: AnswerHead, job: Job, facts: Facts, limit_lines: bytes) -> Begun:
    """What listens to the answer, and the head that the client sees."""
    tap = _tap(head, job, facts)
    lines = answer_lines(head) + limit_lines + _own_ids(job, upstream_id=head.request_id)
    as_it_came = isinstance(tap, (AnswerObserver, PassThrough))  # the others may take something out
    if isinstance(tap, Replaced):
        return Begun(tap, tap.error.status, b"\r\ncontent-type: application/json\r\nx-should-retry: false" + _own_ids(job), None)
    return Begun(tap, head.status, lines, head.content_length if as_it_came else None)


def _tap(head: AnswerHead, job: Job, facts: Facts) -> Tap:
    endpoint = job.endpoint
    if head.status == 401:
        return Replaced(_ACCOUNT_REFUSED)
    if endpoint.lists_models and head.status == 200:
        team = job.identity.team
        return ModelsFilter(lambda name: may_see(name, team, facts.cards))
    if endpoint.observe is None and head.status < 400:
        return PassThrough()
    if head.content_encoding not in (b"", b"identity"):
        return PassThrough(lost="the answer is compressed, though identity was asked for")
    if endpoint.observe_stream is not None and head.content_type.lower().startswith(b"text/event-stream"):
        return endpoint.observe_stream(job.body)
    return endpoint.observe() if endpoint.observe is not None else AnswerObserver(read_plain_answer)


def _own_ids(job: Job, upstream_id: bytes = b"") -> bytes:
    """The exchange's id in every answer; as `x-request-id` too, where OpenAI gave none."""
    own_id = job.exchange_id.encode()
    return b"\r\nx-gateway-request-id: " + own_id + (b"" if upstream_id else b"\r\nx-request-id: " + own_id)


def _header_lines(block: bytes) -> bytes:
    """Lines that each end with CRLF as lines that each begin with it."""
    return b"\r\n" + block[:-2] if block else b""


def _drain_ms(job: Job) -> int | None:
    team = job.identity.team
    return team.drain_seconds_max * 1000 if team.on_client_gone == "drain" else None


def _no_connection(error: NoConnection) -> ApiError:
    if isinstance(error, AllInUse):
        message = "The gateway carries as many calls as it may (connections_max of the account). Nothing was sent; try again in a moment."
        return ApiError(503, "server_error", message, code="overloaded", retry_after_ms=1_000)
    status = 504 if error.timed_out else 502
    message = f"OpenAI could not be reached: {error}. Nothing was sent; try again."
    return ApiError(status, "server_error", message, code="upstream_unreachable")


def _no_answer(end: End) -> ApiError:
    if end == "head_timeout":
        return ApiError(504, "server_error", "OpenAI did not begin to answer in time.", code="upstream_timeout")
    if end == "bad_answer":
        return ApiError(502, "server_error", "OpenAI's answer is not valid HTTP.", code="upstream_bad_answer")
    return ApiError(502, "server_error", "OpenAI closed the connection without an answer.", code="upstream_closed")


_BODILESS = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})
_NOT_READY = ApiError(
    503,
    "server_error",
    "The gateway has just started and has no configuration yet. Try again in a moment.",
    code="not_ready",
    retry_after_ms=1_000,
)
_ACCOUNT_REFUSED = ApiError(
    502,
    "server_error",
    "OpenAI refuses the key of the account that this gateway uses for your team. Your own key is fine; tell the gateway's operators.",
    code="account_refused",
    should_retry=False,
)
_PAGE_REFUSED = ApiError(
    403,
    "invalid_request_error",
    "Pages of this origin may not call the gateway. Its operators list those that may in proxy.cors_origins.",
    code="origin_not_allowed",
)
_JOURNAL_FULL = ApiError(
    503, "server_error", "The gateway cannot write its journal, so it takes no calls. Its operators must make room.", code="journal_full"
)
