"""JSON that clients send: the readers of bodies and the edit. Oracle: Python's json, which must read what we take, and read the same."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from typing import Any

from gateway.errors import ApiError
from gateway.metering.body import COUNT_MAX, CallBody, read_chat, read_completion, read_embedding, read_moderation, read_response
from gateway.metering.edit import with_include_usage, without_usage
from gateway.metering.estimate import estimate, usage_of_ask
from gateway.metering.span import members

from .target import CASES, Seeds, control

_READERS: tuple[Callable[[bytes], CallBody | ApiError], ...] = (read_chat, read_completion, read_response, read_embedding, read_moderation)
_STREAMING = (read_chat, read_completion)
_INTEGER = re.compile(r"-?[0-9]+")


class _Assumed:
    output_tokens = 1_000
    history_input_tokens = 2_000
    image_tokens = 1_000
    file_tokens = 2_000
    bytes_per_token = 4


def check_body(data: bytes) -> None:
    """What a body is taken to say is what json reads in it, no name that is read stands there twice, and all else is OpenAI's 400."""
    flags, _, body = control(data)
    read = _READERS[flags % len(_READERS)]
    said = read(body)
    if isinstance(said, ApiError):
        assert (said.status, said.type) == (400, "invalid_request_error")
        json.loads(said.body())
        return
    try:
        pairs = _read_by_json(body)
    except RecursionError:
        return  # json gives up sooner than the parser we use
    told = dict(pairs)
    _check_said(read, said, told)
    for name in _READ_BY_ALL | _READ_BY.get(read, frozenset()):
        assert [key for key, _ in pairs].count(name) <= 1, f"{name!r} stands there twice"
    for policy in ("learned", "openai"):
        ask = estimate(
            said, model_output_tokens_max=None, learned_output_tokens=None, learned_input_tokens=None, settings=_Assumed(), policy=policy
        )
        assert all(0 < quantity < 2**63 for quantity in usage_of_ask(ask).values())
    if read in _STREAMING and said.stream and not said.usage_asked:
        edited = with_include_usage(body)
        with contextlib.suppress(RecursionError):  # of json and of comparing: the parser we use reads deeper
            _check_edit(body, edited, dict(told))


_READ_BY_ALL = frozenset({"model"})
_READ_BY = {
    read_chat: frozenset({"stream", "stream_options", "max_tokens", "max_completion_tokens", "n", "messages"}),
    read_completion: frozenset({"stream", "stream_options", "max_tokens", "n", "best_of", "prompt"}),
    read_response: frozenset({"stream", "max_output_tokens", "previous_response_id", "conversation", "background", "input"}),
    read_embedding: frozenset({"input"}),
}


def _check_said(read: Callable[[bytes], CallBody | ApiError], said: CallBody, told: dict[str, Any]) -> None:
    assert said.model == (told.get("model") or None)
    assert said.model is None or len(said.model) <= 200
    if read in _STREAMING or read is read_response:
        assert said.stream == bool(told.get("stream"))
        assert said.service_tier == told.get("service_tier")
    if read in _STREAMING:
        options = told.get("stream_options")
        assert said.usage_asked == (isinstance(options, _Object) and bool(dict(options.pairs).get("include_usage")))
    if read is read_response:
        assert said.previous_response_id == told.get("previous_response_id")
        assert said.background == bool(told.get("background"))
        cap = told.get("max_output_tokens")
        assert said.output_tokens_max == (None if cap is None else _as_count(cap))
    if read is read_chat:
        caps = [_as_count(told[name]) for name in ("max_tokens", "max_completion_tokens") if told.get(name) is not None]
        assert said.output_tokens_max == (max(caps) if caps else None)
        assert said.choices == _as_count(told.get("n") or "1")
    assert 0 <= said.choices <= COUNT_MAX


def _as_count(written: object) -> int:
    """A number as it stands; anything but an integer should have been refused."""
    assert isinstance(written, str), f"{written!r} was taken for a count"
    if not _INTEGER.fullmatch(written):
        number = float(written)
        assert number == int(number), f"{written} was taken for a whole number"
        return int(number)
    return int(written)


class _Object:
    """An inner object: a list of its members, since a dict hides duplicates."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self.pairs = pairs


def _read_by_json(body: bytes) -> list[tuple[str, Any]]:
    """The members of the body, numbers as they are written. AssertionError when json does not read it."""
    try:
        read = json.loads(body.decode(), object_pairs_hook=_Object, parse_int=str, parse_float=str, parse_constant=_refused)
    except ValueError as broken:
        raise AssertionError(f"taken, though json refuses it: {broken}") from broken
    assert isinstance(read, _Object), "taken, though it is no object"
    return read.pairs


def _refused(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _check_edit(body: bytes, edited: bytes, told: dict[str, Any]) -> None:
    """One place is changed, by a few bytes, and json then reads `include_usage: true` and all else as it was."""
    again = dict(_read_by_json(edited))
    options = dict(again.pop("stream_options").pairs)
    assert options.pop("include_usage") == True  # noqa: E712  # json's true
    before = told.pop("stream_options", None)
    kept = dict(before.pairs) if isinstance(before, _Object) else {}
    kept.pop("include_usage", None)
    assert _plain(again) == _plain(told), "another member was changed"
    assert _plain(options) == _plain(kept), "another stream option was changed"
    first = next((at for at, (one, other) in enumerate(zip(body, edited, strict=False)) if one != other), min(len(body), len(edited)))
    last = next((at for at in range(min(len(body), len(edited)) - first) if body[-1 - at] != edited[-1 - at]), len(body) - first)
    assert len(edited) - first - last <= len('"stream_options":{"include_usage":true},'), "more than one place was changed"


def _plain(value: Any) -> Any:
    """As it compares."""
    if isinstance(value, _Object):
        return [(name, _plain(inner)) for name, inner in value.pairs]
    if isinstance(value, dict):
        return [(name, _plain(inner)) for name, inner in value.items()]
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def check_edit(data: bytes) -> None:
    """Any bytes: an edited document or ValueError; of what json reads, only the member that is meant is changed."""
    _, _, document = control(data)
    for edit in (with_include_usage, without_usage):
        try:
            edited = edit(document)
        except ValueError:
            continue
        try:
            pairs = _read_by_json(document)
        except (AssertionError, RecursionError):
            continue  # garbage in, garbage out, as long as nothing breaks
        again = _read_by_json(edited)
        named = "usage" if edit is without_usage else "stream_options"
        assert _plain(_but(again, named)) == _plain(_but(pairs, named)), "another member was changed"
        if edit is without_usage:
            assert named not in dict(again)
        else:
            given = [value for name, value in again if name == named]
            assert given
            assert all(isinstance(value, _Object) and dict(value.pairs)["include_usage"] is True for value in given)
    _check_spans(document)


def _check_spans(document: bytes) -> None:
    try:
        found = members(document)
    except ValueError:
        return
    try:
        pairs = _read_by_json(document)
    except (AssertionError, RecursionError):
        return
    assert [member.name for member in found] == [name for name, _ in pairs]
    for member, (name, _) in zip(found, pairs, strict=True):
        alone = b"{%b}" % document[member.start : member.value_end]
        assert [key for key, _ in _read_by_json(alone)] == [name], "a member's place is wrong"


def _but(pairs: list[tuple[str, Any]], name: str) -> list[Any]:
    return [[key, value] for key, value in pairs if key != name]


def grow_body(body: bytes) -> None:
    """Every reader, and both edits."""
    for read in _READERS:
        read(body)
    for edit in (with_include_usage, without_usage):
        try:
            edit(body)
        except ValueError:
            continue


def body_seeds() -> Seeds:
    """Calls as SDKs send them, and everything that parsers read differently."""
    model = b'"model":"gpt-4o"'
    bodies = {
        "chat": b'{%b,"messages":[{"role":"user","content":"hi"}],"max_completion_tokens":5,"n":2}' % model,
        "stream": b'{%b,"messages":[],"stream":true}' % model,
        "stream, options": b'{%b,"stream":true,"stream_options":{"include_usage":false,"include_obfuscation":true}}' % model,
        "stream, null options": b' {%b , "stream" : true , "stream_options" : null }' % model,
        "stream, escaped options": b'{%b,"stream":true,"stream\\u005foptions":{"include\\u005fusage":false}}' % model,
        "escaped twice": b'{%b,"mod\\u0065l":"o3"}' % model,
        "twice": b'{%b,"model":"o3"}' % model,
        "media": b'{%b,"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:,a"}},'
        b'{"type":"input_audio","input_audio":{"data":"AAAA"}}]}],"modalities":["text","audio"]}' % model,
        "response": b'{%b,"input":"hi","conversation":{"id":"conv_1"},"prompt":{"id":"p"},"background":true,"max_output_tokens":9}' % model,
        "completion": b'{%b,"prompt":["a","b"],"best_of":3,"suffix":"z","max_tokens":0}' % model,
        "token ids": b'{%b,"prompt":[[1,2],[3]],"input":[1,2,3]}' % model,
        "NaN": b'{%b,"temperature":NaN}' % model,
        "huge numbers": b'{%b,"max_tokens":1e400,"n":123456789012345678901234567890}' % model,
        "lone surrogate": b'{%b,"user":"\\ud800"}' % model,
        "no UTF-8": b'{%b,"user":"\xff\xed\xa0\x80"}' % model,
        "control character": b'{%b,"user":"a\nb\x00"}' % model,
        "deep": b'{%b,"messages":%b}' % (model, b"[" * 1_200 + b"]" * 1_200),
        "deep stream": b'{%b,"stream":true,"\\u0061":%b}' % (model, b"[" * 890 + b"]" * 890),
        "BOM": b"\xef\xbb\xbf{%b}" % model,
        "behind it": b"{%b} {}" % model,
        "leading zero": b'{%b,"n":01}' % model,
        "bad escape": b'{%b,"user":"\\x"}' % model,
        "array": b"[]",
        "nothing": b"",
    }
    names = {read: number for number, read in enumerate(_READERS)}
    return {f"{name}, {read.__name__}": bytes([number, 0]) + body for name, body in bodies.items() for read, number in names.items()}


def edit_seeds() -> Seeds:
    """Chunks with usage, bodies without."""
    chunk = b'{"id":"a","choices":[],"usage":{"total_tokens":1}}'
    seeds = {name.partition(",")[0]: seed for name, seed in body_seeds().items() if "deep" not in name}
    seeds |= {
        "chunk": b"\0\0" + chunk,
        "usage first": b'\0\0{"usage":null , "a":1}',
        "only usage": b'\0\0{ "usage" : {} , "us\\u0061ge":1 }',
    }
    return seeds | {"answer": b"\0\0" + (CASES / "chat.json").read_bytes()}
