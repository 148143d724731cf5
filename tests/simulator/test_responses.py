"""The Responses API through the official clients: objects, events, what is stored, what runs in the background."""

from __future__ import annotations

import asyncio
import json

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from gateway.simulator import Simulator, in_thread
from gateway.units import Meter

RESPONSE = {"model": "gpt-4.1", "input": "What is on my bill?"}
LONG = "Please read my bill to me. " * 400


def picousd(usage, given, cached, written, output):
    """What a ResponseUsage costs, by hand: rates in picoUSD per token."""
    details = usage.input_tokens_details
    plain = usage.input_tokens - details.cached_tokens - details.cache_write_tokens
    tokens = (plain, details.cached_tokens, details.cache_write_tokens, usage.output_tokens)
    return sum(n * rate for n, rate in zip(tokens, (given, cached, written, output), strict=True))


@pytest.mark.parametrize(
    "model, tier, rates",
    [
        pytest.param("gpt-4.1", None, (2_000_000, 500_000, 0, 8_000_000), id="gpt-4.1"),
        pytest.param("gpt-6-sol", None, (2_000_000, 200_000, 2_500_000, 10_000_000), id="gpt-6-sol writes to the cache"),
        pytest.param("gpt-6-sol", "priority", (4_000_000, 400_000, 5_000_000, 20_000_000), id="gpt-6-sol at priority"),
        pytest.param("gpt-6-astra", "ultrafast", (60_000_000, 6_000_000, 75_000_000, 300_000_000), id="gpt-6-astra ultrafast"),
        pytest.param("o4-mini", "flex", (550_000, 138_000, 0, 2_200_000), id="o4-mini at flex"),
    ],
)
def test_the_account_costs_what_the_client_saw(simulator, client, last_line, model, tier, rates):
    for question in range(12):
        given = {"service_tier": tier} if tier else {}
        answer = client.responses.create(model=model, input=f"{question} {LONG}", **given)
        assert last_line().cost_picousd == picousd(answer.usage, *rates)
        assert last_line().answer_id == answer.id
        assert answer.service_tier == (tier or "default")
        assert len(answer.output_text.split()) == answer.usage.output_tokens - answer.usage.output_tokens_details.reasoning_tokens
    assert any(Meter.CACHED_TEXT in line.quantities for line in simulator.account())
    assert any(Meter.CACHE_WRITE_TEXT in line.quantities for line in simulator.account()) == bool(rates[2])


def test_a_cache_kept_for_12_hours_costs_twice_as_much_to_write(client, last_line):
    usage = client.responses.create(
        model="gpt-6-sol", input="x", extra_headers={"X-Simulator-Usage": "cache_write_text=1000;cache_write_12h_text=100;output_text=1"}
    ).usage
    kept = usage.input_tokens_details.cache_write_tokens_details
    assert (kept.ttl_30m_tokens, kept.ttl_12h_tokens, usage.input_tokens) == (1000, 100, 1100)
    assert last_line().cost_picousd == 1000 * 2_500_000 + 100 * 5_000_000 + 10_000_000
    lines = []
    for question in range(12):
        client.responses.create(model="gpt-6-sol", input=f"{question} {LONG}", extra_body={"prompt_cache_options": {"ttl": "12h"}})
        lines.append(last_line().quantities)
    assert any(Meter.CACHE_WRITE_12H_TEXT in quantities for quantities in lines)
    assert not any(Meter.CACHE_WRITE_TEXT in quantities for quantities in lines)


def test_a_stream_has_names_numbers_and_one_bill(client, last_line):
    with client.responses.create(**{**RESPONSE, "model": "gpt-5"}, stream=True) as stream:
        events = list(stream)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events if event.type != "response.output_text.delta"] == [
        "response.created", "response.in_progress",
        "response.output_item.added", "response.output_item.done",  # reasoning
        "response.output_item.added", "response.content_part.added",
        "response.output_text.done", "response.content_part.done", "response.output_item.done",
        "response.completed",
    ]  # fmt: skip
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    last = events[-1].response
    assert events[0].response.usage is None
    assert text == last.output_text
    assert last_line().cost_picousd == picousd(last.usage, 1_250_000, 125_000, 0, 10_000_000)
    assert (last_line().streamed, last_line().complete, last_line().answer_id) == (True, True, last.id)


def test_a_stream_is_framed_as_openai_does(http_client):
    _, headers, data = http_client.send("POST", "/v1/responses", {**RESPONSE, "stream": True})
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    *events, rest = data.split(b"\n\n")
    assert rest == b""
    for event in events:
        name, body = event.split(b"\n")
        assert name.removeprefix(b"event: ").decode() == json.loads(body.removeprefix(b"data: "))["type"]


def test_a_cap_makes_it_incomplete(client):
    answer = client.responses.create(**RESPONSE, max_output_tokens=5)
    assert (answer.status, answer.incomplete_details.reason, answer.usage.output_tokens) == ("incomplete", "max_output_tokens", 5)
    with client.responses.create(**RESPONSE, max_output_tokens=5, stream=True) as stream:
        assert list(stream)[-1].type == "response.incomplete"


def test_tools_are_told_and_billed(client, last_line):
    tools = [
        {"type": "web_search"},
        {"type": "file_search", "vector_store_ids": ["vs_1"]},
        {"type": "code_interpreter", "container": {"type": "auto", "memory_limit": "4g"}},
    ]
    answer = client.responses.create(**RESPONSE, tools=tools)
    searches = [item for item in answer.output if item.type == "web_search_call" and item.action.type == "search"]
    containers = {item.container_id for item in answer.output if item.type == "code_interpreter_call"}
    assert answer.tool_usage.web_search.num_requests == len(searches) > 0
    assert len([item for item in answer.output if item.type == "file_search_call"]) == len(containers) == 1
    fees = len(searches) * 10_000_000_000 + 2_500_000_000 + 120_000_000_000
    assert last_line().cost_picousd == picousd(answer.usage, 2_000_000, 500_000, 0, 8_000_000) + fees


@pytest.mark.parametrize(
    "model, search_picousd, rates",
    [
        pytest.param("gpt-4.1", 25_000_000_000, (2_000_000, 500_000, 0, 8_000_000), id="dearer on a model that does not reason"),
        pytest.param("gpt-5", 10_000_000_000, (1_250_000, 125_000, 0, 10_000_000), id="the same on one that does"),
    ],
)
def test_preview_search_has_a_price_of_its_own(client, last_line, model, search_picousd, rates):
    answer = client.responses.create(model=model, input="news?", tools=[{"type": "web_search_preview"}])
    searches = answer.tool_usage.web_search.num_requests
    assert last_line().quantities[Meter.WEB_SEARCH_PREVIEW_CALLS] == searches > 0
    assert last_line().cost_picousd == picousd(answer.usage, *rates) + searches * search_picousd


def test_tools_are_streamed_before_the_message(client, last_line):
    with client.responses.create(**RESPONSE, tools=[{"type": "web_search"}], stream=True) as stream:
        types = [event.type for event in stream]
    assert types.index("response.web_search_call.completed") < types.index("response.output_text.delta")
    assert last_line().quantities[Meter.WEB_SEARCH_CALLS] == last_line().cost_picousd // 10_000_000_000


def test_what_is_stored_can_be_read_again_for_nothing(simulator, client, last_line):
    made = client.responses.create(model="gpt-4.1", input=[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}])
    again = client.responses.retrieve(made.id)
    assert again == made
    assert (last_line().kind, last_line().cost_picousd, last_line().method) == ("free", 0, "GET")
    items = client.responses.input_items.list(made.id).data
    assert [(item.role, item.content[0].type) for item in items] == [("user", "input_text"), ("assistant", "output_text")]
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)
    assert [line.kind for line in simulator.account()] == ["billed", "free", "free", "free", "refused"]


def test_what_is_not_stored_is_forgotten(client):
    made = client.responses.create(**RESPONSE, store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


def test_a_next_turn_pays_for_the_one_before(client):
    first = client.responses.create(**RESPONSE)
    alone = client.responses.create(**RESPONSE)
    second = client.responses.create(**RESPONSE, previous_response_id=first.id)
    assert second.usage.input_tokens == alone.usage.input_tokens + first.usage.total_tokens
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(**RESPONSE, previous_response_id="resp_none")
    assert (refused.value.code, refused.value.param) == ("previous_response_not_found", "previous_response_id")


def test_a_background_response_is_billed_once_when_it_is_done(simulator, client):
    made = client.responses.create(**RESPONSE, background=True, extra_headers={"X-Client-Request-Id": "gx-made"})
    assert (made.status, made.usage, made.output) == ("queued", None, [])
    assert simulator.account() == []
    assert client.responses.retrieve(made.id).status == "in_progress"
    done = client.responses.retrieve(made.id)
    assert (done.status, done.id) == ("completed", made.id)
    assert client.responses.retrieve(made.id).usage == done.usage
    (line,) = [line for line in simulator.account() if line.kind == "billed"]
    assert (line.client_request_id, line.method, line.path, line.answer_id) == ("gx-made", "POST", "/v1/responses", made.id)
    assert line.cost_picousd == picousd(done.usage, 2_000_000, 500_000, 0, 8_000_000)


def test_a_background_response_can_be_streamed_and_resumed(simulator, client):
    with client.responses.create(**RESPONSE, background=True, stream=True) as stream:
        events = list(stream)
    assert [event.type for event in events][:3] == ["response.created", "response.queued", "response.in_progress"]
    with client.responses.retrieve(events[0].response.id, stream=True, starting_after=3) as stream:
        resumed = list(stream)
    assert [event.sequence_number for event in resumed] == list(range(4, len(events)))
    assert resumed[-1].response.usage == events[-1].response.usage
    assert [line.kind for line in simulator.account()] == ["billed", "free"]


def test_a_background_response_runs_on_without_its_client(simulator, http_client, client):
    body = {**RESPONSE, "background": True, "stream": True}
    with pytest.raises(Exception, match="IncompleteRead"):
        http_client.send("POST", "/v1/responses", body, {"X-Simulator-Fault": "cut_after_events=1"})
    (line,) = simulator.account()
    assert (line.kind, line.complete) == ("billed", True)
    assert client.responses.retrieve(line.answer_id).usage.output_tokens == line.quantities[Meter.OUTPUT_TEXT]


def test_a_background_response_that_is_read_while_it_streams_is_billed_once(tmp_path):
    stall = {"X-Simulator-Fault": "stall_mid_stream=60000"}
    with (
        in_thread(journal=tmp_path / "account") as simulator,
        OpenAI(base_url=simulator.base_url, api_key="sk-x") as client,
        client.responses.create(**RESPONSE, background=True, stream=True, extra_headers=stall) as stream,
    ):
        response_id = next(stream).response.id
        assert [client.responses.retrieve(response_id).status for _ in range(2)] == ["in_progress", "completed"]
    assert [line.kind for line in simulator.account()] == ["free", "billed", "free"]


def test_a_queued_response_can_be_cancelled_and_costs_nothing(simulator, client):
    made = client.responses.create(**RESPONSE, background=True)
    assert client.responses.cancel(made.id).status == "cancelled"
    assert client.responses.retrieve(made.id).status == "cancelled"
    assert [(line.kind, line.cost_picousd) for line in simulator.account()] == [("free", 0)] * 3
    whole = client.responses.create(**RESPONSE)
    with pytest.raises(openai.BadRequestError):
        client.responses.cancel(whole.id)


def test_counting_costs_nothing_and_compacting_does(client, last_line):
    count = client.responses.input_tokens.count(**RESPONSE)
    assert (count.object, last_line().kind) == ("response.input_tokens", "free")
    usage = client.responses.compact(**RESPONSE).usage
    assert usage.input_tokens == count.input_tokens
    assert last_line().cost_picousd == picousd(usage, 2_000_000, 500_000, 0, 8_000_000)
    assert last_line().path == "/v1/responses/compact"


def test_compacting_tells_its_tier_only_when_asked(client, last_line):
    assert "service_tier" not in client.responses.compact(**RESPONSE).model_extra
    told = client.responses.compact(**RESPONSE, service_tier="fast")
    assert told.model_extra["service_tier"] == "priority"
    assert last_line().cost_picousd == picousd(told.usage, 3_500_000, 875_000, 0, 14_000_000)


def test_of_two_ways_to_search_the_first_is_used(client, last_line):
    answer = client.responses.create(**RESPONSE, tools=[{"type": "web_search"}, {"type": "web_search_preview"}])
    assert last_line().quantities[Meter.WEB_SEARCH_CALLS] == answer.tool_usage.web_search.num_requests
    assert Meter.WEB_SEARCH_PREVIEW_CALLS not in last_line().quantities


def test_a_stored_prompt_needs_no_model(client):
    assert client.responses.create(prompt={"id": "pmpt_1"}).model == "gpt-4.1"


@pytest.mark.parametrize(
    "change, status, code, param",
    [
        pytest.param({"model": None}, 400, None, "model", id="no model"),
        pytest.param({"model": "gpt-audio"}, 404, "model_not_found", None, id="a model of another endpoint"),
        pytest.param({"input": None}, 400, None, "input", id="no input"),
        pytest.param({"input": 5}, 400, None, "input", id="input that is none"),
        pytest.param({"tools": [5]}, 400, None, "tools", id="a tool that is none"),
        pytest.param(
            {"tools": [{"type": "code_interpreter", "container": {"memory_limit": "2g"}}]}, 400, None, "tools", id="no such container"
        ),
        pytest.param({"background": True, "store": False}, 400, None, "store", id="in the background and not stored"),
        pytest.param({"reasoning": "high"}, 400, None, "reasoning", id="reasoning that is no object"),
    ],
)
def test_what_is_wrong_is_refused(http_client, check_error, change, status, code, param):
    given, _, body = http_client.send("POST", "/v1/responses", {**RESPONSE, **change})
    assert check_error(given, body, status, code)["param"] == param


def test_the_asynchronous_client_streams(tmp_path):
    async def run() -> None:
        async with Simulator(journal=tmp_path / "account") as simulator:
            client = AsyncOpenAI(base_url=simulator.base_url, api_key="sk-test")
            async with client, client.responses.stream(**RESPONSE) as stream:
                final = await stream.get_final_response()
            (line,) = simulator.account()
        assert line.quantities[Meter.OUTPUT_TEXT] == final.usage.output_tokens

    asyncio.run(run())
