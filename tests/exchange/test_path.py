"""What passes: what OpenAI is asked, what the client gets, and what is remembered of it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.units import Limits, Meter, tokens_of

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 50}
USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
ANSWER = json.dumps({"id": "chatcmpl-1", "model": "gpt-4o-2024-08-06", "choices": [], "usage": USAGE}).encode()


def counted(body: bytes, lines: bytes = b"", status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 " + status + b"\r\ncontent-type: application/json\r\ncontent-length: %d\r\n" % len(body) + lines + b"\r\n" + body


def streamed(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def test_openai_is_asked_by_the_account_and_never_learns_the_teams_key(rooms: Any, loopback: Any, tmp_path: Path) -> None:
    sent = b'{ "messages":[],"model" :"gpt-4o", "n":1e0 ,"x":"\\u00e9"}'.replace(b'"n":1e0 ,', b"")

    async def test() -> None:
        account = {"organization": "org-1", "project": "proj-1"}
        async with loopback.origin() as origin, rooms.worker(origin.url, tmp_path, account=account) as worker:
            origin.answers.append(counted(ANSWER))
            call = rooms.call(
                body=sent, query=b"beta=true", accept_encoding="gzip", openai_organization="org-mine", x_client_request_id="mine-1",
                x_stainless_retry_count="2", openai_beta="x", api_key="gk-other",
            )  # fmt: skip
            await rooms.through(call, loopback.client(), worker, loopback.until)
            asked = origin.asked[0]
            assert (asked.method, asked.target, asked.body) == ("POST", "/v1/chat/completions?beta=true", sent)
            wanted = {
                "host": f"127.0.0.1:{origin.port}", "authorization": "Bearer sk-account", "openai-organization": "org-1",
                "openai-project": "proj-1", "accept-encoding": "identity", "content-type": "application/json", "openai-beta": "x",
                "content-length": str(len(sent)), "x-stainless-retry-count": "2",
            }  # fmt: skip
            _, (entry,) = worker.records()
            assert dict(asked.headers) == wanted | {"x-client-request-id": entry.exchange_id}
            assert len(asked.headers) == len(wanted) + 1
            assert (entry.client_request_id, entry.retry_count, entry.body_bytes) == ("mine-1", 2, len(sent))

    loopback.run(test)


def test_the_client_gets_the_teams_limits_and_not_the_accounts(rooms: Any, loopback: Any, tmp_path: Path) -> None:
    lines = b"x-request-id: req_1\r\nx-ratelimit-limit-requests: 99999\r\nopenai-organization: org-1\r\nopenai-processing-ms: 9\r\n"

    async def test() -> None:
        async with loopback.origin() as origin, rooms.worker(origin.url, tmp_path) as worker:
            origin.answers.append(counted(ANSWER, lines))
            client = loopback.client()
            await rooms.through(rooms.call(body=CHAT), client, worker, loopback.until)
            assert client.header("x-ratelimit-limit-requests") == "500"
            assert client.header("openai-organization") is None
            assert client.header("openai-processing-ms") == "9"
            assert client.header("x-request-id") == "req_1"
            _, (entry,) = worker.records()
            assert client.header("x-gateway-request-id") == entry.exchange_id
            assert (entry.upstream_request_id, client.content_length) == ("req_1", len(ANSWER))

    loopback.run(test)


# Streams


def events(*chunks: dict[str, Any]) -> bytes:
    lines = [b"data: " + json.dumps(one, separators=(",", ":")).encode() + b"\n\n" for one in chunks]
    return b"".join(lines) + b"data: [DONE]\n\n"


def part(text: str, finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return {"id": "chatcmpl-1", "model": "gpt-4o-2024-08-06", "choices": [choice]}


WITH_USAGE = events(part("he") | {"usage": None}, part("llo", "stop") | {"usage": None}, part("") | {"choices": [], "usage": USAGE})
WITHOUT = events(part("he"), part("llo", "stop"))
MERGED = [
    (b'{"model":"gpt-4o","stream":true,"messages":[]}',
     b'{"stream_options":{"include_usage":true},"model":"gpt-4o","stream":true,"messages":[]}'),
    (b'{"model":"gpt-4o","stream":true,"messages":[],"stream_options":{}}', None),
    (b'{"model":"gpt-4o","stream":true,"messages":[],"stream_options":null}', None),
    (b'{"model":"gpt-4o","stream":true,"messages":[],"stream_options":{"include_usage":false}}', None),
    (b'{"model":"gpt-4o","stream":true,"messages":[],"stream_options":{"include_obfuscation":false}}', None),
]  # fmt: skip


@pytest.mark.parametrize(("sent", "merged"), MERGED, ids=["no options", "empty", "null", "switched off", "another option"])
def test_a_stream_reports_its_usage_to_us_and_looks_to_the_client_as_it_asked(
    sent: bytes, merged: bytes | None, rooms: Any, loopback: Any, tmp_path: Path
) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, rooms.worker(origin.url, tmp_path) as worker:
            origin.answers.append(streamed(WITH_USAGE))
            client = loopback.client()
            await rooms.through(rooms.call(body=sent), client, worker, loopback.until)
            asked = json.loads(origin.asked[0].body)
            options = json.loads(sent).get("stream_options") or {}
            assert asked == json.loads(sent) | {"stream_options": options | {"include_usage": True}}
            assert merged is None or origin.asked[0].body == merged
            assert origin.asked[0].header("content-length") == str(len(origin.asked[0].body))
            assert client.body == WITHOUT
            assert client.content_length is None
            _, (entry,) = worker.records()
            assert (entry.usage_source, entry.usage) == ("reported", {Meter.INPUT_TEXT: 100, Meter.OUTPUT_TEXT: 20})

    loopback.run(test)


def test_a_client_that_asks_for_usage_gets_every_byte(rooms: Any, loopback: Any, tmp_path: Path) -> None:
    sent = json.dumps(CHAT | {"stream": True, "stream_options": {"include_usage": True}}).encode()

    async def test() -> None:
        async with loopback.origin() as origin, rooms.worker(origin.url, tmp_path) as worker:
            origin.answers.append(streamed(WITH_USAGE))
            client = loopback.client()
            await rooms.through(rooms.call(body=sent), client, worker, loopback.until)
            assert (origin.asked[0].body, client.body) == (sent, WITH_USAGE)
            assert worker.records()[1][0].usage_source == "reported"

    loopback.run(test)


# Leaving


def test_a_team_that_drains_is_billed_what_was_used(rooms: Any, loopback: Any, tmp_path: Path) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, rooms.worker(origin.url, tmp_path, on_client_gone="drain") as worker:
            client = loopback.client()
            ran = rooms.run(rooms.call(body=CHAT), client, worker)
            await loopback.until(lambda: origin.asked and origin.asked[0].whole)
            client.leave()
            assert not ran.over
            origin.connections[0].send(counted(ANSWER))
            await loopback.until(lambda: ran.over)
            _, (entry,) = worker.records()
            assert (entry.outcome, entry.usage_source, entry.status) == ("client_gone", "reported", 200)
            assert worker.taken() == {"group rpm": 1, "group tpm": 120}

    loopback.run(test)


# Policies


ACCOUNTS = [(None, None), ({"tier": "tier-1"}, 120)]


@pytest.mark.parametrize(("account", "taken_of_account"), ACCOUNTS, ids=["without account limits", "with them"])
def test_what_was_reserved_is_replaced_by_what_was_used(
    account: dict[str, Any] | None, taken_of_account: int | None, rooms: Any, loopback: Any, tmp_path: Path
) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, rooms.worker(origin.url, tmp_path, account=account) as worker:
            client = loopback.client()
            ran = rooms.run(rooms.call(body=CHAT | {"max_tokens": 5_000}), client, worker)
            await loopback.until(lambda: origin.asked and origin.asked[0].whole)
            intents, _ = worker.records()
            assert worker.taken()["group tpm"] == tokens_of(intents[0].ask_usage) > 5_000
            origin.connections[0].send(counted(ANSWER))
            await loopback.until(lambda: ran.over)
            assert (worker.taken()["group rpm"], worker.taken()["group tpm"]) == (1, 120)
            if taken_of_account is not None:
                worker.house.counters.give_back(rooms.now_us // 1000)
                assert worker.taken()["account tpm"] == taken_of_account

    loopback.run(test)


def test_shadow_mode_lets_pass_what_it_would_refuse_and_says_so(rooms: Any, loopback: Any, tmp_path: Path) -> None:
    async def test() -> None:
        team = {"mode": "shadow", "limits": {"gpt-4o": Limits(rpm=1)}}
        async with loopback.origin() as origin, rooms.worker(origin.url, tmp_path, **team) as worker:
            for _ in range(2):
                origin.answers.append(counted(ANSWER))
                client = loopback.client()
                await rooms.through(rooms.call(body=CHAT), client, worker, loopback.until)
                assert client.status == 200
            _, entries = worker.records()
            assert [entry.marks for entry in entries] == [(), ("shadow:group:rpm",)]
            assert worker.taken()["group rpm"] == 1
            decisions = {(one.limit, one.decision): one.count for one in worker.house.tally.take()[1]}
            assert decisions["rpm", "degraded"] == 1

    loopback.run(test)


def test_what_shadow_mode_lets_pass_still_counts_against_what_all_teams_share(rooms: Any, loopback: Any, tmp_path: Path) -> None:
    async def test() -> None:
        team = {"mode": "shadow", "limits": {"gpt-4o": Limits(rpm=1)}}
        account = {"tier": "tier-1"}
        async with loopback.origin() as origin, rooms.worker(origin.url, tmp_path, account=account, **team) as worker:
            for _ in range(3):
                origin.answers.append(counted(ANSWER))
                await rooms.through(rooms.call(body=CHAT), loopback.client(), worker, loopback.until)
            worker.house.counters.give_back(rooms.now_us // 1000)
            assert worker.taken()["account rpm"] == 3
            assert worker.taken()["group rpm"] == 1

    loopback.run(test)


def test_an_unmetered_path_that_is_allowed_is_written_down_without_a_price(rooms: Any, loopback: Any, tmp_path: Path) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, rooms.worker(origin.url, tmp_path, unmetered_paths="allow") as worker:
            origin.answers.append(counted(b"RIFF", b"content-encoding: gzip\r\n"))
            client = loopback.client()
            call = rooms.call(path="/v1/audio/speech", body={"model": "tts-1", "input": "hi"}, accept_encoding="gzip")
            await rooms.through(call, client, worker, loopback.until)
            assert client.body == b"RIFF"
            assert origin.asked[0].header("accept-encoding") == "gzip"
            _, (entry,) = worker.records()
            assert (entry.endpoint, entry.usage_source, entry.cost_picousd, entry.usage) == ("audio/speech", "unknown", None, {})
            assert worker.taken(None) == {"group rpm": 1, "group tpm": 0}

    loopback.run(test)


@pytest.mark.parametrize(
    ("method", "path", "source", "cost"),
    [("POST", "/v1/something/new", "unknown", None), ("GET", "/v1/files", "not_billed", 0), ("POST", "/v1/files", "not_billed", 0),
     ("POST", "/v1/moderations", "not_billed", 0)],
)  # fmt: skip
def test_what_is_not_metered_is_counted_as_a_request(
    method: str, path: str, source: str, cost: int | None, rooms: Any, loopback: Any, tmp_path: Path
) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, rooms.worker(origin.url, tmp_path) as worker:
            origin.answers.append(counted(b"{}"))
            client = loopback.client()
            await rooms.through(rooms.call(method, path, None if method == "GET" else {"input": "x"}), client, worker, loopback.until)
            assert client.body == b"{}"
            _, (entry,) = worker.records()
            assert (entry.usage_source, entry.cost_picousd) == (source, cost)
            assert worker.taken(None)["group rpm"] == 1

    loopback.run(test)


def test_a_model_without_a_card_is_unpriced_where_that_is_allowed(rooms: Any, loopback: Any, tmp_path: Path) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, rooms.worker(origin.url, tmp_path, unknown_model="allow_unpriced") as worker:
            origin.answers.append(counted(ANSWER.replace(b"gpt-4o-2024-08-06", b"gpt-9")))
            await rooms.through(rooms.call(body=CHAT | {"model": "gpt-9"}), loopback.client(), worker, loopback.until)
            _, (entry,) = worker.records()
            assert (entry.usage_source, entry.cost_picousd, entry.model_served) == ("reported", None, "gpt-9")
            assert tokens_of(entry.usage) == 120

    loopback.run(test)


# Stored objects


def test_a_response_belongs_to_the_team_that_made_it(rooms: Any, loopback: Any, tmp_path: Path) -> None:
    answer = json.dumps({"id": "resp_1", "object": "response", "status": "completed", "model": "gpt-4o-2024-08-06",
                         "usage": {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}, "output": []}).encode()  # fmt: skip

    async def test() -> None:
        async with loopback.origin() as origin, rooms.worker(origin.url, tmp_path) as worker:
            origin.answers.extend([counted(answer)] * 3)
            ask = {"model": "gpt-4o", "input": "hi"}

            async def status_of(call: Any) -> int:
                client = loopback.client()
                await rooms.through(call, client, worker, loopback.until)
                return int(client.status)

            assert await status_of(rooms.call(path="/v1/responses", body=ask)) == 200
            assert await status_of(rooms.call("GET", "/v1/responses/resp_1")) == 200
            assert await status_of(rooms.call("GET", "/v1/responses/resp_1", team="search")) == 404
            follow_up = ask | {"previous_response_id": "resp_1"}
            assert await status_of(rooms.call(path="/v1/responses", body=follow_up, team="search")) == 400
            assert await status_of(rooms.call(path="/v1/responses", body=follow_up)) == 200
            _, entries = worker.records()
            assert [(entry.endpoint, entry.usage_source, bool(entry.late_usage)) for entry in entries] == [
                ("responses", "reported", False), ("responses/retrieve", "not_billed", True), ("responses", "reported", False)
            ]  # fmt: skip
            assert len(origin.asked) == 3

    loopback.run(test)


def test_a_refused_account_is_not_told_as_a_wrong_key_of_the_team(rooms: Any, loopback: Any, tmp_path: Path) -> None:
    refused = b'{"error":{"message":"Incorrect API key provided: sk-acc***ount.","type":"invalid_request_error","code":"invalid_api_key"}}'

    async def test() -> None:
        async with loopback.origin() as origin, rooms.worker(origin.url, tmp_path) as worker:
            origin.answers.append(counted(refused, b"www-authenticate: Bearer\r\n", b"401 Unauthorized"))
            client = loopback.client()
            await rooms.through(rooms.call(body=CHAT), client, worker, loopback.until)
            assert client.status == 502
            assert b"account_refused" in client.body
            assert b"sk-acc" not in client.body
            assert client.header("www-authenticate") is None
            assert client.header("x-should-retry") == "false"
            _, (entry,) = worker.records()
            assert (entry.status, entry.usage_source, entry.error_code) == (401, "not_billed", "invalid_api_key")

    loopback.run(test)


def test_waiting_for_the_body_is_not_what_the_gateway_took(rooms: Any, loopback: Any, tmp_path: Path) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, rooms.worker(origin.url, tmp_path) as worker:
            origin.answers.append(counted(ANSWER))
            call, client = rooms.call(body=CHAT, arrived=False), loopback.client()
            ran = rooms.run(call, client, worker)
            worker._now_ns += 5_000_000_000
            call.received.open(None)
            await loopback.until(lambda: ran.over)
            _, (entry,) = worker.records()
            assert entry.timings_us["sent"] > 5_000_000
            assert entry.timings_us["overhead"] < 1_000_000

    loopback.run(test)


@pytest.mark.parametrize("answered", [True, False], ids=["answered in time", "past the deadline"])
def test_a_worker_that_ends_waits_for_exchanges_whose_clients_have_left(answered: bool, rooms: Any, loopback: Any, tmp_path: Path) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, rooms.worker(origin.url, tmp_path, on_client_gone="drain") as worker:
            client = loopback.client()
            ran = rooms.run(rooms.call(body=CHAT), client, worker)
            await loopback.until(lambda: origin.asked and origin.asked[0].whole)
            client.leave()
            assert not ran.over
            loop = asyncio.get_running_loop()
            ending = loop.create_task(worker.house.finish(loop.time() + (60 if answered else 0)))
            if answered:
                await loopback.until(lambda: not ending.done())
                origin.connections[0].send(counted(ANSWER))
            await ending
            await loopback.until(lambda: ran.over)
            _, (entry,) = worker.records()
            assert entry.outcome == "client_gone"
            assert entry.usage_source == ("reported" if answered else "unknown")

    loopback.run(test)


def test_a_conversation_belongs_to_the_team_that_made_it(rooms: Any, loopback: Any, tmp_path: Path) -> None:
    answer = json.dumps({"id": "resp_1", "object": "response", "status": "completed", "model": "gpt-4o",
                         "usage": {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}, "output": []}).encode()  # fmt: skip

    async def test() -> None:
        async with loopback.origin() as origin, rooms.worker(origin.url, tmp_path) as worker:
            origin.answers.extend([counted(b'{"id":"conv_1","object":"conversation"}'), counted(answer)])

            async def status_of(call: Any) -> int:
                client = loopback.client()
                await rooms.through(call, client, worker, loopback.until)
                return int(client.status)

            assert await status_of(rooms.call(path="/v1/conversations", body={})) == 200
            ask = {"model": "gpt-4o", "input": "hi", "conversation": "conv_1"}
            assert await status_of(rooms.call(path="/v1/responses", body=ask, team="search")) == 404
            assert await status_of(rooms.call(path="/v1/responses", body=ask)) == 200
            assert len(origin.asked) == 2

    loopback.run(test)


def test_a_background_response_is_unknown_until_it_is_seen_done(rooms: Any, loopback: Any, tmp_path: Path) -> None:
    queued = json.dumps({"id": "resp_1", "object": "response", "status": "queued", "model": "gpt-4o", "usage": None}).encode()

    async def test() -> None:
        async with loopback.origin() as origin, rooms.worker(origin.url, tmp_path) as worker:
            origin.answers.append(counted(queued))
            call = rooms.call(path="/v1/responses", body={"model": "gpt-4o", "input": "hi", "background": True})
            await rooms.through(call, loopback.client(), worker, loopback.until)
            (intent,), (entry,) = worker.records()
            assert (entry.usage_source, entry.usage, entry.answer_id) == ("unknown", intent.ask_usage, "resp_1")

    loopback.run(test)


def test_a_team_sees_only_its_models(rooms: Any, loopback: Any, tmp_path: Path) -> None:
    items = [b'{"id":"gpt-4o", "object":"model"}', b'{"id":"gpt-9"}', b'{"id":"o3-mini"}']

    async def test() -> None:
        async with loopback.origin() as origin, rooms.worker(origin.url, tmp_path, models=("gpt-4o",)) as worker:
            origin.answers.append(counted(b'{"object":"list","data":[' + b",".join(items) + b"]}"))
            client = loopback.client()
            await rooms.through(rooms.call("GET", "/v1/models"), client, worker, loopback.until)
            assert client.body == b'{"object":"list","data":[' + items[0] + b"]}"
            assert client.content_length is None
            hidden = loopback.client()
            await rooms.through(rooms.call("GET", "/v1/models/o3-mini"), hidden, worker, loopback.until)
            assert (hidden.status, hidden.error.code) == (404, "model_not_found")

    loopback.run(test)


# Faults of ours


def test_a_fault_inside_the_path_still_leaves_an_entry_and_gives_the_connection_back(rooms: Any, loopback: Any, tmp_path: Path) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, rooms.worker(origin.url, tmp_path) as worker:
            client = loopback.client()
            ran = rooms.run(rooms.call(body=CHAT), client, worker)
            await loopback.until(lambda: origin.asked and origin.asked[0].whole)
            worker.clock_fails_once = True  # so that the next step of the path cannot be taken
            origin.connections[0].send(counted(ANSWER))
            await loopback.until(lambda: ran.over)
            assert str(ran.error) == "a fault of ours"
            (intent,), (entry,) = worker.records()
            assert (entry.outcome, entry.usage_source, entry.usage) == ("gateway_error", "unknown", intent.ask_usage)
            assert worker.taken() == {"group rpm": 1, "group tpm": tokens_of(intent.ask_usage)}
            assert worker.pool.busy == 0
            assert worker.house.tally.in_flight == {}

    loopback.run(test)
