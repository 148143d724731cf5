"""Editing at the span of a member: what is meant changes, and no other byte."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.metering.edit import with_include_usage, without_usage
from gateway.metering.span import member_spans, members

OPTION = b'"stream_options":{"include_usage":true}'
EDITS = [
    pytest.param(b"{}", b"{" + OPTION + b"}", id="empty"),
    pytest.param(b" { } ", b" {" + OPTION + b" } ", id="empty with space"),
    pytest.param(b'{"model":"m"}', b"{" + OPTION + b',"model":"m"}', id="absent"),
    pytest.param(b'{"stream_options":null}', b'{"stream_options":{"include_usage":true}}', id="null"),
    pytest.param(b'{"a":1, "stream_options" : { } ,"b":2}', b'{"a":1, "stream_options" : {"include_usage":true } ,"b":2}', id="no options"),
    pytest.param(b'{"stream_options":{"include_usage": false }}', b'{"stream_options":{"include_usage": true }}', id="false"),
    pytest.param(b'{"stream_options":{"include_usage":true}}', b'{"stream_options":{"include_usage":true}}', id="true already"),
    pytest.param(
        b'{"stream_options":{"include_obfuscation":false}}',
        b'{"stream_options":{"include_usage":true,"include_obfuscation":false}}',
        id="other options stay",
    ),
    pytest.param(
        b'{"stream_options":{"include_usage":true,"include_usage":false}}',
        b'{"stream_options":{"include_usage":true,"include_usage":true}}',
        id="twice inside",
    ),
    pytest.param(
        b'{"stream_\\u006fptions":{"include\\u005fusage":null}}',
        b'{"stream_\\u006fptions":{"include\\u005fusage":true}}',
        id="escaped names",
    ),
    pytest.param(
        b'{"x":{"stream_options":{}},"y":"\\"stream_options\\":null"}',
        b"{" + OPTION + b',"x":{"stream_options":{}},"y":"\\"stream_options\\":null"}',
        id="only nested and in a string",
    ),
    pytest.param(
        b'{"stream_options":{"x":{"include_usage":false}}}',
        b'{"stream_options":{"include_usage":true,"x":{"include_usage":false}}}',
        id="nested inside the options",
    ),
]


@pytest.mark.parametrize("body, edited", EDITS)
def test_the_option_is_merged_in(body: bytes, edited: bytes) -> None:
    assert with_include_usage(body) == edited


REMOVALS = [
    pytest.param(b'{"a":1,"usage":null}', b'{"a":1}', id="last"),
    pytest.param(b'{"usage":null,"a":1}', b'{"a":1}', id="first"),
    pytest.param(b'{"a":1 , "usage" : null , "b":2}', b'{"a":1  , "b":2}', id="between, with space"),
    pytest.param(b'{ "usage" : null }', b"{  }", id="alone"),
    pytest.param(b'{"usage":null,"usage":{"x":[1,"}"]},"a":1,"usage":3}', b'{"a":1}', id="three times"),
    pytest.param(b'{"a":{"usage":null},"b":"\\",\\"usage\\":null"}', b'{"a":{"usage":null},"b":"\\",\\"usage\\":null"}', id="only nested"),
    pytest.param(b'{"\\u0075sage":null,"a":"\\\\"}', b'{"a":"\\\\"}', id="escaped"),
    pytest.param(b"{}", b"{}", id="empty"),
]


@pytest.mark.parametrize("chunk, edited", REMOVALS)
def test_usage_is_taken_out(chunk: bytes, edited: bytes) -> None:
    assert without_usage(chunk) == edited


BROKEN = [
    b"",
    b" ",
    b"[]",
    b"{",
    b'{"a"',
    b'{"a":',
    b'{"a":}',
    b'{"a":1',
    b'{"a":1,}',
    b'{"a":1 "b":2}',
    b'{"a\\x":1}',
    b"{1:2}",
    b'{"\xff":1}',
    b'{"\\ud800":1}',
    b'{"a":"b}',
    b'{"a":[' * 50_000,
]


@pytest.mark.parametrize("document", BROKEN, ids=range(len(BROKEN)))
def test_what_is_no_object_is_a_value_error(document: bytes) -> None:
    with pytest.raises(ValueError):
        members(document)


def test_depth_and_length_do_no_harm() -> None:
    long = b'{"a":' + b"[" * 500 + b"]" * 500 + b',"b":"' + b'\\"' * 200_000 + b'"}'
    assert [member.name for member in members(long)] == ["a", "b"]
    with pytest.raises(ValueError):
        members(b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}")


def calls_made(work: Callable[[], object]) -> int:
    """How many functions, Python's and C's, some work calls."""
    made = 0

    def count(_frame: object, event: str, _what: object) -> None:
        nonlocal made
        made += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return made


@pytest.mark.parametrize("options", [b"", b'"stream_options":{},'], ids=["escapes", "stream options"])
def test_the_work_of_the_edit_grows_with_the_members_and_not_with_what_is_in_them(options: bytes) -> None:
    def body(messages: int) -> bytes:
        return b'{"model":"m",' + options + b'"messages":[' + b'{"content":[{"text":"\\u00e9{"}]},' * messages + b"{}]}"

    few, many = body(10), body(10_000)
    assert calls_made(lambda: with_include_usage(many)) == calls_made(lambda: with_include_usage(few))
    assert json.loads(with_include_usage(many)) == json.loads(many) | {"stream_options": {"include_usage": True}}


NAMED = ["stream_options", "include_usage", "usage", "a", 'quote"d', "back\\slash", "ünï", "😀", "", "}{][,:"]
NAMES = st.sampled_from(NAMED) | st.text(max_size=4)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=10,
)
OPTIONS = st.none() | st.dictionaries(NAMES, VALUES, max_size=3)
SPACES = st.sampled_from(["", " ", "\n", "\t ", " \r\n "])


@st.composite
def documents(draw: st.DrawFn) -> tuple[bytes, dict[str, Any]]:
    """A JSON object in some spelling: order, escapes and white space as drawn."""
    value = draw(st.dictionaries(NAMES, VALUES, max_size=5))
    if draw(st.booleans()):
        value["stream_options"] = draw(OPTIONS)
    space, ascii_only = draw(SPACES), draw(st.booleans())
    indent = draw(st.sampled_from([None, 1]))
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent, separators=(space + "," + space, space + ":" + space))
    if draw(st.booleans()):
        text = text.replace('"stream_options"', '"str\\u0065am_options"').replace('"include_usage"', '"\\u0069nclude_usage"')
    return (space + text + space).encode("utf-8", "surrogatepass" if ascii_only else "strict"), json.loads(text)


@given(documents())
@settings(max_examples=300, deadline=None)
def test_merging_is_what_a_parser_would_do(case: tuple[bytes, dict[str, Any]]) -> None:
    document, value = case
    given_options = value.get("stream_options")
    merged = dict(given_options, include_usage=True) if isinstance(given_options, dict) else {"include_usage": True}
    edited = with_include_usage(document)
    assert json.loads(edited) == dict(value, stream_options=merged)
    assert with_include_usage(edited) == edited


@given(documents())
@settings(max_examples=300, deadline=None)
def test_bytes_before_and_behind_the_member_stay(case: tuple[bytes, dict[str, Any]]) -> None:
    document, _ = case
    found = member_spans(document, "stream_options")
    edited = with_include_usage(document)
    if found:
        assert edited.startswith(document[: found[0].value_start])
        assert edited.endswith(document[found[0].value_end :])
    else:
        brace = document.index(b"{") + 1
        assert edited.startswith(document[:brace] + OPTION)
        assert edited.endswith(document[brace:])


@given(documents())
@settings(max_examples=300, deadline=None)
def test_members_are_those_a_parser_finds(case: tuple[bytes, dict[str, Any]]) -> None:
    document, value = case
    found = members(document)
    assert {member.name: json.loads(document[member.value_start : member.value_end]) for member in found} == value
    assert len(found) == len(value)


@given(documents())
@settings(max_examples=200, deadline=None)
def test_taking_usage_out_is_what_a_parser_would_do(case: tuple[bytes, dict[str, Any]]) -> None:
    document, value = case
    assert json.loads(without_usage(document)) == {name: inner for name, inner in value.items() if name != "usage"}


@given(st.binary(max_size=60) | st.text(alphabet='{}[]",:\\ au1', max_size=40).map(str.encode))
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_bytes_or_a_value_error(document: bytes) -> None:
    for edit in (with_include_usage, without_usage):
        try:
            assert isinstance(edit(document), bytes)
        except ValueError:
            pass
