"""Every way an exchange can end: one entry or none, the reservation settled, and what the client sees."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import ApiError
from gateway.units import Meter, tokens_of

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 50}
ANSWER = json.dumps({
    "id": "chatcmpl-1", "object": "chat.completion", "model": "gpt-4o-2024-08-06", "service_tier": "default",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120, "prompt_tokens_details": {"cached_tokens": 40}},
}).encode()  # fmt: skip
COST_PICOUSD = 60 * 2_500_000 + 40 * 1_250_000 + 20 * 10_000_000
OPENAIS_ERROR = b'{\n  "error": {"message": "no",  "type": "server_error", "param": null, "code": "as_it_came"}\n}\n'


def chunk_of(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "gpt-4o-2024-08-06", "choices": [choice], "usage": None} | more
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


USAGE = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120, "prompt_tokens_details": {"cached_tokens": 40}}
OPENING = [chunk_of({"role": "assistant", "content": ""}), *(chunk_of({"content": text}) for text in ("he", "llo", "!"))]
STREAM = [*OPENING, chunk_of({}, "stop"), chunk_of({}, choices=[], usage=USAGE), b"data: [DONE]\n\n"]


def counted(body: bytes, status: str = "200 OK", lines: bytes = b"", whole: bool = True) -> bytes:
    length = len(body) if whole else len(body) + 50
    return f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n".encode() + lines + b"\r\n" + body


def streamed(events: list[bytes], end: bytes = b"0\r\n\r\n") -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\nx-request-id: req_1\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events) + end


@dataclass(frozen=True)
class Exit:
    """What OpenAI does, and what must come of it. `booked`: "answer" as reported, "ask" as reserved, "nothing", or usage itself."""

    sent: bytes
    then: str  # "stays", "closes", "resets", "stalls", or "client leaves"
    status: int
    outcome: str
    source: str
    booked: Any
    ask: dict[str, Any] = field(default_factory=dict)
    team: dict[str, Any] = field(default_factory=dict)
    ours: str | None = None  # the code of the gateway's own error; None: the answer is OpenAI's
    last: str = "finish"
    error_code: str | None = None


def reported(sent: bytes, then: str = "stays", outcome: str = "ok", **more: Any) -> Exit:
    return Exit(sent, then, 200, outcome, "reported", "answer", **more)


def unknown(sent: bytes, then: str = "stays", status: int = 200, outcome: str = "ok", **more: Any) -> Exit:
    return Exit(sent, then, status, outcome, "unknown", "ask", **more)


def refused(status: str, outcome: str, **more: Any) -> Exit:
    """An error of OpenAI's, as it came."""
    sent = counted(OPENAIS_ERROR, status)
    return Exit(sent, "stays", int(status[:3]), outcome, "not_billed", "nothing", error_code="as_it_came", **more)


def unanswered(sent: bytes, then: str, status: int, outcome: str, ours: str, error_code: str) -> Exit:
    return unknown(sent, then, status, outcome, ours=ours, last="refuse", error_code=error_code)


def three_tokens(sent: bytes, then: str, outcome: str, **more: Any) -> Exit:
    return Exit(sent, then, 200, outcome, "estimated", {Meter.OUTPUT_TEXT: 3}, STREAMS, **more)


STREAMS = {"stream": True}
O3 = {"model": "o3-mini", "stream": True}
TO_THE_CLOSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + b"".join(STREAM)
ERROR_EVENT = b'data: {"error":{"message":"no","type":"server_error","param":null,"code":null}}\n\n'
CONTRADICTING = ANSWER.replace(b'"cached_tokens": 40', b'"cached_tokens": 400')
EXITS = {
    "a whole answer": reported(counted(ANSWER, lines=b"x-request-id: req_1\r\n")),
    "a whole stream": reported(streamed(STREAM), ask=STREAMS),
    "a stream to the close": reported(TO_THE_CLOSE, "closes", ask=STREAMS),
    "OpenAI says 400": refused("400 Bad Request", "client_error"),
    "OpenAI says 429": refused("429 Too Many", "client_error"),
    "OpenAI says 500": refused("500 Oops", "upstream_error"),
    "OpenAI says 429 to a stream": refused("429 Too Many", "client_error", ask=STREAMS),
    "closed without an answer": unanswered(b"", "closes", 502, "upstream_error", "upstream_closed", "closed"),
    "reset without an answer": unanswered(b"", "resets", 502, "upstream_error", "upstream_closed", "closed"),
    "closed inside the head": unanswered(b"HTTP/1.1 200 OK\r\nconte", "closes", 502, "upstream_error", "upstream_closed", "closed"),
    "no answer in time": unanswered(b"", "stalls", 504, "upstream_timeout", "upstream_timeout", "head_timeout"),
    "no HTTP": unanswered(b"SSH-2.0-OpenSSH\r\n\r\n", "stays", 502, "upstream_error", "upstream_bad_answer", "bad_answer"),
    "cut inside the JSON": unknown(counted(ANSWER[:90], whole=False), "closes", outcome="upstream_error", last="abort"),
    "stalled inside the JSON": unknown(counted(ANSWER[:90], whole=False), "stalls", outcome="upstream_timeout", last="abort"),
    "cut inside a stream": three_tokens(streamed(OPENING, b""), "closes", "upstream_error", last="abort"),
    "cut inside reasoning": unknown(streamed(OPENING, b""), "closes", outcome="upstream_error", ask=O3, last="abort"),
    "cut behind the usage": reported(streamed(STREAM[:-1], b""), "closes", "upstream_error", ask=STREAMS, last="abort"),
    "an error inside a stream": three_tokens(streamed([*OPENING, ERROR_EVENT]), "stays", "upstream_error", error_code="server_error"),
    "the client leaves before the answer": unknown(b"", "client leaves", 0, "client_gone", last="", error_code="client_gone"),
    "the client leaves inside a stream": three_tokens(streamed(OPENING, b""), "client leaves", "client_gone", last=""),
    "the client leaves inside reasoning": unknown(streamed(OPENING, b""), "client leaves", outcome="client_gone", ask=O3, last=""),
    "usage that contradicts itself": unknown(counted(CONTRADICTING)),
    "usage that is no object": unknown(counted(b'{"id":"chatcmpl-1","model":"gpt-4o","usage":7}')),
    "a whole answer without usage": unknown(counted(b'{"id":"chatcmpl-1","model":"gpt-4o"}')),
    "an answer that is no JSON": unknown(counted(b"<html>")),
    "an answer that is compressed all the same": unknown(counted(ANSWER, lines=b"content-encoding: gzip\r\n")),
}


@pytest.mark.parametrize("way", EXITS.values(), ids=EXITS.keys())
def test_an_exchange_ends_in_one_entry(way: Exit, rooms: Any, loopback: Any, tmp_path: Path) -> None:
    async def test() -> None:
        async with loopback.origin() as origin, rooms.worker(origin.url, tmp_path, **way.team) as worker:
            client = loopback.client()
            ran = rooms.run(rooms.call(body=CHAT | way.ask), client, worker)
            await loopback.until(lambda: origin.asked and origin.asked[0].whole)
            assert worker.records()[0], "the intent is written before OpenAI is contacted"
            await _happens(way, origin, client, worker, loopback)
            await loopback.until(lambda: ran.over)
            assert ran.error is None
            _check_client(way, client)
            _check_books(way, worker)
            await loopback.until(lambda: worker.pool.busy == 0)
            assert worker.house.tally.in_flight == {}
            assert worker.journal.open_intents == 0

    loopback.run(test)


async def _happens(way: Exit, origin: Any, client: Any, worker: Any, loopback: Any) -> None:
    connection = origin.connections[0]
    connection.send(way.sent)
    body_begun = b"\r\n\r\n" in way.sent
    if way.then == "closes":
        connection.close()
    elif way.then == "resets":
        connection.abort()
    elif way.then == "stalls":
        await loopback.until(lambda: client.body or not body_begun)
        next(iter(worker.pool._deadlines._timed)).expired()
    elif way.then == "client leaves":
        await loopback.until(lambda: b"!" in client.body or not body_begun)
        client.leave()
    if way.last:
        await loopback.until(lambda: client.over)


def _check_client(way: Exit, client: Any) -> None:
    assert client.status == (way.status or None)
    if way.last:
        assert client.events[-1] == way.last
    if way.ours is not None:
        assert isinstance(client.error, ApiError)
        assert (client.error.code, client.error.type, client.error.status) == (way.ours, "server_error", way.status)
        assert client.header("x-request-id")
    elif way.status and way.last == "finish" and not way.ask:
        assert client.body == way.sent.partition(b"\r\n\r\n")[2], "OpenAI's bytes pass as they came"
    if way.status and way.ours is None:
        assert client.header("x-ratelimit-limit-requests") == "500"
        assert client.header("x-ratelimit-remaining-requests") == "499"
        assert client.header("x-gateway-request-id")


def _check_books(way: Exit, worker: Any) -> None:
    intents, entries = worker.records()
    assert (len(intents), len(entries)) == (1, 1)
    intent, entry = intents[0], entries[0]
    assert entry.exchange_id == intent.exchange_id
    assert (entry.outcome, entry.usage_source) == (way.outcome, way.source)
    assert entry.status == (None if way.ours or not way.status else way.status)
    if way.booked == "answer":
        assert entry.usage == {Meter.INPUT_TEXT: 60, Meter.CACHED_TEXT: 40, Meter.OUTPUT_TEXT: 20}
        assert (entry.cost_picousd, entry.price_version) == (COST_PICOUSD, "gpt-4o@2024-10-02")
        assert (entry.model_asked, entry.model_served, entry.answer_id) == ("gpt-4o", "gpt-4o-2024-08-06", "chatcmpl-1")
    elif way.booked == "ask":
        assert (entry.usage, entry.cost_picousd) == (intent.ask_usage, intent.ask_cost_picousd)
        assert entry.usage[Meter.OUTPUT_TEXT] == 50
        assert entry.cost_picousd
    elif way.booked == "nothing":
        assert (entry.usage, entry.cost_picousd) == ({}, 0)
    else:
        input_tokens = intent.ask_usage[Meter.INPUT_TEXT]
        assert entry.usage == {Meter.INPUT_TEXT: input_tokens} | way.booked
        assert entry.cost_picousd == input_tokens * 2_500_000 + way.booked[Meter.OUTPUT_TEXT] * 10_000_000
    if way.error_code is not None:
        assert entry.error_code == way.error_code
    elif way.booked == "answer":
        assert entry.error_code is None
    model = way.ask.get("model", "gpt-4o")
    assert worker.taken(model) == {"group rpm": 1, "group tpm": tokens_of(entry.usage)}
    assert entry.ask_tokens == tokens_of(intent.ask_usage)
    assert entry.streamed is bool(way.ask.get("stream"))
    assert entry.timings_us["sent"] > 0
    assert entry.admitted_at_us <= entry.ended_at_us
