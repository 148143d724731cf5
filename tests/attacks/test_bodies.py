"""Bodies: too large, compressed, not JSON, JSON that two parsers could read differently, and models of any spelling."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families


def chat(inside: str) -> bytes:
    """A chat body with these members behind a good model."""
    return ('{"model":"gpt-4o","messages":[],' + inside + "}").encode("utf-8", "surrogatepass")


def model(text: str) -> bytes:
    return b'{"messages":[],"model":' + text.encode("utf-8", "surrogatepass") + b"}"


DEEP = 100_000
REFUSED: dict[str, tuple[bytes, int, str | None]] = {
    "an empty body": (b"", 400, None),
    "white space": (b" \r\n\t", 400, None),
    "NUL": (b"\x00", 400, None),
    "half an object": (b'{"model":"gpt-4o"', 400, None),
    "an object and more behind it": (b'{"model":"gpt-4o","messages":[]} x', 400, None),
    "two objects": (b'{"model":"gpt-4o","messages":[]}{"model":"o3-mini"}', 400, None),
    "two objects on two lines": (b'{"model":"gpt-4o","messages":[]}\n{"model":"o3-mini"}', 400, None),
    "a NUL behind the object": (b'{"model":"gpt-4o","messages":[]}\x00', 400, None),
    "an array": (b'[{"model":"gpt-4o"}]', 400, None),
    "a string": (b'"gpt-4o"', 400, None),
    "a number": (b"1", 400, None),
    "null": (b"null", 400, None),
    "true": (b"true", 400, None),
    "a form": (b"model=gpt-4o&messages=hello", 400, None),
    "multipart": (b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\ngpt-4o\r\n--x--\r\n', 400, None),
    "XML": (b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>', 400, None),
    "JavaScript": (b"{model:'gpt-4o'}", 400, None),
    "a comment": (b'{"model":"gpt-4o"/* really */,"messages":[]}', 400, None),
    "a comma at the end": (b'{"model":"gpt-4o","messages":[],}', 400, None),
    "a BOM": (b'\xef\xbb\xbf{"model":"gpt-4o","messages":[]}', 400, None),
    "UTF-16": ('{"model":"gpt-4o","messages":[]}'.encode("utf-16"), 400, None),
    "UTF-16 without a mark": ('{"model":"gpt-4o","messages":[]}'.encode("utf-16-le"), 400, None),
    "UTF-32": ('{"model":"gpt-4o","messages":[]}'.encode("utf-32"), 400, None),
    "Latin-1": (chat('"user":"é"').decode().encode("latin-1"), 400, None),
    "UTF-8 cut inside a character": (b'{"model":"gpt-4o","user":"\xe2\x82"}', 400, None),
    "an overlong slash": (b'{"model":"gpt-4o","user":"\xc0\xaf"}', 400, None),
    "a surrogate in UTF-8": (b'{"model":"gpt-4o","user":"\xed\xa0\x80"}', 400, None),
    "a character beyond Unicode": (b'{"model":"gpt-4o","user":"\xf4\x90\x80\x80"}', 400, None),
    "a line end inside a string": (b'{"model":"gpt-4o","user":"a\nb"}', 400, None),
    "NUL inside a string": (b'{"model":"gpt-4o","user":"a\x00b"}', 400, None),
    "NaN": (chat('"temperature":NaN'), 400, None),
    "Infinity": (chat('"temperature":Infinity'), 400, None),
    "-Infinity": (chat('"temperature":-Infinity'), 400, None),
    "a number with a zero before it": (chat('"n":01'), 400, None),
    "a number with plus": (chat('"n":+1'), 400, None),
    "a number in hex": (chat('"n":0x1'), 400, None),
    "a number without digits behind its point": (chat('"temperature":1.'), 400, None),
    "arrays 100,000 deep": (chat('"metadata":' + "[" * DEEP + "]" * DEEP), 400, None),
    "objects 100,000 deep": (chat('"metadata":' + '{"a":' * DEEP + "1" + "}" * DEEP), 400, None),
    "arrays that never close": (b"[" * DEEP, 400, None),
    "objects that never close": (b'{"model":' * DEEP, 400, None),
    "an array for the model 100,000 deep": (model("[" * DEEP + "]" * DEEP), 400, None),
    "messages 100,000 deep in a stream": (chat('"stream":true,"tools":' + "[" * DEEP + "]" * DEEP), 400, None),
    "the model twice": (chat('"model":"o3-mini"'), 400, "duplicate_parameter"),
    "the model twice, once escaped": (chat('"mod\\u0065l":"o3-mini"'), 400, "duplicate_parameter"),
    "the model twice, once all escapes": (chat('"\\u006d\\u006f\\u0064\\u0065\\u006c":"o3-mini"'), 400, "duplicate_parameter"),
    "the model twice, once escaped in capitals": (chat('"mo\\u0064e\\u006C":"o3-mini"'), 400, "duplicate_parameter"),
    "stream twice": (chat('"stream":false,"stream":true'), 400, "duplicate_parameter"),
    "a cap twice": (chat('"max_tokens":1,"max_tokens":100000'), 400, "duplicate_parameter"),
    "messages twice": (chat('"messages":[{"role":"user","content":"x"}]'), 400, "duplicate_parameter"),
    "include_usage twice": (chat('"stream":true,"stream_options":{"include_usage":true,"include_usage":0}'), 400, "duplicate_parameter"),
    "no model": (b'{"messages":[]}', 400, "missing_required_parameter"),
    "a model in capitals": (b'{"MODEL":"gpt-4o","messages":[]}', 400, "missing_required_parameter"),
    "a model behind an escaped NUL": (b'{"model\\u0000":"gpt-4o","messages":[]}', 400, "missing_required_parameter"),
    "an empty model": (model('""'), 400, "missing_required_parameter"),
    "null for the model": (model("null"), 400, "missing_required_parameter"),
    "a number for the model": (model("4"), 400, "invalid_type"),
    "an array for the model": (model('["gpt-4o"]'), 400, "invalid_type"),
    "an object for the model": (model('{"id":"gpt-4o"}'), 400, "invalid_type"),
    "a lone surrogate for the model": (model('"gpt-4o\\ud800"'), 400, None),
    "surrogates in the wrong order": (model('"\\udc00\\ud800"'), 400, None),
    "a model of 201 characters": (model('"' + "m" * 201 + '"'), 400, "string_above_max_length"),
    "a model of 1,000,000 characters": (model('"' + "m" * 1_000_000 + '"'), 400, "string_above_max_length"),
    "a model in other capitals": (model('"GPT-4o"'), 404, "model_not_found"),
    "a model with a space behind": (model('"gpt-4o "'), 404, "model_not_found"),
    "a model with a space before": (model('" gpt-4o"'), 404, "model_not_found"),
    "a model with a line end": (model('"gpt-4o\\n"'), 404, "model_not_found"),
    "a model with a header behind": (model('"gpt-4o\\r\\nx-evil: 1"'), 404, "model_not_found"),
    "a model with NUL": (model('"gpt-4o\\u0000"'), 404, "model_not_found"),
    "a model with a terminal's escapes": (model('"\\u001b[2J\\u001b]0;evil\\u0007"'), 404, "model_not_found"),
    "a model with a letter that looks like another": (model('"gpt-4\\u043e"'), 404, "model_not_found"),
    "a model with a character of no width": (model('"gpt-4o\\u200b"'), 404, "model_not_found"),
    "a model that is a path": (model('"../../etc/passwd"'), 404, "model_not_found"),
    "a fine-tuned model of another": (model('"ft:gpt-4o:evil::x"'), 404, "model_not_found"),
    "a string for stream": (chat('"stream":"true"'), 400, "invalid_type"),
    "a number for stream": (chat('"stream":1'), 400, "invalid_type"),
    "n of 1e999": (chat('"n":1e999'), 400, "invalid_type"),
    "n of 1e3": (chat('"n":1e3'), 400, "invalid_type"),
    "n of 1.5": (chat('"n":1.5'), 400, "invalid_type"),
    "n of zero": (chat('"n":0'), 400, "invalid_value"),
    "n below zero": (chat('"n":-1'), 400, "invalid_value"),
    "n of 100,000 digits": (chat('"n":' + "9" * 100_000), 400, "invalid_value"),
    "a cap of 100,000 digits": (chat('"max_tokens":' + "9" * 100_000), 400, "invalid_value"),
    "a cap below zero of 100,000 digits": (chat('"max_tokens":-' + "9" * 100_000), 400, "invalid_value"),
    "a cap of 2**63": (chat('"max_tokens":9223372036854775808'), 400, "invalid_value"),
    "a cap in quotes": (chat('"max_tokens":"5"'), 400, "invalid_type"),
    "a cap that is an object": (chat('"max_completion_tokens":{}'), 400, "invalid_type"),
    "stream options of another kind": (chat('"stream":true,"stream_options":[1]'), 400, "invalid_type"),
    "modalities of another kind": (chat('"modalities":"audio"'), 400, "invalid_type"),
    "modalities with a lone surrogate": (chat('"modalities":["\\ud800"]'), 400, None),
    "a lone surrogate where nobody reads": (chat('"user":"\\ud800"'), 400, None),
    "10,000 members": (b"{" + b",".join(b'"k%d":0' % n for n in range(10_000)) + b',"model":"gpt-4o","messages":[]}', 400, None),
    "a name of 1,000,000 characters that is never closed": (b'{"' + b"k" * 1_000_000, 400, None),
    "1,000,000 escapes that are none": (b'{"model":"' + b"\\q" * 500_000 + b'"}', 400, None),
}  # fmt: skip


@pytest.mark.parametrize(("body", "status", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_a_body_that_cannot_be_metered_is_refused_and_the_connection_kept(
    body: bytes, status: int, code: str | None, attack: Any, words: Any, assert_openai_error: Any
) -> None:
    with attack.client() as client:
        got = client.send(attack.request(body)).answer("POST")
        error = assert_openai_error(got.status, got.headers, got.body, status, code)
        assert len(error["message"]) < 1_000
        assert client.send(attack.request()).answer("POST").body == words.answer
    assert len(attack.seen()) == 1


PASSED = {
    "unknown members": chat('"frobnicate":{"a":[1,null]},"":0,"\\u0000":1'),
    "an unknown member twice": chat('"frob":1,"frob":2'),
    "a model whose name is escaped": b'{"mod\\u0065l":"gpt-4o","messages":[]}',
    "a model whose value is escaped": model('"gpt\\u002d4o"'),
    "members in capitals": chat('"MAX_TOKENS":1e999,"Model":"o3-mini"'),
    "1e999 where nobody reads": chat('"temperature":1e999'),
    "100,000 digits where nobody reads": chat('"seed":' + "9" * 100_000),
    "minus zero": chat('"temperature":-0.0'),
    "every escape": chat('"user":"\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\ud83d\\ude00"'),
    "UTF-8": chat('"user":"é😀"'),
    "white space everywhere": b'\r\n\t { "model" :\n"gpt-4o" , "messages" : [ ] }\r\n ',
    "arrays 500 deep": chat('"metadata":' + "[" * 500 + "]" * 500),
    "900 members": chat(",".join(f'"k{n}":0' for n in range(900))),
    "a stream whose bytes are left alone": chat('"stream":true,"stream_options":{"include_usage":true}'),
}


@pytest.mark.parametrize("body", PASSED.values(), ids=PASSED.keys())
def test_a_body_that_is_odd_and_right_reaches_openai_byte_for_byte(body: bytes, attack: Any, words: Any) -> None:
    with attack.client() as client:
        assert client.send(attack.request(body)).answer("POST").body == words.answer
    (seen,) = attack.seen()
    assert seen.body == body
    assert attack.entry()["usage_source"] == "reported"


ODD_MODELS = {
    "a line end": "new\nline", "a terminal's escapes": "\x1b[2J\x1b]0;evil\x07", "NUL": "a\0b", "a quote": 'a"b\\', "a path": "../x",
    "200 letters": "m" * 200, "200 characters of four bytes": "\N{GRINNING FACE}" * 200, "right to left": "\u202egpt",
    "a header": "x\r\nx-evil: 1",
}  # fmt: skip


@pytest.mark.parametrize("name", ODD_MODELS.values(), ids=ODD_MODELS.keys())
def test_a_model_nobody_knows_is_booked_where_a_team_may_use_it(name: str, attack: Any) -> None:
    body = json.dumps({"model": name, "messages": []}).encode()
    with attack.client() as client:
        assert client.send(attack.request(body, team="open")).answer("POST").status == 200
    assert attack.seen()[0].body == body
    entry = attack.entry()
    assert entry["model_asked"] in (name, name.encode("ascii", "backslashreplace").decode()[:200])
    assert (entry["usage_source"], entry["cost_picousd"] is None) == ("reported", False), "priced by the model served"
    families = {family.name for family in text_string_to_metric_families(attack.place.metrics())}
    assert "gateway_requests" in families, "metrics can still be read"


# What a body is wrapped in


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "deflate", "br", "zstd", "x-gzip", "gzip, gzip", "identity, gzip", "utf-8", ""])
def test_a_body_that_says_it_is_compressed_is_415(coding: str, attack: Any, words: Any, assert_openai_error: Any) -> None:
    with attack.client() as client:
        got = client.send(attack.request(gzip.compress(words.chat), f"Content-Encoding: {coding}\r\n")).answer("POST")
        assert_openai_error(got.status, got.headers, got.body, 415, "unsupported_encoding")
        got = client.send(attack.request(words.chat, f"Content-Encoding: identity\r\nContent-Encoding: {coding}\r\n")).answer("POST")
        assert_openai_error(got.status, got.headers, got.body, 415, "unsupported_encoding")
        assert client.send(attack.request(words.chat, "Content-Encoding: identity\r\n")).answer("POST").status == 200
    assert len(attack.seen()) == 1


def test_a_body_that_is_compressed_and_does_not_say_so_is_no_json(attack: Any, words: Any, assert_openai_error: Any) -> None:
    with attack.client() as client:
        got = client.send(attack.request(gzip.compress(words.chat))).answer("POST")
        assert_openai_error(got.status, got.headers, got.body, 400)


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/xml", "application/json; charset=utf-16", "x", "", "multipart/form-data; boundary=x"]
)
def test_json_under_a_wrong_content_type_is_read_all_the_same(kind: str, attack: Any, words: Any) -> None:
    raw = attack.request().replace(b"Content-Type: application/json", b"Content-Type: " + kind.encode())
    with attack.client() as client:
        assert client.send(raw).answer("POST").status == 200
    (seen,) = attack.seen()
    assert (seen.body, seen.header("content-type")) == (words.chat, kind)
    assert attack.entry()["usage_source"] == "reported"


# Size


def padded(size: int) -> bytes:
    body = b'{"model":"gpt-4o","messages":[],"user":"'
    return body + b"u" * (size - len(body) - 2) + b'"}'


def in_chunks(body: bytes, size: int = 65_536) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part := body[at : at + size]), part) for at in range(0, len(body), size)) + b"0\r\n\r\n"


@pytest.mark.parametrize(("over", "status"), [(-1, 200), (0, 200), (1, 413)], ids=["one under", "at the bound", "one over"])
@pytest.mark.parametrize("chunked", [False, True], ids=["counted", "chunked"])
def test_a_body_may_be_as_long_as_its_bound(
    chunked: bool, over: int, status: int, attack: Any, words: Any, assert_openai_error: Any
) -> None:
    body = padded(words.body_bytes_max + over)
    head = attack.head("POST", "/v1/chat/completions", "Transfer-Encoding: chunked\r\n")
    with attack.client() as client:
        client.send(head + in_chunks(body) if chunked else attack.request(body))
        got = client.answer("POST")
        if status == 200:
            assert got.body == words.answer
            assert attack.seen()[0].body == body
        else:
            assert_openai_error(got.status, got.headers, got.body, 413)
            assert client.closed()
            assert attack.seen() == []


@pytest.mark.parametrize("length", ["4194305", "999999999999999", "9999999999999999999", "18446744073709551615"])
def test_a_count_over_the_bound_is_refused_before_its_body_comes(length: str, attack: Any, assert_openai_error: Any) -> None:
    with attack.client() as client:
        got = client.send(attack.head("POST", "/v1/chat/completions", f"Content-Length: {length}\r\n")).answer("POST")
        assert_openai_error(got.status, got.headers, got.body, 413)
        assert client.closed()
    assert attack.seen() == []


@pytest.mark.parametrize("size", ["400001", "7fffffffffffffff", "ffffffffffffffff"])
def test_a_chunk_over_the_bound_is_refused_once_its_bytes_are(size: str, attack: Any, words: Any, assert_openai_error: Any) -> None:
    head = attack.head("POST", "/v1/chat/completions", "Transfer-Encoding: chunked\r\n")
    with attack.client() as client:
        client.send(head + size.encode() + b"\r\n" + b"x" * (words.body_bytes_max + 1))
        got = client.answer("POST")
        assert_openai_error(got.status, got.headers, got.body, 413)
        assert client.closed()
    assert attack.seen() == []


@pytest.mark.parametrize("how", ["counted", "chunked"])
def test_who_writes_on_behind_a_refusal_still_finds_it(how: str, attack: Any, assert_openai_error: Any) -> None:
    """A close with bytes unread would reset the connection, and the refusal be lost."""
    framing = "Content-Length: 6000000\r\n" if how == "counted" else "Transfer-Encoding: chunked\r\n"
    with attack.client() as client:
        client.send(attack.head("POST", "/v1/chat/completions", framing))
        client.send(b"x" * 6_000_000 if how == "counted" else in_chunks(b"x" * 6_000_000))
        got = client.answer("POST")
        assert_openai_error(got.status, got.headers, got.body, 413)
        assert client.closed()
