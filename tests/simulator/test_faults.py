"""Each fault does what it says, on the socket, and the account says what was billed."""

from __future__ import annotations

import json
import socket
from contextlib import closing

import openai
import pytest
from openai import OpenAI

from gateway.simulator import Pace, in_thread, read_account
from gateway.simulator.account import AccountWriter
from gateway.simulator.call import Answer, Call, Step
from gateway.simulator.delivery import Ending, Progress, plan_of
from gateway.simulator.desk import Desk
from gateway.simulator.draw import Draw
from gateway.simulator.faults import MS_MAX, ORDERS_MAX, READERS, Faults, parse
from gateway.simulator.refusal import Refusal
from gateway.units import Meter

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "What is on my bill?"}]}
STREAM = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
RESPONSE = {"model": "gpt-4.1", "input": "What is on my bill?"}


def connect(simulator, body, fault="", path="/v1/chat/completions"):
    """A connection on which one request has been sent."""
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-x\r\n"
        f"Content-Length: {len(data)}\r\nX-Simulator-Fault: {fault}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", simulator.port), timeout=10)
    connection.sendall(head.encode() + data)
    return closing(connection)


def until_closed(connection):
    """All bytes until the simulator closes the connection."""
    received = b""
    while part := connection.recv(65536):
        received += part
    return received


def unchunked(data):
    """(the chunks' content, what is left that is no chunk)."""
    content = b""
    while True:
        size, found, rest = data.partition(b"\r\n")
        try:
            length = int(size, 16)
        except ValueError:
            return content, data
        if not found or not length:
            return content, data
        content, data = content + rest[:length], rest[length + 2 :]


def served(simulator, body, fault, path="/v1/chat/completions"):
    """(head, body) as they were on the wire until the connection closed."""
    with connect(simulator, body, fault, path) as connection:
        head, _, rest = until_closed(connection).partition(b"\r\n\r\n")
    return head, rest


@pytest.fixture
def whole(simulator, client):
    """The line of CHAT when nothing goes wrong."""
    client.chat.completions.create(**CHAT)
    return simulator.account()[-1]


@pytest.mark.parametrize(
    "status, raised", [(429, openai.RateLimitError), (500, openai.InternalServerError), (503, openai.InternalServerError)]
)
def test_a_status_is_answered_and_costs_nothing(client, last_line, status, raised):
    with pytest.raises(raised) as error:
        client.chat.completions.create(**CHAT, extra_headers={"X-Simulator-Fault": f"status={status};retry_after_ms=1500"})
    assert set(error.value.body) == {"message", "type", "param", "code"}
    assert (last_line().kind, last_line().cost_picousd, last_line().status) == ("refused", 0, status)
    if status != 500:
        assert (error.value.response.headers["retry-after"], error.value.response.headers["retry-after-ms"]) == ("2", "1500")


def test_a_rate_limit_has_openais_words(client):
    with pytest.raises(openai.RateLimitError) as error:
        client.chat.completions.create(**CHAT, extra_headers={"X-Simulator-Fault": "status=429;retry_after_ms=644"})
    assert (error.value.type, error.value.code) == ("tokens", "rate_limit_exceeded")
    assert "Limit 30000, Used 30000, Requested 322. Please try again in 644ms." in error.value.message


def test_the_sdk_retries_what_was_queued_once(simulator, client):
    simulator.queue("status=429", path="/v1/chat/completions")
    client.with_options(max_retries=1).chat.completions.create(**CHAT)
    assert [line.kind for line in simulator.account()] == ["refused", "billed"]


def test_faults_are_queued_by_path_and_times(http_client, simulator):
    order = {"path": "/chat/completions", "faults": ["status=500"], "times": 2}
    status, _, body = http_client.send("POST", "/simulator/faults", order)
    assert (status, json.loads(body)) == (200, {"queued": [{**order, "path": "/v1/chat/completions"}]})
    paths = ("/v1/responses", "/chat/completions", "/v1/chat/completions")
    assert [http_client.send("POST", path, {**CHAT, **RESPONSE})[0] for path in paths] == [200, 500, 500]
    assert http_client.send("POST", "/v1/chat/completions", CHAT)[0] == 200
    simulator.queue("status=503", times=5)
    assert http_client.send("GET", "/v1/models")[0] == 503
    assert json.loads(http_client.send("GET", "/simulator/faults")[2])["queued"][0]["times"] == 4
    assert json.loads(http_client.send("DELETE", "/simulator/faults")[2]) == {"queued": []}
    assert http_client.send("GET", "/v1/models")[0] == 200


@pytest.mark.parametrize("order", [{}, {"faults": ["nonsense"]}, {"faults": ["status=1"]}, {"faults": [], "times": 0}, []])
def test_an_order_that_cannot_be_is_refused(http_client, check_error, order):
    status, _, body = http_client.send("POST", "/simulator/faults", order)
    check_error(status, body, 400)


def test_the_queue_is_bounded(simulator):
    for _ in range(ORDERS_MAX):
        simulator.queue("status=500")
    with pytest.raises(Refusal, match="queued already"):
        simulator.queue("status=500")


@pytest.mark.parametrize("count", [0, 1, 40])
def test_a_whole_answer_is_cut_after_bytes_and_billed(simulator, last_line, whole, count):
    head, body = served(simulator, CHAT, f"cut_after_bytes={count}")
    assert b"200 OK" in head
    assert f"Content-Length: {len(body) + 1}".encode() not in head
    assert len(body) == count
    line = last_line()
    assert (line.quantities, line.cost_picousd, line.complete, line.status) == (whole.quantities, whole.cost_picousd, False, 200)


def test_a_stream_is_cut_inside_an_event(simulator, last_line):
    _, body = served(simulator, STREAM, "cut_after_bytes=1000")
    content, rest = unchunked(body)
    assert (len(content), rest) == (1000, b"")
    words = sum(bool(json.loads(event[6:])["choices"][0]["delta"].get("content")) for event in content.split(b"\n\n")[:-1])
    assert last_line().quantities[Meter.OUTPUT_TEXT] == words + 1  # the one in the event that was cut had been generated
    assert last_line().complete is False


@pytest.mark.parametrize("events, words", [(0, None), (1, None), (2, 1), (4, 3)])
def test_a_stream_is_cut_after_events_and_billed_until_there(simulator, last_line, whole, events, words):
    head, body = served(simulator, STREAM, f"cut_after_events={events}")
    content, rest = unchunked(body)
    assert b"Transfer-Encoding: chunked" in head
    assert (content.count(b"\n\n"), rest) == (events, b"")
    line = last_line()
    assert line.quantities.get(Meter.OUTPUT_TEXT) == words
    assert line.quantities[Meter.INPUT_TEXT] == whole.quantities[Meter.INPUT_TEXT]
    assert line.cost_picousd == line.quantities[Meter.INPUT_TEXT] * 2_500_000 + (words or 0) * 10_000_000
    assert line.complete is False


def test_a_reasoning_stream_that_is_cut_bills_what_was_thought(simulator, last_line):
    served(simulator, {**STREAM, "model": "gpt-5"}, "cut_after_events=2")
    reasoning = last_line().details["reasoning_tokens"]
    assert last_line().quantities[Meter.OUTPUT_TEXT] == reasoning + 1


def test_a_stream_cut_after_its_usage_is_billed_whole(simulator, client, last_line, whole):
    events = whole.quantities[Meter.OUTPUT_TEXT] + 3  # the role, the words, the finish, the usage
    content, _ = unchunked(served(simulator, STREAM, f"cut_after_events={events}")[1])
    assert json.loads(content.split(b"\n\n")[-2][6:])["usage"]["completion_tokens"] == whole.quantities[Meter.OUTPUT_TEXT]
    assert b"[DONE]" not in content
    assert (last_line().quantities, last_line().complete) == (whole.quantities, False)


def test_it_closes_without_an_answer_and_bills(simulator, last_line, whole):
    with connect(simulator, CHAT, "close_without_answer") as connection:
        assert until_closed(connection) == b""
    assert (last_line().quantities, last_line().complete, last_line().status) == (whole.quantities, False, None)


def test_what_comes_is_no_http(simulator, last_line, whole):
    with connect(simulator, CHAT, "garbage_head") as connection:
        received = until_closed(connection)
    assert received
    assert not received.startswith(b"HTTP")
    assert (last_line().quantities, last_line().complete) == (whole.quantities, False)


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "stream"])
def test_a_chunk_has_no_size(simulator, body):
    head, received = served(simulator, body, "bad_chunk")
    content, rest = unchunked(received)
    assert b"Transfer-Encoding: chunked" in head
    assert content
    assert rest.startswith(b"zz\r\n")
    assert simulator.account()[-1].complete is False


def test_it_hangs_until_the_client_leaves_and_bills_nothing(simulator, wait_for_lines):
    with connect(simulator, CHAT, "hang_before_head"):
        pass
    (line,) = wait_for_lines(1)
    assert (line.kind, line.quantities, line.status, line.complete) == ("refused", {}, None, False)


def test_a_client_that_leaves_before_the_head_pays_for_its_input(simulator, wait_for_lines, whole):
    with connect(simulator, CHAT, "stall_before_head=60000"):
        pass
    line = wait_for_lines(2)[-1]
    assert (line.kind, line.complete, line.status) == ("billed", False, None)
    assert Meter.OUTPUT_TEXT not in line.quantities


def test_slow_bytes_come_one_by_one(simulator):
    with connect(simulator, CHAT, "slow_bytes=60000") as connection:
        received = b""
        while b"\r\n\r\n" not in received or received.endswith(b"\r\n\r\n"):
            received += connection.recv(65536)
    assert received.endswith(b"\r\n\r\n{")


def test_a_client_that_leaves_a_stream_is_billed_until_there(simulator, wait_for_lines, whole):
    with connect(simulator, STREAM, "stall_mid_stream=60000") as connection:
        received = b""
        while received.count(b"data: ") < 3:
            received += connection.recv(65536)
    line = wait_for_lines(2)[-1]
    assert (line.kind, line.streamed, line.complete) == ("billed", True, False)
    assert 0 < line.quantities[Meter.OUTPUT_TEXT] < whole.quantities[Meter.OUTPUT_TEXT]


def test_the_sdk_that_closes_a_stream_is_billed_until_there(simulator, client, wait_for_lines, whole):
    with client.chat.completions.create(**STREAM, extra_headers={"X-Simulator-Fault": "stall_mid_stream=60000"}) as stream:
        next(stream)
    line = wait_for_lines(2)[-1]
    assert line.complete is False
    assert line.quantities[Meter.OUTPUT_TEXT] < whole.quantities[Meter.OUTPUT_TEXT]


def test_a_client_that_leaves_before_the_usage_pays_for_all_that_was_said(simulator, wait_for_lines, whole):
    with connect(simulator, STREAM, "stall_before_end=60000") as connection:
        received = b""
        while b'"finish_reason":"stop"' not in received:
            received += connection.recv(65536)
    line = wait_for_lines(2)[-1]
    assert (line.quantities, line.complete) == (whole.quantities, False)


def test_a_client_that_leaves_while_a_whole_answer_is_made_pays_for_a_part(tmp_path, wait_for):
    with in_thread(journal=tmp_path / "account", pace=Pace(tokens_per_second=1, first_token_ms=60_000)) as simulator:
        with connect(simulator, CHAT):
            pass
        (line,) = wait_for(simulator, 1)
    assert (line.kind, line.complete, line.status) == ("billed", False, None)
    assert set(line.quantities) == {Meter.INPUT_TEXT}


def test_stopping_the_simulator_leaves_no_answer_out(tmp_path):
    with in_thread(journal=tmp_path / "account", pace=Pace(tokens_per_second=1)) as simulator, connect(simulator, STREAM) as connection:
        connection.recv(1)
    (line,) = simulator.account()
    assert (line.kind, line.complete) == ("billed", False)


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "stream"])
@pytest.mark.parametrize("fault", ["stall_before_head=1", "stall_mid_stream=1", "stall_before_end=1", "slow_bytes=1"])
def test_what_is_late_is_whole(http_client, last_line, whole, body, fault):
    status, headers, data = http_client.send("POST", "/v1/chat/completions", body, {"X-Simulator-Fault": fault})
    assert status == 200
    assert data.endswith(b"data: [DONE]\n\n") if body is STREAM else json.loads(data)["usage"]
    assert (last_line().quantities, last_line().complete) == (whole.quantities, True)
    assert headers["x-request-id"] == last_line().request_id


def test_a_paced_stream_is_whole(tmp_path):
    with (
        in_thread(journal=tmp_path / "account", pace=Pace(tokens_per_second=5000, first_token_ms=1)) as simulator,
        OpenAI(base_url=simulator.base_url, api_key="sk-x") as client,
    ):
        with client.chat.completions.create(**STREAM) as stream:
            usage = list(stream)[-1].usage
        assert client.chat.completions.create(**CHAT).usage == usage
    assert [line.complete for line in simulator.account()] == [True, True]


def test_a_chat_stream_breaks_with_an_error(client, last_line, whole):
    stream = client.chat.completions.create(**STREAM, extra_headers={"X-Simulator-Fault": "error_mid_stream"})
    with pytest.raises(openai.APIError, match="had an error"), stream:
        list(stream)
    assert last_line().complete is False
    assert 0 < last_line().quantities[Meter.OUTPUT_TEXT] < whole.quantities[Meter.OUTPUT_TEXT]


def test_a_response_stream_breaks_with_an_error_or_fails_with_its_bill(client, last_line):
    def last_event(fault):
        with client.responses.create(**RESPONSE, stream=True, extra_headers={"X-Simulator-Fault": fault}) as stream:
            events = list(stream)
        assert [event.sequence_number for event in events] == list(range(len(events)))
        return events[-1]

    assert last_event("error_mid_stream").type == "error"
    failed = last_event("error_mid_stream=failed")
    assert (failed.type, failed.response.status, failed.response.error.code) == ("response.failed", "failed", "server_error")
    assert failed.response.usage.output_tokens == last_line().quantities[Meter.OUTPUT_TEXT]
    assert last_line().complete is False


@pytest.mark.parametrize(
    "path, body, member",
    [("/v1/chat/completions", CHAT, "prompt_tokens"), ("/v1/responses", RESPONSE, "input_tokens")],
    ids=["chat", "responses"],
)
@pytest.mark.parametrize(
    "how, check",
    [
        pytest.param("negative", lambda usage, member: usage[member] == -1, id="negative"),
        pytest.param("string", lambda usage, member: isinstance(usage[member], str), id="string"),
        pytest.param("missing", lambda usage, member: member not in usage, id="missing"),
        pytest.param("inconsistent", lambda usage, m: usage[f"{m}_details"]["cached_tokens"] == usage[m] + 1, id="inconsistent"),
        pytest.param("float", lambda usage, member: usage[member] == 0.5, id="float"),
        pytest.param("huge", lambda usage, member: usage[member] == 10**30, id="huge"),
        pytest.param("array", lambda usage, member: isinstance(usage, list), id="array"),
        pytest.param("null", lambda usage, member: usage is None, id="null"),
    ],
)
def test_usage_is_malformed_and_the_bill_is_right(http_client, last_line, path, body, member, how, check):
    http_client.send("POST", path, body)
    right = last_line().cost_picousd
    _, _, data = http_client.send("POST", path, body, {"X-Simulator-Fault": f"malformed_usage={how}"})
    assert check(json.loads(data)["usage"], member)
    assert last_line().cost_picousd == right > 0


@pytest.mark.parametrize(
    "path, body",
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/chat/completions", STREAM),
        ("/v1/responses", RESPONSE),
        ("/v1/responses", {**RESPONSE, "stream": True}),
        ("/v1/completions", {"model": "davinci-002", "prompt": "a"}),
        ("/v1/embeddings", {"model": "text-embedding-3-small", "input": "a"}),
    ],
    ids=["chat", "chat stream", "response", "response stream", "completion", "embedding"],
)
def test_no_usage_is_told_and_it_is_billed(http_client, last_line, path, body):
    _, _, data = http_client.send("POST", path, body, {"X-Simulator-Fault": "no_usage"})
    assert b'_tokens":' not in data.replace(b'"max_output_tokens":', b"")
    assert (last_line().kind, last_line().complete) == ("billed", True)
    assert last_line().cost_picousd > 0


def test_another_model_or_tier_answers_and_is_priced(client, last_line):
    answer = client.chat.completions.create(**CHAT, extra_headers={"X-Simulator-Fault": "model=gpt-4o-mini;service_tier=priority"})
    usage = answer.usage
    assert (answer.model, answer.service_tier) == ("gpt-4o-mini", "priority")
    assert last_line().cost_picousd == usage.prompt_tokens * 250_000 + usage.completion_tokens * 1_000_000
    client.chat.completions.create(**CHAT, extra_headers={"X-Simulator-Fault": "model=gpt-secret"})
    assert (last_line().model, last_line().cost_picousd, last_line().kind) == ("gpt-secret", None, "billed")


@pytest.mark.parametrize(
    "text, faults",
    [
        pytest.param("", Faults(), id="nothing"),
        pytest.param(" ; no_usage ;", Faults(no_usage=True), id="spaces and empty parts"),
        pytest.param("cut_after_bytes=0", Faults(cut_after_bytes=0), id="zero is a number"),
        pytest.param(f"stall_before_head={MS_MAX}", Faults(stall_before_head=MS_MAX), id="the longest stall"),
        pytest.param("malformed_usage", Faults(malformed_usage="negative"), id="a default kind"),
        pytest.param("error_mid_stream=failed;status=400", Faults(error_mid_stream="failed", status=400), id="two"),
    ],
)
def test_faults_are_read(text, faults):
    assert parse(text) == faults


@pytest.mark.parametrize(
    "text",
    [
        "x", "status", "status=399", "status=600", "status=-1", f"slow_bytes={MS_MAX + 1}", "no_usage=1", "model",
        "malformed_usage=odd", "cut_after_bytes=٣",
    ],
)  # fmt: skip
def test_faults_that_cannot_be_are_refused(text):
    with pytest.raises(Refusal) as refused:
        parse(text)
    assert refused.value.status == 400


def test_a_fault_that_cannot_be_is_told_to_the_client(http_client, check_error):
    status, _, body = http_client.send("POST", "/v1/chat/completions", CHAT, {"X-Simulator-Fault": "explode"})
    assert all(name in check_error(status, body, 400)["message"] for name in READERS)


@pytest.mark.parametrize(
    "tokens, billed",
    [
        pytest.param(0, {}, id="nothing yet"),
        pytest.param(3, {Meter.OUTPUT_TEXT: 3}, id="a part of the text"),
        pytest.param(10, {Meter.OUTPUT_TEXT: 10}, id="all of the text"),
        pytest.param(14, {Meter.OUTPUT_TEXT: 10, Meter.OUTPUT_AUDIO: 4}, id="a part of the sound"),
        pytest.param(99, {Meter.OUTPUT_TEXT: 10, Meter.OUTPUT_AUDIO: 50}, id="never more than there was to come"),
    ],
)
def test_what_was_under_way_is_billed(tmp_path, tokens, billed):
    account = AccountWriter(tmp_path / "account")
    drawn = Draw("gpt-audio", "default", {Meter.INPUT_TEXT: 5, Meter.OUTPUT_TEXT: 10, Meter.OUTPUT_AUDIO: 50})
    call = Call("POST", "/v1/chat/completions", {}, "req_1", None, 0)
    progress = Progress(call, Desk(account, 0, Pace()), Answer([Step(b"x", 10, 50)], drawn))
    progress.generating(Step(b"x", 10, 50), tokens)
    progress.done(complete=False)
    progress.done(complete=True)
    account.close()
    (line,) = read_account(tmp_path / "account")
    assert line.quantities == {Meter.INPUT_TEXT: 5, **billed}


STEPS = [Step(b"ab", 1), Step(b"cd", 2), Step(b"ef", 3), Step(b"gh", 3, final=True), Step(b"ij", 3, final=True)]


@pytest.mark.parametrize(
    "fault, data, ending",
    [
        pytest.param("", [b"ab", b"cd", b"ef", b"gh", b"ij"], Ending.WHOLE, id="none"),
        pytest.param("cut_after_bytes=0", [], Ending.CUT, id="cut before the first byte"),
        pytest.param("cut_after_bytes=4", [b"ab", b"cd"], Ending.CUT, id="cut between events"),
        pytest.param("cut_after_bytes=5", [b"ab", b"cd", b"e"], Ending.CUT, id="cut in an event"),
        pytest.param("cut_after_bytes=99", [b"ab", b"cd", b"ef", b"gh", b"ij"], Ending.CUT, id="cut behind the end"),
        pytest.param("cut_after_events=4", [b"ab", b"cd", b"ef", b"gh"], Ending.CUT, id="cut before the last event"),
        pytest.param("bad_chunk", [b"ab", b"cd"], Ending.BAD_CHUNK, id="half"),
        pytest.param("hang_before_head", [], Ending.HANG, id="hang"),
        pytest.param("stall_before_end=7", [b"ab", b"cd", b"ef", b"gh", b"ij"], Ending.WHOLE, id="late"),
    ],
)
def test_a_plan_works_the_faults_in(fault, data, ending):
    plan = plan_of(Answer(list(STEPS), streamed=True), parse(fault))
    assert ([step.data for step in plan.steps], plan.ending) == (data, ending)
    assert sum(step.pause_ms for step in plan.steps) == (7 if fault.startswith("stall") else 0)
