"""The Responses API by the official client: made, streamed, read again, cancelled, deleted; and never another team's."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import openai
import pytest

ASK: dict[str, Any] = {"model": "gpt-4o", "input": "What is on my bill?"}
MASKED = re.compile(rb"(resp|msg|rs|ws|fs|ci|cntr|cmp)_[0-9a-z_]+|\"(created_at|completed_at)\":\d+")


def masked(body: bytes) -> bytes:
    return MASKED.sub(b"~", body)


def tokens_in(entry: dict[str, Any]) -> tuple[int, int]:
    usage = entry["usage"]
    return sum(n for meter, n in usage.items() if meter.startswith(("input_", "cached_", "cache_write_"))), usage.get("output_text", 0)


@pytest.mark.parametrize(
    "asked, fees",
    [
        pytest.param({}, set(), id="text"),
        pytest.param({"model": "o3"}, set(), id="a model that reasons"),
        pytest.param({"model": "gpt-5-mini", "service_tier": "flex"}, set(), id="at the flex tier"),
        pytest.param({"max_output_tokens": 5}, set(), id="cut off by its cap"),
        pytest.param({"input": "Read me my bill. " * 900}, set(), id="a long prompt"),
        pytest.param({"tools": [{"type": "web_search"}]}, {"web_search_calls"}, id="web searches"),
        pytest.param({"tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]}, {"file_search_calls"}, id="file searches"),
        pytest.param(
            {"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]}, {"container_sessions"}, id="code in a container"
        ),
    ],
)
def test_a_response_is_booked_as_reported_whole_and_streamed(journey: Any, asked: dict[str, Any], fees: set[str]) -> None:
    client = journey.client()
    response = client.responses.create(**ASK | asked)
    with client.responses.create(**ASK | asked, stream=True) as stream:
        events = list(stream)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    final = events[-1].response
    assert (final.status, final.usage) == (response.status, response.usage)
    first, second = journey.entries()
    assert first["usage_source"] == second["usage_source"] == "reported"
    assert tokens_in(first) == tokens_in(second) == (response.usage.input_tokens, response.usage.output_tokens)
    assert (first["answer_id"], second["answer_id"]) == (response.id, final.id)
    assert {meter for meter in first["usage"] if meter.endswith(("_calls", "_sessions"))} == fees
    assert first["cost_picousd"] == second["cost_picousd"] > 0


@pytest.mark.parametrize("streamed", [pytest.param(False, id="whole"), pytest.param(True, id="streamed")])
def test_every_byte_is_openais(journey: Any, streamed: bool) -> None:
    body = ASK | {"model": "o3", "stream": streamed}
    ours, theirs = (journey.send("POST", "/responses", body, direct=direct) for direct in (False, True))
    assert masked(ours.body) == masked(theirs.body)
    assert ours.headers["content-type"] == theirs.headers["content-type"]


def test_a_stored_response_is_there_for_the_team_that_made_it(journey: Any) -> None:
    client = journey.client()
    made = client.responses.create(**ASK)
    read = client.responses.retrieve(made.id)
    assert (read.id, read.usage, read.output_text) == (made.id, made.usage, made.output_text)
    assert [item.type for item in client.responses.input_items.list(made.id)] == ["message"]
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError) as gone:
        client.responses.retrieve(made.id)
    assert gone.value.body == {  # OpenAI's own words: it was let through
        "message": f"Response with id '{made.id}' not found.",
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }
    entries = journey.entries()
    assert [entry["endpoint"] for entry in entries] == [
        "responses", "responses/retrieve", "responses/input_items", "responses/delete", "responses/retrieve",
    ]  # fmt: skip
    assert [entry["usage_source"] for entry in entries] == ["reported", *["not_billed"] * 4]
    assert [entry["cost_picousd"] for entry in entries[1:]] == [0] * 4


STRANGERS: list[Any] = [
    pytest.param("GET", "", id="retrieve"),
    pytest.param("GET", "?stream=true", id="stream again"),
    pytest.param("DELETE", "", id="delete"),
    pytest.param("POST", "/cancel", id="cancel"),
    pytest.param("GET", "/input_items", id="input items"),
]


@pytest.mark.parametrize("method, path", STRANGERS)
def test_for_another_team_a_stored_response_is_not_there(journey: Any, check_error: Any, method: str, path: str) -> None:
    made = journey.client().responses.create(**ASK, background=True)
    answer = journey.send(method, f"/responses/{made.id}{path}", team="search")
    check_error(answer, 404, "not_found")
    unknown = journey.send(method, f"/responses/resp_nobody{path}", team="search")
    assert unknown.body == answer.body.replace(made.id.encode(), b"resp_nobody")  # it does not tell whether there is one
    assert len(journey.lines(0)) == 0  # nothing of it reached OpenAI; the background response is written when it ends
    assert journey.client().responses.cancel(made.id).status == "cancelled"
    assert len(journey.entries()) == 2


def test_another_teams_response_cannot_be_continued(journey: Any, check_error: Any) -> None:
    made = journey.client().responses.create(**ASK)
    body = {"model": "gpt-4o", "input": "And now?", "previous_response_id": made.id}
    error = check_error(journey.send("POST", "/responses", body, team="search"), 400, "previous_response_not_found")
    assert error["param"] == "previous_response_id"
    continued = journey.client().responses.create(**body)
    assert continued.usage.input_tokens > made.usage.input_tokens
    assert [entry["team"] for entry in journey.entries()] == ["voice", "voice"]


def test_what_another_key_of_the_team_made_is_the_teams(journey: Any) -> None:
    made = journey.client().responses.create(**ASK)
    key, other_key = journey.place.keys["voice"], "gk-voice-" + "1" * 64
    journey.team("voice", more_keys={"voice-2": other_key})
    try:
        assert journey.client(api_key=other_key).responses.retrieve(made.id).id == made.id
    finally:
        journey.team("voice")
    assert [entry["key"] for entry in journey.entries()] == ["voice-1", "voice-2"]
    assert journey.place.keys["voice"] == key


def test_a_background_response_is_billed_once_when_it_is_done(journey: Any) -> None:
    client = journey.client()
    made = client.responses.create(**ASK, background=True)
    assert made.status == "queued"
    (waiting,) = journey.entries()
    assert (waiting["usage_source"], waiting["answer_id"], waiting["revision"]) == ("unknown", made.id, 1)
    assert waiting["cost_picousd"] > 0  # the most it may cost, until somebody knows
    statuses = [client.responses.retrieve(made.id) for _ in range(4)]
    assert [read.status for read in statuses] == ["in_progress", "completed", "completed", "completed"]
    first, *polls = journey.entries()
    assert (first["usage_source"], first["revision"], first["exchange_id"]) == ("reported", 2, waiting["exchange_id"])
    assert tokens_in(first) == (statuses[-1].usage.input_tokens, statuses[-1].usage.output_tokens)
    assert first["cost_picousd"] != waiting["cost_picousd"]
    assert [(poll["usage"], poll["cost_picousd"]) for poll in polls] == [({}, 0)] * 4


def test_a_background_response_that_was_cancelled_is_not_billed_as_done(journey: Any) -> None:
    client = journey.client()
    made = client.responses.create(**ASK, background=True)
    assert client.responses.cancel(made.id).status == "cancelled"
    assert client.responses.retrieve(made.id).status == "cancelled"
    first, cancel, poll = journey.entries()
    assert first["usage_source"] == "unknown"  # how much was generated before, nobody says
    assert (cancel["endpoint"], poll["endpoint"]) == ("responses/cancel", "responses/retrieve")
    assert cancel["cost_picousd"] == poll["cost_picousd"] == 0


def test_a_streamed_background_response_can_be_taken_up_again(journey: Any) -> None:
    client = journey.client()
    made = client.responses.create(**ASK, background=True)
    with client.responses.retrieve(made.id, stream=True, starting_after=2) as stream:
        events = list(stream)
    assert (events[0].sequence_number, events[-1].type) == (3, "response.completed")
    first, again = journey.entries()
    assert (first["usage_source"], again["usage_source"]) == ("reported", "not_billed")
    assert tokens_in(first) == (events[-1].response.usage.input_tokens, events[-1].response.usage.output_tokens)


def test_counting_is_free_and_compacting_is_not(journey: Any) -> None:
    client = journey.client()
    counted = client.responses.input_tokens.count(model="gpt-4o", input="What is on my bill?")
    compacted = client.responses.compact(model="gpt-4o", input=[{"role": "user", "content": "What is on my bill?"}])
    count, compact = journey.entries()
    assert counted.input_tokens > 0
    assert (count["endpoint"], count["usage_source"], count["cost_picousd"]) == ("responses/input_tokens", "not_billed", 0)
    assert (compact["endpoint"], compact["usage_source"]) == ("responses/compact", "reported")
    assert tokens_in(compact) == (compacted.usage.input_tokens, compacted.usage.output_tokens)
    assert compact["cost_picousd"] > 0


def test_asynchronous_conversations_each_continue_their_own(journey: Any) -> None:
    async def talk(client: Any, number: int) -> list[str]:
        first = await client.responses.create(model="gpt-4o", input=f"Customer {number}")
        stream = await client.responses.create(model="gpt-4o", input="Go on.", previous_response_id=first.id, stream=True)
        last = [event async for event in stream][-1].response
        read = await client.responses.retrieve(last.id)
        assert read.previous_response_id == first.id
        return [first.id, last.id]

    async def story() -> list[list[str]]:
        async with journey.async_client() as client:
            return await asyncio.gather(*(talk(client, number) for number in range(25)))

    made = {answer_id for pair in asyncio.run(story()) for answer_id in pair}
    entries = journey.entries()
    assert {entry["answer_id"] for entry in entries if entry["endpoint"] == "responses"} == made
    assert (len(made), len(entries)) == (50, 75)
