"""Errors: OpenAI's pass as they are, the gateway's own are such that the official client does the right thing."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from openai import DefaultHttpxClient

CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "What is on my bill?"}]}
ENDPOINTS: list[Any] = [
    pytest.param("/chat/completions", CHAT, id="chat"),
    pytest.param("/chat/completions", CHAT | {"stream": True}, id="streamed chat"),
    pytest.param("/responses", {"model": "gpt-4o", "input": "What is on my bill?"}, id="responses"),
    pytest.param("/embeddings", {"model": "text-embedding-3-small", "input": "bill"}, id="embeddings"),
]
CLASSES: dict[int, type[openai.APIStatusError]] = {
    400: openai.BadRequestError, 403: openai.PermissionDeniedError, 404: openai.NotFoundError,
    409: openai.ConflictError, 422: openai.UnprocessableEntityError, 429: openai.RateLimitError, 500: openai.InternalServerError,
    503: openai.InternalServerError,
}  # fmt: skip


@pytest.fixture
def watched() -> Any:
    """An HTTP client for the SDK that keeps the status of every answer, retries included."""

    class Watched:
        def __init__(self) -> None:
            self.statuses: list[int] = []
            self.http_client = DefaultHttpxClient(event_hooks={"response": [lambda answer: self.statuses.append(answer.status_code)]})

    made = Watched()
    yield made
    made.http_client.close()


@pytest.mark.parametrize("status", sorted(CLASSES))
@pytest.mark.parametrize("path, body", ENDPOINTS)
def test_openais_errors_pass_byte_for_byte(journey: Any, path: str, body: Any, status: int) -> None:
    fault = {"X-Simulator-Fault": f"status={status};retry_after_ms=1500"}
    ours, theirs = (journey.send("POST", path, body, fault, direct=direct) for direct in (False, True))
    assert (ours.status, ours.body) == (status, theirs.body)
    assert b'"error"' in ours.body
    same = ("content-type", "retry-after", "retry-after-ms", "x-should-retry")
    assert {name: ours.headers.get(name) for name in same} == {name: theirs.headers.get(name) for name in same}
    assert (ours.headers.get("retry-after-ms") == "1500") == (status in (429, 503))
    assert "openai-organization" not in ours.headers
    entry = journey.entry()
    assert (entry["status"], entry["usage_source"], entry["cost_picousd"], entry["usage"]) == (status, "not_billed", 0, {})
    assert entry["outcome"] == ("client_error" if status < 500 else "upstream_error")


def test_a_refusal_of_the_account_is_not_told_as_one_of_the_team(journey: Any) -> None:
    with pytest.raises(openai.InternalServerError) as raised:
        journey.client().chat.completions.create(**CHAT, extra_headers={"X-Simulator-Fault": "status=401"})
    assert (raised.value.status_code, raised.value.code) == (502, "account_refused")
    assert "operators" in raised.value.message
    entry = journey.entry()
    assert (entry["status"], entry["usage_source"], entry["outcome"], entry["retry_count"]) == (401, "not_billed", "upstream_error", 0)


@pytest.mark.parametrize("status", sorted(CLASSES))
def test_openais_errors_are_the_sdks_own_classes(journey: Any, status: int) -> None:
    with pytest.raises(CLASSES[status]) as raised:
        journey.client().chat.completions.create(**CHAT, extra_headers={"X-Simulator-Fault": f"status={status}"})
    assert type(raised.value) is CLASSES[status]
    assert raised.value.request_id == journey.lines(1)[0].request_id


def test_a_429_of_openai_is_retried_by_the_client_and_each_try_is_booked(journey: Any, watched: Any) -> None:
    client = journey.client(max_retries=2, http_client=watched.http_client)
    journey.place.queue_faults("status=429;retry_after_ms=20", times=2)
    assert client.chat.completions.create(**CHAT).choices
    assert watched.statuses == [429, 429, 200]
    entries = journey.entries()
    assert [(entry["status"], entry["retry_count"], entry["usage_source"]) for entry in entries] == [
        (429, 0, "not_billed"), (429, 1, "not_billed"), (200, 2, "reported"),
    ]  # fmt: skip


REFUSED: list[Any] = [
    pytest.param("POST", "/chat/completions", b"", 400, None, id="no body"),
    pytest.param("POST", "/chat/completions", b'{"model": "gpt-4o", ', 400, None, id="half a body"),
    pytest.param("POST", "/chat/completions", b"[]", 400, None, id="a body that is no object"),
    pytest.param("POST", "/chat/completions", b'{"model":"gpt-4o","model":"o3","messages":[]}', 400, None, id="a key twice"),
    pytest.param("POST", "/chat/completions", b'{"model":"gpt-4o","stream":"yes","messages":[]}', 400, None, id="a stream that is a word"),
    pytest.param("POST", "/chat/completions", b'{"model":7,"messages":[]}', 400, None, id="a model that is a number"),
    pytest.param("POST", "/chat/completions", b'{"messages":[]}', 400, None, id="no model"),
    pytest.param("POST", "/chat/completions", b'{"model":"gpt-9","messages":[]}', 404, "model_not_found", id="a model without a card"),
    pytest.param("POST", "/responses", b"\xff\xfe", 400, None, id="a body that is no text"),
    pytest.param("GET", "/../secret", None, 404, None, id="a path that climbs"),
    pytest.param("GET", "/models/gpt-9", None, 404, "model_not_found", id="a look at a model without a card"),
]


@pytest.mark.parametrize("method, path, body, status, code", REFUSED)
def test_what_cannot_be_served_is_told_in_openais_shape(
    journey: Any, check_error: Any, method: str, path: str, body: Any, status: int, code: str | None
) -> None:
    answer = journey.send(method, path, body)
    error = check_error(answer, status, answer.json()["error"]["code"] if code is None else code)
    assert error["message"].endswith((".", ")"))
    assert (journey.entries(), journey.lines()) == ([], [])


@pytest.mark.parametrize(
    "authorization, code",
    [
        pytest.param(None, None, id="no key"),
        pytest.param("Bearer gk-voice-" + "0" * 64, "invalid_api_key", id="a wrong key"),
        pytest.param("Bearer sk-upstream-5e1f0c8a7b3d49d2", "invalid_api_key", id="the account's own key"),
        pytest.param("Basic dXNlcjpwYXNz", None, id="another way to say who one is"),
    ],
)
def test_who_has_no_valid_key_is_turned_away(journey: Any, check_error: Any, authorization: str | None, code: str | None) -> None:
    answer = journey.send("POST", "/chat/completions", CHAT, {"Authorization": authorization or ""})
    error = check_error(answer, 401, code)
    assert "0" * 20 not in error["message"]
    assert (journey.entries(), journey.lines()) == ([], [])


def test_the_sdk_raises_its_own_classes_for_the_gateways_refusals(journey: Any) -> None:
    with pytest.raises(openai.AuthenticationError):
        journey.client(api_key="gk-nobody").models.list()
    with pytest.raises(openai.NotFoundError) as unknown:
        journey.client().chat.completions.create(model="gpt-9", messages=CHAT["messages"])
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError):
        journey.client().chat.completions.create(**CHAT, extra_body={"stream_options": 5, "stream": True})
    with pytest.raises(openai.InternalServerError) as unreachable:
        journey.client("lost").chat.completions.create(**CHAT)
    assert (unreachable.value.status_code, unreachable.value.code) == (502, "upstream_unreachable")
    assert journey.entries() == []  # nothing reached OpenAI


def test_a_tier_that_a_card_does_not_list_may_not_use_the_model(journey: Any, check_error: Any) -> None:
    journey.team("poor", tier="free")
    error = check_error(journey.send("POST", "/chat/completions", CHAT, team="poor"), 404, "model_not_found")
    assert "tier free" in error["message"]
    assert journey.lines() == []


def test_a_client_over_its_tokens_waits_as_told_and_succeeds(journey: Any, watched: Any) -> None:
    """600,000 tokens a minute are 10 a millisecond: 2,000 too many, and the ask of the next call, are repaid in some 300 ms."""
    journey.team("chatty", limits={"gpt-4o": {"tpm": 600_000}})
    client = journey.client("chatty", max_retries=2, http_client=watched.http_client)
    client.chat.completions.create(**CHAT, extra_headers={"X-Simulator-Usage": "input_text=602000;output_text=10"})
    over = journey.send("POST", "/chat/completions", CHAT, team="chatty")
    assert over.status == 429
    assert (over.json()["error"]["code"], over.json()["error"]["type"]) == ("rate_limit_exceeded", "tokens")
    assert 0 < int(over.headers["retry-after-ms"]) < 1_000
    assert (over.headers["retry-after"], over.headers.get("x-should-retry")) == ("1", None)
    assert over.headers["x-ratelimit-remaining-tokens"] == "0"
    assert "organization chatty on tokens per min (TPM): Limit 600000, Used " in over.json()["error"]["message"]
    assert client.chat.completions.create(**CHAT).choices
    assert watched.statuses == [200, 429, 200]
    first, second = journey.entries()
    assert (first["retry_count"], second["retry_count"]) == (0, 1)


def test_a_client_over_its_requests_waits_as_told_and_succeeds(journey: Any, watched: Any) -> None:
    """240 requests a minute: one is free again after 250 ms."""
    journey.team("busy", limits={"gpt-4o": {"rpm": 240}})

    async def fill() -> list[Any]:
        async with journey.async_client("busy") as client:
            return await asyncio.gather(*(client.chat.completions.create(**CHAT) for _ in range(260)), return_exceptions=True)

    answers = asyncio.run(fill())
    refused = [answer for answer in answers if isinstance(answer, openai.RateLimitError)]
    assert 1 <= len(refused) <= 20
    assert {error.type for error in refused} == {"requests"}
    assert all("on requests per min (RPM): Limit 240, Used 240, Requested 1." in error.message for error in refused)
    assert len(answers) - len(refused) == sum(isinstance(answer, openai.types.chat.ChatCompletion) for answer in answers)
    client = journey.client("busy", max_retries=2, http_client=watched.http_client)
    for _ in range(4):  # 250 ms each: at least one has to wait
        assert client.chat.completions.create(**CHAT).choices
    assert 429 in watched.statuses
    assert watched.statuses.count(200) == 4
    assert len(journey.entries()) == len(answers) - len(refused) + 4


LONG = {"messages": [{"role": "user", "content": "bill " * 2_000}]}
HOPELESS: list[Any] = [
    pytest.param(
        {"tpm": 1_000}, {"messages": [{"role": "user", "content": "bill " * 2_000}]}, "Request too large", "tokens", id="too large"
    ),
    pytest.param({"rpd": 1}, {}, "requests per day (RPD): Limit 1, Used 1, Requested 1.", "requests", id="none left today"),
]


@pytest.mark.parametrize("limits, asked, message, kind", HOPELESS)
def test_what_will_not_succeed_soon_is_not_retried(journey: Any, watched: Any, limits: Any, asked: Any, message: str, kind: str) -> None:
    journey.team("hopeless", limits={"gpt-4o": limits})
    client = journey.client("hopeless", max_retries=2, http_client=watched.http_client)
    if "rpd" in limits:
        client.chat.completions.create(**CHAT)
    with pytest.raises(openai.RateLimitError) as refused:
        client.chat.completions.create(**CHAT | asked)
    assert message in refused.value.message
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert (refused.value.type, refused.value.code) == (kind, "rate_limit_exceeded")
    assert watched.statuses.count(429) == 1
    assert len(journey.entries()) == len(watched.statuses) - 1


def test_a_minute_is_still_worth_waiting_for(journey: Any) -> None:
    journey.team("slow", limits={"gpt-4o": {"rpm": 1}})
    journey.client("slow").chat.completions.create(**CHAT)
    refused = journey.send("POST", "/chat/completions", CHAT, team="slow")
    assert refused.status == 429
    assert 59_000 < int(refused.headers["retry-after-ms"]) <= 60_000
    assert "x-should-retry" not in refused.headers


def test_shadow_lets_everything_pass_and_says_what_it_would_have_refused(journey: Any) -> None:
    journey.team("shadowed", limits={"gpt-4o": {"rpd": 1}}, mode="shadow")
    client = journey.client("shadowed")
    assert all(client.chat.completions.create(**CHAT).choices for _ in range(3))
    assert [entry["marks"] for entry in journey.entries()] == [[], ["shadow:group:rpd"], ["shadow:group:rpd"]]


def test_a_limit_of_all_models_and_one_of_a_key_hold_too(journey: Any) -> None:
    journey.team("bounded", limits_all_models={"rpd": 2})
    client = journey.client("bounded")
    client.chat.completions.create(**CHAT)
    client.embeddings.create(model="text-embedding-3-small", input="bill")
    with pytest.raises(openai.RateLimitError, match="of team bounded over all models"):
        client.responses.create(model="o3", input="bill")
    assert len(journey.entries()) == 2
