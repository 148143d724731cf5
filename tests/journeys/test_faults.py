"""What breaks on the way: one entry each that says how it is known, an error or intact bytes for the client, and on it goes."""

from __future__ import annotations

import json
import re
import socket
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest

MESSAGES = [{"role": "user", "content": "What is on my bill?"}]
CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": MESSAGES, "max_completion_tokens": 200}
STREAM = CHAT | {"stream": True}
THINKING = STREAM | {"model": "o3", "max_completion_tokens": 5_000}  # room for what it says after it has thought
RESPONSE: dict[str, Any] = {"model": "gpt-4o", "input": "What is on my bill?", "max_output_tokens": 200}


def post(journey: Any, body: dict[str, Any], fault: str, **where: Any) -> Any:
    """The answer, or the exception of a client that got no whole head."""
    path = "/responses" if "input" in body else "/chat/completions"
    return journey.send("POST", path, body, {"X-Simulator-Fault": fault}, **where)


def masked(body: bytes) -> bytes:
    """Without what no two answers share: ids and the time."""
    return re.sub(rb"(resp_|msg_|rs_|chatcmpl-)[0-9a-z_]+|\"created(_at)?\":\d+", b"~", body)


def is_the_ask(entry: dict[str, Any]) -> bool:
    """Whether the whole cap was booked, and some input, at the price of the model asked for."""
    usage = entry["usage"]
    cap, input_rate, output_rate = {"gpt-4o": (200, 2_500_000, 10_000_000), "o3": (5_000, 2_000_000, 8_000_000)}[entry["model_asked"]]
    cost_picousd = usage["input_text"] * input_rate + usage["output_text"] * output_rate
    return usage["output_text"] == cap and 5 <= usage["input_text"] <= 15 and entry["cost_picousd"] == cost_picousd


def check_serves_on(journey: Any) -> None:
    """The call after it is carried as if nothing had been."""
    before = len(journey.entries())
    assert journey.send("POST", "/chat/completions", CHAT).whole
    entries = journey.entries()
    assert (len(entries), entries[-1]["usage_source"]) == (before + 1, "reported")


NO_ANSWER: list[Any] = [
    pytest.param("close_without_answer", "voice", 502, "upstream_closed", "upstream_error", id="closed without an answer"),
    pytest.param("garbage_head", "voice", 502, "upstream_bad_answer", "upstream_error", id="a head that is no HTTP"),
    pytest.param("hang_before_head", "hasty", 504, "upstream_timeout", "upstream_timeout", id="never a head"),
    pytest.param("stall_before_head=30000", "hasty", 504, "upstream_timeout", "upstream_timeout", id="a head too late"),
]


@pytest.mark.parametrize("fault, team, status, code, outcome", NO_ANSWER)
@pytest.mark.parametrize("body", [pytest.param(CHAT, id="chat"), pytest.param(STREAM, id="stream"), pytest.param(RESPONSE, id="response")])
def test_without_an_answer_the_ask_is_booked_and_the_client_may_try_again(
    journey: Any, check_error: Any, body: Any, fault: str, team: str, status: int, code: str, outcome: str
) -> None:
    check_error(post(journey, body, fault, team=team), status, code, "server_error")
    entry = journey.entry()
    assert (entry["usage_source"], entry["status"], entry["outcome"]) == ("unknown", None, outcome)
    assert is_the_ask(entry)
    check_serves_on(journey)


def test_the_client_tries_again_by_itself(journey: Any) -> None:
    journey.place.queue_faults("close_without_answer")
    assert journey.client(max_retries=1).chat.completions.create(**CHAT).choices
    entries = journey.entries()
    assert [(entry["usage_source"], entry["retry_count"]) for entry in entries] == [("unknown", 0), ("reported", 1)]


@pytest.mark.parametrize(
    "fault, team, outcome",
    [
        pytest.param("cut_after_bytes=40", "voice", "upstream_error", id="cut inside"),
        pytest.param("stall_mid_stream=30000", "hasty", "upstream_timeout", id="silence inside"),
    ],
)
@pytest.mark.parametrize("body", [pytest.param(CHAT, id="chat"), pytest.param(RESPONSE, id="response")])
def test_half_a_whole_answer_is_seen_as_cut_and_booked_as_unknown(journey: Any, body: Any, fault: str, team: str, outcome: str) -> None:
    answer = post(journey, body, fault, team=team)
    assert (answer.status, answer.whole) == (200, False)
    entry = journey.entry()
    assert (entry["usage_source"], entry["status"], entry["outcome"]) == ("unknown", 200, outcome)
    assert is_the_ask(entry)
    check_serves_on(journey)


@pytest.mark.parametrize("body", [pytest.param(CHAT, id="chat"), pytest.param(RESPONSE, id="response")])
def test_a_whole_answer_in_bad_chunks_is_cut_or_refused_and_booked_as_unknown(journey: Any, body: Any) -> None:
    """Which of the two depends on whether the bad chunk came with the head, in one packet."""
    answer = post(journey, body, "bad_chunk")
    assert (answer.status, answer.whole) in ((200, False), (502, True))
    entry = journey.entry()
    assert (entry["usage_source"], entry["outcome"]) == ("unknown", "upstream_error")
    assert is_the_ask(entry)
    check_serves_on(journey)


CUT: list[Any] = [
    pytest.param("cut_after_events=4", "voice", "upstream_error", 4, id="cut between events"),
    pytest.param("cut_after_bytes=900", "voice", "upstream_error", None, id="cut inside an event"),
    pytest.param("bad_chunk", "voice", "upstream_error", None, id="a chunk that is none"),
    pytest.param("stall_mid_stream=30000", "hasty", "upstream_timeout", None, id="silence inside"),
]


@pytest.mark.parametrize("fault, team, outcome, events", CUT)
def test_a_cut_stream_books_what_was_seen_and_the_client_sees_the_cut(
    journey: Any, fault: str, team: str, outcome: str, events: int | None
) -> None:
    answer = post(journey, STREAM, fault, team=team)
    assert (answer.status, answer.whole) == (200, False)
    assert b"[DONE]" not in answer.body
    entry = journey.entry()
    assert (entry["usage_source"], entry["outcome"]) == ("estimated", outcome)
    seen = answer.body.count(b'"delta":{"content":"')
    assert 0 < seen <= entry["usage"]["output_text"] <= seen + 2
    assert events is None or answer.body.count(b"data: ") == events
    assert 5 <= entry["usage"]["input_text"] <= 15
    check_serves_on(journey)


@pytest.mark.parametrize("fault", ["cut_after_events=4", "bad_chunk"])
def test_a_cut_stream_of_a_model_that_reasons_books_the_ask(journey: Any, fault: str) -> None:
    assert not post(journey, THINKING, fault).whole
    entry = journey.entry()
    assert entry["usage_source"] == "unknown"
    assert is_the_ask(entry)


@pytest.mark.parametrize("fault", ["cut_after_events=4", "bad_chunk"])
def test_the_sdks_client_raises_for_a_cut_stream(journey: Any, fault: str) -> None:
    stream = journey.client().chat.completions.create(**STREAM, extra_headers={"X-Simulator-Fault": fault})
    with stream, pytest.raises(openai.APIConnectionError) as raised:
        list(stream)
    assert "incomplete chunked read" in str(raised.value.__cause__)
    assert journey.entry()["usage_source"] == "estimated"


@pytest.mark.parametrize("how", ["negative", "string", "missing", "inconsistent", "float", "huge", "array", "null"])
@pytest.mark.parametrize("body", [pytest.param(CHAT, id="chat"), pytest.param(STREAM, id="stream"), pytest.param(RESPONSE, id="response")])
def test_usage_that_cannot_be_trusted_costs_the_ask_and_the_clients_bytes_are_intact(journey: Any, body: Any, how: str) -> None:
    body = body | ({"stream_options": {"include_usage": True, "include_obfuscation": False}} if "stream" in body else {})
    ours, theirs = (post(journey, body, f"malformed_usage={how}", direct=direct) for direct in (False, True))
    assert (ours.status, ours.whole, masked(ours.body)) == (200, True, masked(theirs.body))
    entry = journey.entry()
    assert (entry["usage_source"], entry["outcome"]) == ("unknown", "ok")
    assert is_the_ask(entry)


@pytest.mark.parametrize("body", [pytest.param(CHAT, id="chat"), pytest.param(STREAM, id="stream"), pytest.param(RESPONSE, id="response")])
def test_an_answer_without_usage_costs_the_ask(journey: Any, body: Any) -> None:
    assert post(journey, body, "no_usage").whole
    entry = journey.entry()
    assert entry["usage_source"] == "unknown"
    assert is_the_ask(entry)


@pytest.mark.parametrize("body", [pytest.param(CHAT, id="chat"), pytest.param(STREAM, id="stream"), pytest.param(RESPONSE, id="response")])
@pytest.mark.parametrize("fault", ["slow_bytes=1", "stall_before_head=60", "stall_mid_stream=60", "stall_before_end=60"])
def test_a_slow_answer_is_as_good_as_a_fast_one(journey: Any, body: Any, fault: str) -> None:
    answer = post(journey, body, fault)
    assert (answer.status, answer.whole) == (200, True)
    assert journey.entry()["usage_source"] == "reported"


@pytest.mark.parametrize(
    "body, fault, source, code",
    [
        pytest.param(STREAM, "error_mid_stream", "estimated", "server_error", id="chat"),
        pytest.param(STREAM | {"model": "o3"}, "error_mid_stream", "unknown", "server_error", id="chat of a model that reasons"),
        pytest.param(RESPONSE | {"stream": True}, "error_mid_stream", "estimated", "server_error", id="response, by an error event"),
        pytest.param(
            RESPONSE | {"stream": True}, "error_mid_stream=failed", "reported", "server_error", id="response that failed, with a bill"
        ),
    ],
)
def test_an_error_inside_a_stream_passes_and_ends_the_exchange(journey: Any, body: Any, fault: str, source: str, code: str) -> None:
    ours, theirs = (post(journey, body, fault, direct=direct) for direct in (False, True))
    assert (ours.status, ours.whole) == (200, True)
    assert ours.body.splitlines()[-2].partition(b":")[0] == theirs.body.splitlines()[-2].partition(b":")[0] == b"data"
    assert b"server had an error" in ours.body
    entry = journey.entry()
    assert (entry["usage_source"], entry["error_code"]) == (source, code)
    check_serves_on(journey)


# Clients that leave


class Leaver:
    """A client that reads so much of its answer and closes the connection."""

    def __init__(self, journey: Any, team: str, path: str, asked: dict[str, Any], fault: str) -> None:
        to = urlsplit(journey.base_url)
        assert to.hostname
        assert to.port
        self._socket = socket.create_connection((to.hostname, to.port), timeout=20)
        body = json.dumps(asked).encode()
        head = f"POST /v1{path} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {journey.place.keys[team]}\r\n"
        head += f"Content-Type: application/json\r\nX-Simulator-Fault: {fault}\r\nContent-Length: {len(body)}\r\n\r\n"
        self._socket.sendall(head.encode() + body)

    def read_until(self, text: bytes) -> bytes:
        got = b""
        while text not in got:
            more = self._socket.recv(65_536)
            assert more, got
            got += more
        return got

    def __enter__(self) -> Leaver:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def leave(journey: Any, team: str, model: str, fault: str, after: bytes) -> None:
    with Leaver(journey, team, "/chat/completions", THINKING if model == "o3" else STREAM, fault) as leaver:
        leaver.read_until(after)


def test_a_client_that_times_out_before_the_head_leaves_an_unknown_call_behind(journey: Any) -> None:
    with pytest.raises(openai.APITimeoutError):
        journey.client(timeout=0.2).chat.completions.create(**CHAT, extra_headers={"X-Simulator-Fault": "stall_before_head=30000"})
    (line,) = journey.lines(1)
    assert (line.complete, line.status) == (False, None)  # closed towards OpenAI long before the answer was due
    entry = journey.entry()
    assert (entry["usage_source"], entry["outcome"]) == ("unknown", "client_gone")
    assert is_the_ask(entry)
    check_serves_on(journey)


def test_a_client_that_leaves_mid_stream_closes_upstream_and_is_booked_for_what_it_saw(journey: Any) -> None:
    leave(journey, "voice", "gpt-4o", "stall_mid_stream=30000", b'"content":" the"')
    (line,) = journey.lines(1)
    assert (line.complete, line.kind) == (False, "billed")
    entry = journey.entry()
    assert (entry["usage_source"], entry["outcome"], entry["status"]) == ("estimated", "client_gone", 200)
    assert 0 < entry["usage"]["output_text"] <= line.quantities["output_text"]  # a word a chunk, and a token a word
    check_serves_on(journey)


def test_a_client_that_leaves_a_model_that_reasons_is_booked_the_ask(journey: Any) -> None:
    leave(journey, "voice", "o3", "stall_mid_stream=30000", b'"content":" the"')
    entry = journey.entry()
    assert (entry["usage_source"], entry["outcome"]) == ("unknown", "client_gone")
    assert is_the_ask(entry)
    assert not journey.lines(1)[0].complete


def test_a_client_that_leaves_is_read_to_the_end_for_where_the_team_drains(journey: Any) -> None:
    leave(journey, "draining", "gpt-4o", "stall_mid_stream=300", b'"content":" the"')
    (line,) = journey.lines(1)
    assert line.complete
    entry = journey.entry()
    assert (entry["usage_source"], entry["outcome"]) == ("reported", "client_gone")
    assert entry["cost_picousd"] == line.cost_picousd


@pytest.mark.parametrize("model", ["gpt-4o", "o3"])
def test_leaving_just_before_the_usage_is_not_free(journey: Any, model: str) -> None:
    leave(journey, "voice", model, "stall_before_end=300", b'"finish_reason":"stop"')
    (line,) = journey.lines(1)
    assert line.complete
    entry = journey.entry()
    assert (entry["usage_source"], entry["outcome"]) == ("reported", "client_gone")
    assert entry["cost_picousd"] == line.cost_picousd


def test_a_background_stream_that_was_left_is_billed_in_full_when_it_is_read_again(journey: Any) -> None:
    """Closing its connection does not end a background response: what it uses is told later, or stays booked at the ask."""
    with Leaver(journey, "voice", "/responses", RESPONSE | {"stream": True, "background": True}, "stall_mid_stream=30000") as leaver:
        head = leaver.read_until(b"response.output_text.delta")
    entry = journey.entry()
    assert (entry["usage_source"], entry["outcome"]) == ("unknown", "client_gone")
    assert is_the_ask(entry)
    with journey.client().responses.retrieve(entry["answer_id"], stream=True) as stream:
        done = list(stream)[-1].response
    assert done.id.encode() in head
    again, _ = journey.entries()
    assert (again["exchange_id"], again["usage_source"]) == (entry["exchange_id"], "reported")
    assert again["usage"]["output_text"] == done.usage.output_tokens
