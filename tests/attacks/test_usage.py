"""What OpenAI says was used, gone bad, in JSON and in streams: bytes reach the client as they came, and no garbage becomes money.

What cannot be trusted is booked as `unknown` at what was asked for; never zero, never a wild number, and the team is not locked
out by one.
"""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

GOOD = '{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}'

# What stands behind "usage", and how the call is booked. `{}`: both shapes; the numbers are those of a chat completion.
REPORTS: dict[str, tuple[str, str]] = {
    "good": (GOOD, "reported"),
    "good, as whole floats": ('{"prompt_tokens":7.0,"completion_tokens":3.0,"total_tokens":10.0}', "reported"),
    "good, with members nobody knows": (GOOD[:-1] + ',"frob":{"a":[1e999]},"":null}', "reported"),
    "zero": ('{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}', "reported"),
    "null": ("null", "unknown"),
    "an empty object": ("{}", "unknown"),
    "an array": ("[7,3,10]", "unknown"),
    "a string": ('"7"', "unknown"),
    "a number": ("10", "unknown"),
    "true": ("true", "unknown"),
    "a quantity below zero": ('{"prompt_tokens":-7,"completion_tokens":3,"total_tokens":-4}', "unknown"),
    "a quantity that is a string": ('{"prompt_tokens":"7","completion_tokens":3,"total_tokens":10}', "unknown"),
    "a quantity that is null": ('{"prompt_tokens":null,"completion_tokens":3,"total_tokens":3}', "unknown"),
    "a quantity that is true": ('{"prompt_tokens":true,"completion_tokens":3,"total_tokens":4}', "unknown"),
    "a quantity that is a list": ('{"prompt_tokens":[7],"completion_tokens":3,"total_tokens":10}', "unknown"),
    "a broken quantity": ('{"prompt_tokens":7.5,"completion_tokens":3,"total_tokens":10.5}', "unknown"),
    "1e999": ('{"prompt_tokens":1e999,"completion_tokens":3}', "unknown"),
    "1e400000000": ('{"prompt_tokens":1e400000000,"completion_tokens":3}', "unknown"),
    "1e-400000000": ('{"prompt_tokens":1e-400000000,"completion_tokens":3}', "unknown"),
    "one more than the largest": ('{"prompt_tokens":68719476737,"completion_tokens":3}', "unknown"),
    "2**53": ('{"prompt_tokens":9007199254740992,"completion_tokens":3}', "unknown"),
    "2**53 + 1": ('{"prompt_tokens":9007199254740993,"completion_tokens":3}', "unknown"),
    "2**63": ('{"prompt_tokens":9223372036854775808,"completion_tokens":3}', "unknown"),
    "2**64": ('{"prompt_tokens":18446744073709551616,"completion_tokens":3}', "unknown"),
    "100,000 digits": ('{"prompt_tokens":' + "9" * 100_000 + ',"completion_tokens":3}', "unknown"),
    "a quantity that is not there": ('{"completion_tokens":3,"total_tokens":10}', "unknown"),
    "a total that is wrong": ('{"prompt_tokens":7,"completion_tokens":3,"total_tokens":11}', "unknown"),
    "more cached than sent": ('{"prompt_tokens":7,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":8}}', "unknown"),
    "cached below zero": ('{"prompt_tokens":7,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":-1}}', "unknown"),
    "details of another kind": ('{"prompt_tokens":7,"completion_tokens":3,"prompt_tokens_details":[]}', "unknown"),
    "more reasoning than output": (
        '{"prompt_tokens":7,"completion_tokens":3,"completion_tokens_details":{"reasoning_tokens":4}}',
        "unknown",
    ),
    "lists 100,000 deep": ('{"prompt_tokens":' + "[" * 100_000 + "]" * 100_000 + "}", "unknown"),
    "a lone surrogate": (GOOD[:-1] + ',"x":"\\ud800"}', "unknown"),
    "a quantity twice, the last counts": ('{"prompt_tokens":9,"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}', "reported"),
    "responses' names": ('{"input_tokens":7,"output_tokens":3,"total_tokens":10}', "unknown"),
}


def check_booked(attack: Any, source: str, words: Any) -> None:
    entry = attack.entry()
    if entry["usage_source"] == "unknown":
        assert "out_of_range" in entry["marks"] or entry["cost_picousd"] >= 500_000_000, entry
    assert entry["usage_source"] == source, entry
    with attack.client() as client:  # what was said to be used must not lock the team out
        assert client.send(attack.request()).answer("POST").status == 200


def answer(usage: str) -> bytes:
    return b'{"id":"chatcmpl-1","object":"chat.completion","model":"gpt-4o","choices":[],"usage":' + usage.encode() + b"}"


@pytest.mark.parametrize(("usage", "source"), REPORTS.values(), ids=REPORTS.keys())
def test_usage_in_an_answer(usage: str, source: str, attack: Any, words: Any) -> None:
    body = answer(usage)
    with attack.client() as client:
        assert client.send(attack.request(lines=attack.plan(words.counted(body)))).answer("POST").body == body
    check_booked(attack, source, words)


ANSWERS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "unknown"),
    "white space": (b"  \r\n", "unknown"),
    "null": (b"null", "unknown"),
    "an array": (b"[]", "unknown"),
    "HTML": (b"<html>down for maintenance</html>", "unknown"),
    "half an answer": (answer(GOOD)[:-1], "unknown"),
    "an answer and more": (answer(GOOD) + b" x", "unknown"),
    "two answers": (answer(GOOD) * 2, "unknown"),
    "a BOM": (b"\xef\xbb\xbf" + answer(GOOD), "unknown"),
    "NUL before it": (b"\x00" + answer(GOOD), "unknown"),
    "invalid UTF-8 where nobody reads": (answer(GOOD).replace(b'"choices":[]', b'"choices":["\xff"]'), "reported"),
    "invalid UTF-8 in the model": (answer(GOOD).replace(b'"gpt-4o"', b'"\xff"'), "unknown"),
    "a lone surrogate where nobody reads": (answer(GOOD).replace(b'"choices":[]', b'"choices":["\\ud800"]'), "unknown"),
    "UTF-16": (answer(GOOD).decode().encode("utf-16"), "unknown"),
    "NaN": (answer(GOOD).replace(b'"choices":[]', b'"choices":NaN'), "unknown"),
    "no usage": (b'{"id":"chatcmpl-1","model":"gpt-4o","choices":[]}', "unknown"),
    "usage inside a string": (b'{"id":"x","model":"gpt-4o","choices":["usage: ' + GOOD.replace('"', '\\"').encode() + b'"]}', "unknown"),
    "usage one level too deep": (b'{"id":"x","model":"gpt-4o","choices":[{"usage":' + GOOD.encode() + b"}]}", "unknown"),
    "usage in capitals": (answer(GOOD).replace(b"usage", b"Usage"), "unknown"),
    "an answer 100,000 deep": (answer(GOOD).replace(b'"choices":[]', b'"choices":' + b"[" * 100_000 + b"]" * 100_000), "unknown"),
    "a model of another kind": (answer(GOOD).replace(b'"gpt-4o"', b"[]"), "unknown"),
    "a model of 1,000,000 characters": (answer(GOOD).replace(b'"gpt-4o"', b'"' + b"m" * 1_000_000 + b'"'), "reported"),
    "an id of 1,000,000 characters": (answer(GOOD).replace(b"chatcmpl-1", b"i" * 1_000_000), "reported"),
    "a model with a terminal's escapes": (answer(GOOD).replace(b'"gpt-4o"', b'"\\u001b[2J\\u0000"'), "reported"),
    "gzip that says nothing of it": (gzip.compress(answer(GOOD)), "unknown"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "source"), ANSWERS.values(), ids=ANSWERS.keys())
def test_an_answer_that_cannot_be_read_passes_and_is_booked_as_asked_for(body: bytes, source: str, attack: Any, words: Any) -> None:
    with attack.client() as client:
        assert client.send(attack.request(lines=attack.plan(words.counted(body)))).answer("POST").body == body
    entry = attack.entry()
    assert entry["usage_source"] == source
    assert source == "reported" or entry["cost_picousd"] >= 500_000_000


ERRORS = {
    "HTML": b"<html>",
    "nothing": b"",
    "an error that is a string": b'{"error":"no"}',
    "an error that is null": b'{"error":null}',
    "an error in an error": b'{"error":{"message":{"error":{}},"code":[1],"type":7}}',
    "a code of 1,000,000 characters": b'{"error":{"code":"' + b"c" * 1_000_000 + b'"}}',
    "a code with a line end": b'{"error":{"code":"a\\nb\\u0000"}}',
    "invalid UTF-8": b'{"error":{"code":"\xff"}}',
    "a usage": b'{"error":{"code":"x"},"usage":' + GOOD.encode() + b"}",
}


@pytest.mark.parametrize("status", ["400 X", "429 X", "500 X", "503 X"])
@pytest.mark.parametrize("body", ERRORS.values(), ids=ERRORS.keys())
def test_an_error_of_any_shape_passes_and_is_not_billed(body: bytes, status: str, attack: Any, words: Any) -> None:
    with attack.client() as client:
        got = client.send(attack.request(lines=attack.plan(words.counted(body, status)))).answer("POST")
        assert (got.status, got.body) == (int(status[:3]), body)
    entry = attack.entry()
    assert (entry["usage_source"], entry["cost_picousd"]) == ("not_billed", 0)


# Streams


def chunk(content: str = "hi", finish: str = "null", usage: str = "") -> bytes:
    said = ',"usage":' + usage if usage else ""
    return (
        '{"id":"chatcmpl-1","object":"chat.completion.chunk","model":"gpt-4o","choices":[{"index":0,"delta":{"content":"'
        + content + '"},"finish_reason":' + finish + "}]" + said + "}"
    ).encode()  # fmt: skip


def usage_chunk(usage: str = GOOD) -> bytes:
    return b'{"id":"chatcmpl-1","model":"gpt-4o","choices":[],"usage":' + usage.encode() + b"}"


def events(*datas: bytes, end: bytes = b"\n\n") -> bytes:
    return b"".join(b"data: " + data + end for data in datas)


BEGIN = events(chunk(), chunk("there", '"stop"'))
DONE = events(b"[DONE]")
ONE = '{"prompt_tokens":1,"completion_tokens":1}'
WHOLE = BEGIN + events(usage_chunk()) + DONE
STREAMS: dict[str, tuple[bytes, str]] = {
    "good": (WHOLE, "reported"),
    "CRLF": (WHOLE.replace(b"\n", b"\r\n"), "reported"),
    "CR, which is legal and which nobody writes": (WHOLE.replace(b"\n", b"\r"), "unknown"),
    "LF and CRLF in turn": (BEGIN.replace(b"\n\n", b"\r\n\n") + events(usage_chunk(), end=b"\n\r\n") + DONE, "reported"),
    "comments between": (b": hello\n\n" + BEGIN + b":\n: x\n\n" + events(usage_chunk()) + b": \n\n" + DONE, "reported"),
    "empty lines between": (b"\n\n\n" + BEGIN + b"\n\n\n\n\n" + events(usage_chunk()) + b"\n\n" + DONE + b"\n\n", "reported"),
    "fields nobody knows": (b"id: 1\nretry: 5\nfrob: x\nevent: message\n" + WHOLE, "reported"),
    "no space behind the colon": (WHOLE.replace(b"data: ", b"data:"), "reported"),
    "data in several lines": (BEGIN + b"data: " + usage_chunk().replace(b",", b",\ndata: ") + b"\n\n" + DONE, "reported"),
    "no terminal event": (BEGIN + events(usage_chunk()), "reported"),
    "no end of its last event": (WHOLE[:-2], "reported"),
    "events behind its end": (WHOLE + events(chunk("more"), usage_chunk('{"prompt_tokens":0,"completion_tokens":0}')), "reported"),
    "its end twice": (WHOLE + DONE, "reported"),
    "usage twice, the last counts": (BEGIN + events(usage_chunk(ONE), usage_chunk()) + DONE, "reported"),
    "usage, and then one that is broken": (BEGIN + events(usage_chunk(), usage_chunk('{"prompt_tokens":-1}')) + DONE, "unknown"),
    "broken usage, and then a good one": (BEGIN + events(usage_chunk('{"prompt_tokens":-1}'), usage_chunk()) + DONE, "reported"),
    "no usage": (BEGIN + DONE, "unknown"),
    "nothing but its end": (DONE, "unknown"),
    "nothing": (b"", "unknown"),
    "garbage": (b"\x00\xff\xfe\n\n" * 50 + DONE, "unknown"),
    "a BOM": (b"\xef\xbb\xbf" + WHOLE, "reported"),
    "NUL in an event": (events(b'{"choices":[{"delta":{"content":"\x00"}}]}') + WHOLE, "reported"),
    "invalid UTF-8 in an event": (events(chunk("\xff").decode().encode("latin-1")) + WHOLE, "reported"),
    "a lone surrogate in an event": (events(chunk("\\ud800")) + WHOLE, "reported"),
    "an event that is no JSON": (events(b"{", b"[1", b"xyz", b'"a') + WHOLE, "reported"),
    "an event that is no object": (events(b"1", b"null", b"[]", b'"x"') + WHOLE, "reported"),
    "choices of another kind": (events(b'{"choices":{}}', b'{"choices":[1]}', b'{"choices":[{"delta":[]}]}') + WHOLE, "reported"),
    "an event 100,000 deep": (events(b'{"choices":' + b"[" * 100_000) + WHOLE, "reported"),
    "an event of 3 MB": (BEGIN + events(chunk("x" * 3_000_000), usage_chunk()) + DONE, "reported"),
    "an event of 5 MB": (BEGIN + events(chunk("x" * 5_000_000)) + DONE, "unknown"),
    "10,000 events": (events(chunk()) * 10_000 + events(usage_chunk()) + DONE, "reported"),
    "JSON and no stream": (answer(GOOD), "reported"),
    "HTML": (b"<html>\n\n</html>", "unknown"),
}  # fmt: skip
STREAMS |= {
    f"usage: {name}": (BEGIN + events(usage_chunk(usage)) + DONE, source) for name, (usage, source) in REPORTS.items() if len(usage) < 1_000
}


def cut(body: bytes, size: int) -> bytes:
    """As chunks of HTTP."""
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
ASKED = {"stream_options": {"include_usage": True}}


@pytest.mark.parametrize("size", [50, 2**24], ids=["in small pieces", "at once"])
@pytest.mark.parametrize(("body", "source"), STREAMS.values(), ids=STREAMS.keys())
def test_a_stream_passes_byte_for_byte_and_no_garbage_becomes_money(body: bytes, source: str, size: int, attack: Any, words: Any) -> None:
    call = {"model": "gpt-4o", "messages": [], "stream": True, "max_tokens": 50} | ASKED
    raw = HEAD + cut(body, max(size, len(body) // 20_000))
    with attack.client() as client:
        got = client.send(attack.request(json.dumps(call).encode(), attack.plan(raw))).answer("POST")
        assert (got.status, got.whole) == (200, True)
        assert got.body == body
    check_booked(attack, source, words)


@pytest.mark.parametrize(("body", "source"), STREAMS.values(), ids=STREAMS.keys())
def test_a_stream_that_is_edited_is_booked_the_same(body: bytes, source: str, attack: Any, words: Any) -> None:
    """The client did not ask for usage, and sees all but that."""
    call = json.dumps({"model": "gpt-4o", "messages": [], "stream": True, "max_tokens": 50}).encode()
    with attack.client() as client:
        got = client.send(attack.request(call, attack.plan(HEAD + cut(body, 2**24)))).answer("POST")
        assert (got.status, got.whole) == (200, True)
        if source == "reported" and body.startswith(b"data: ") and b"\r" not in body:
            assert b"prompt_tokens" not in got.body.partition(b"data: [DONE]")[0]
        assert got.body.count(b"hi") == body.count(b"hi")
    assert b"include_usage" in attack.seen()[0].body
    check_booked(attack, source, words)


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize(
    "body", [b"", BEGIN, BEGIN + b"data: ", events(chunk()), b"data: [DO"], ids=["nothing", "begun", "half an event", "one", "half its end"]
)
def test_a_stream_that_breaks_is_seen_as_cut_and_its_tokens_are_booked(body: bytes, how: str, attack: Any) -> None:
    call = json.dumps({"model": "gpt-4o", "messages": [], "stream": True, "max_tokens": 50}).encode()

    def plan(line: Any, _: Any) -> None:
        line.send(HEAD + cut(body, 2**24)[:-5])
        attack.until(lambda: sent, bool, "the client has the head")
        getattr(line, how)()

    sent: list[bool] = []
    with attack.client() as client:
        client.send(attack.request(call, attack.plan(plan)))
        client.unread = client.sock.recv(65_536)
        sent.append(True)
        got = client.answer("POST")
        assert not got.whole
    entry = attack.entry()
    assert (entry["usage_source"], entry["outcome"]) == ("estimated", "upstream_error")
    assert entry["usage"].get("output_text", 0) == body.count(b'"content"')
