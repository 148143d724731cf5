"""What never reaches OpenAI: no entry, nothing reserved, and an error that says what to do."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import invalid_request
from gateway.journal.writer import JournalWriter
from gateway.relay.call import Call
from gateway.units import Limits

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 50}
TINY = {"gpt-4o": Limits(tpm=3)}  # less than any message
LIMIT_HEADERS = ("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests")


def seen(client: Any, assert_openai_error: Any, status: int, code: str | None, type: str | None = None) -> dict[str, Any]:
    headers = {"content-type": "application/json"}
    if client.error.retry_after_ms is not None:
        headers |= {"retry-after": "1", "retry-after-ms": "1"}
    if client.error.should_retry is False:
        headers |= {"x-should-retry": "false"}
    error: dict[str, Any] = assert_openai_error(client.status, headers, client.error.body(), status, code, type)
    return error


async def refused(call: Any, rooms: Any, loopback: Any, worker: Any, origin: Any) -> Any:
    """The client of a call that leaves no trace."""
    client = loopback.client()
    await rooms.through(call, client, worker, loopback.until)
    assert client.events == ["refuse"]
    assert origin.asked == []
    assert worker.records() == ([], [])
    assert set(worker.taken().values()) == {0}
    assert worker.journal.open_intents == 0
    assert worker.house.tally.in_flight == {}
    return client


def body(**changes: Any) -> dict[str, Any]:
    return CHAT | changes


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], int, str | None, str]] = {
    "a model that does not exist": ({"body": body(model="gpt-9")}, {}, 404, "model_not_found", "`gpt-9`"),
    "a model that is not the team's": ({"body": CHAT}, {"models": ("o3-mini",)}, 404, "model_not_found", "`gpt-4o`"),
    "a model that its tier excludes": (
        {"body": body(model="gpt-4o-realtime-preview")}, {"tier": "free"}, 404, "model_not_found", "tier free"
    ),
    "no model": ({"body": {"messages": []}}, {}, 400, "missing_required_parameter", "'model'"),
    "a body that is no JSON": ({"body": b"{"}, {}, 400, None, "JSON"),
    "no body at all": ({}, {}, 400, None, "JSON"),
    "a name that is given twice": ({"body": b'{"model":"gpt-4o","model":"o3-mini"}'}, {}, 400, "duplicate_parameter", "'model'"),
    "a compressed body": ({"body": b"\x1f\x8b", "content_encoding": "gzip"}, {}, 415, "unsupported_encoding", "uncompressed"),
    "a path that is billed and not metered": (
        {"path": "/v1/audio/speech", "body": {"model": "tts-1"}}, {}, 403, "unmetered_path", "unmetered_paths: allow"
    ),
    "a WebSocket where there is none yet": ({"method": "GET", "path": "/v1/realtime"}, {}, 403, "unmetered_path", "realtime"),
    "a path of nobody": ({"method": "GET", "path": "/favicon.ico"}, {}, 404, None, "Invalid URL (GET /favicon.ico)"),
    "another team's response": ({"method": "GET", "path": "/v1/responses/resp_search"}, {}, 404, "not_found", "resp_search"),
    "a response of nobody": ({"method": "DELETE", "path": "/v1/responses/resp_none"}, {}, 404, "not_found", "resp_none"),
    "whatever hangs on another team's response": (
        {"method": "GET", "path": "/v1/responses/resp_search/new"}, {}, 404, "not_found", "resp_search"
    ),
    "another team's stored completion": ({"path": "/v1/chat/completions/resp_search"}, {}, 404, "not_found", "resp_search"),
    "another team's conversation as history": (
        {"path": "/v1/responses", "body": {"model": "gpt-4o", "input": "hi", "conversation": {"id": "resp_search"}}}, {}, 404,
        "not_found", "resp_search"
    ),
    "another team's conversation": ({"method": "GET", "path": "/v1/conversations/resp_search/items"}, {}, 404, "not_found", "resp_search"),
    "the list of what all teams stored": ({"method": "GET", "path": "/v1/chat/completions"}, {}, 403, "shared_list", "by their ids"),
    "another team's response as history": (
        {"path": "/v1/responses", "body": {"model": "gpt-4o", "input": "hi", "previous_response_id": "resp_search"}}, {}, 400,
        "previous_response_not_found", "resp_search"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("call", "team", "status", "code", "said"), CASES.values(), ids=CASES.keys())
def test_what_is_refused_leaves_no_trace(
    call: dict[str, Any], team: dict[str, Any], status: int, code: str | None, said: str, rooms: Any, loopback: Any, tmp_path: Path,
    assert_openai_error: Any,
) -> None:  # fmt: skip
    async def test() -> None:
        async with loopback.origin() as origin, rooms.worker(origin.url, tmp_path, **team) as worker:
            worker.owners = {"resp_search": "search", "resp_voice": "voice"}
            client = await refused_without_buckets(rooms.call(**call), worker, origin)
            error = seen(client, assert_openai_error, status, code, "invalid_request_error")
            assert said in error["message"]

    async def refused_without_buckets(one: Any, worker: Any, origin: Any) -> Any:
        client = loopback.client()
        await rooms.through(one, client, worker, loopback.until)
        assert (client.events, origin.asked, worker.records(), len(worker.store)) == (["refuse"], [], ([], []), 0)
        return client

    loopback.run(test)


@pytest.mark.parametrize("authorization", [None, "Basic x", "Bearer gk-wrong-0123456789abcdefghijklmn"])
def test_a_caller_without_a_valid_key_is_turned_away_at_the_door(
    authorization: str | None, rooms: Any, loopback: Any, tmp_path: Path, assert_openai_error: Any
) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, rooms.worker(origin.url, tmp_path) as worker:
            headers = [(b"authorization", authorization.encode())] if authorization else []
            call = Call("POST", b"/v1/chat/completions", b"", headers, http_10=False, keep_alive=True)  # its body has not come yet
            client = await refused(call, rooms, loopback, worker, origin)
            seen(client, assert_openai_error, 401, "invalid_api_key" if authorization and "gk" in authorization else None)
            assert sum(worker.house.tally.take()[2].values()) == 1

    loopback.run(test)


def test_a_worker_without_a_configuration_says_that_it_is_not_ready(
    rooms: Any, loopback: Any, tmp_path: Path, assert_openai_error: Any
) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, rooms.worker(origin.url, tmp_path) as worker:
            worker.house.facts = None
            client = loopback.client()
            await rooms.through(rooms.call(body=CHAT), client, worker, loopback.until)
            seen(client, assert_openai_error, 503, "not_ready", "server_error")
            assert origin.asked == []

    loopback.run(test)


def test_a_call_whose_body_never_came_whole_is_answered_with_the_reason(rooms: Any, loopback: Any, tmp_path: Path) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, rooms.worker(origin.url, tmp_path) as worker:
            call, client = rooms.call(body=CHAT, arrived=False), loopback.client()
            ran = rooms.run(call, client, worker)
            assert not ran.over
            problem = invalid_request("too large", status=413)
            call.received.open(problem)
            assert ran.over
            assert client.error is problem
            assert (origin.asked, worker.records()) == ([], ([], []))

    loopback.run(test)


def test_where_openai_cannot_be_reached_nothing_is_billed_and_nothing_kept(
    rooms: Any, loopback: Any, tmp_path: Path, assert_openai_error: Any
) -> None:
    async def test() -> None:
        async with loopback.origin() as origin:
            url = origin.url
        async with rooms.worker(url, tmp_path) as worker:
            client = await refused(rooms.call(body=CHAT), rooms, loopback, worker, origin)
            error = seen(client, assert_openai_error, 502, "upstream_unreachable", "server_error")
            assert "Nothing was sent" in error["message"]
            assert worker.pool.busy == 0

    loopback.run(test)


def test_without_room_in_the_journal_nothing_is_sent(rooms: Any, loopback: Any, tmp_path: Path, assert_openai_error: Any) -> None:
    def full(_descriptor: int, _offset: int, _size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def test() -> None:
        journal = JournalWriter(tmp_path, "w0", segment_bytes=1 << 20, allocate=full)
        async with loopback.origin() as origin, rooms.worker(origin.url, tmp_path, journal=journal) as worker:
            client = await refused(rooms.call(body=CHAT), rooms, loopback, worker, origin)
            seen(client, assert_openai_error, 503, "journal_full", "server_error")
            assert worker.pool.idle == 1, "the connection can carry another call"

    loopback.run(test)


def test_a_client_that_left_before_anything_was_sent_costs_nothing(rooms: Any, loopback: Any, tmp_path: Path) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, rooms.worker(origin.url, tmp_path) as worker:
            client = loopback.client()
            ran = rooms.run(rooms.call(body=CHAT), client, worker)
            client.gone = True  # while the connection is made
            await loopback.until(lambda: ran.over)
            assert ran.error is None
            assert (origin.asked, worker.records()) == ([], ([], []))
            assert set(worker.taken().values()) == {0}
            assert worker.pool.busy == 0

    loopback.run(test)


@pytest.mark.parametrize(("kind", "type"), [("rpm", "requests"), ("tpm", "tokens")])
def test_a_limit_refuses_in_openais_words_and_takes_nothing(
    kind: str, type: str, rooms: Any, loopback: Any, tmp_path: Path, assert_openai_error: Any
) -> None:
    limits = {"gpt-4o": Limits(rpm=1) if kind == "rpm" else Limits(tpm=60)}

    async def test() -> None:
        async with loopback.origin() as origin, rooms.worker(origin.url, tmp_path, limits=limits) as worker:
            first, client = loopback.client(), loopback.client()
            rooms.run(rooms.call(body=CHAT), first, worker)
            await loopback.until(lambda: origin.asked and origin.asked[0].whole)
            taken = worker.taken()
            await rooms.through(rooms.call(body=CHAT), client, worker, loopback.until)
            error = seen(client, assert_openai_error, 429, "rate_limit_exceeded", type)
            assert "Rate limit reached for gpt-4o in organization voice" in error["message"]
            assert all(client.header(name) for name in LIMIT_HEADERS)
            assert worker.taken() == taken, "a refused call changes nothing"
            assert len(origin.asked) == 1
            assert len(worker.records()[0]) == 1
            first.leave()

    loopback.run(test)


def test_an_input_that_can_never_fit_is_not_worth_a_retry(rooms: Any, loopback: Any, tmp_path: Path, assert_openai_error: Any) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, rooms.worker(origin.url, tmp_path, limits=TINY) as worker:
            client = await refused(rooms.call(body=CHAT), rooms, loopback, worker, origin)
            error = seen(client, assert_openai_error, 429, "rate_limit_exceeded", "tokens")
            assert error["message"].startswith("Request too large for gpt-4o")
            assert client.error.should_retry is False

    loopback.run(test)


def test_while_the_books_are_away_a_stored_object_is_nobodys_yet(
    rooms: Any, loopback: Any, tmp_path: Path, assert_openai_error: Any
) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, rooms.worker(origin.url, tmp_path) as worker:
            worker.books_away = True
            client = await refused(rooms.call("GET", "/v1/responses/resp_1"), rooms, loopback, worker, origin)
            seen(client, assert_openai_error, 503, "owner_unknown", "server_error")

    loopback.run(test)


def test_refusals_are_counted_by_what_refused(rooms: Any, loopback: Any, tmp_path: Path) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, rooms.worker(origin.url, tmp_path, limits={"gpt-4o": Limits(rpm=1, tpm=3)}) as worker:
            for one in (CHAT, CHAT, {"model": "gpt-9", "messages": []}):
                await refused(rooms.call(body=one), rooms, loopback, worker, origin)
            refusals, _, _ = worker.house.tally.take()
            counted = {(one.team, one.operation, one.limit, one.status): one.count for one in refusals}
            assert counted == {("voice", "chat/completions", "tpm", 429): 2, ("voice", "chat/completions", None, 404): 1}

    loopback.run(test)
