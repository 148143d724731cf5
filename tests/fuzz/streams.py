"""Streams of OpenAI, cut anywhere: nothing that passes is lost, and what is seen does not depend on the cut."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from gateway.metering.answers import Observed
from gateway.metering.observers import ChatStreamObserver, Observer, ResponsesStreamObserver

from .reports import check_observed, json_object, observed
from .target import CASES, Seeds, control, cut


def check_chat_stream(data: bytes) -> None:
    """As `_check_stream`; flag 1: the client has asked for usage, so every byte passes."""
    flags, how, stream = control(data)
    asked = bool(flags & 1)
    _check_stream(lambda bytes_max: ChatStreamObserver(asked, event_bytes_max=bytes_max), flags, how, stream, edits=not asked)


def check_responses_stream(data: bytes) -> None:
    """As `_check_stream`; every byte passes."""
    flags, how, stream = control(data)
    _check_stream(lambda bytes_max: ResponsesStreamObserver(event_bytes_max=bytes_max), flags, how, stream, edits=False)


def _check_stream(make: Callable[[int], Observer], flags: int, how: int, stream: bytes, *, edits: bool) -> None:
    """Nothing raises, whatever the cut the client gets the same bytes and the same is seen, and unless it edits, all bytes pass."""
    bytes_max = 512 if flags & 2 else 65_536
    out, seen = observed(make(bytes_max), [stream] if stream else [])
    check_observed(seen)
    by_pieces, seen_in_pieces = observed(make(bytes_max), list(cut(stream, how)))
    if not edits:
        assert out == by_pieces == stream, "bytes of a stream that is not edited are lost, made or moved"
    if flags & 2:
        return  # an oversized event is passed on unread, and where it counts as oversized depends on the cut
    assert seen_in_pieces.usage == seen.usage, "the usage that is seen depends on how the stream is cut"
    if not _as_openai_writes(stream):
        return  # many events are looked at at once by their marks, which tell nothing of what is no chunk
    assert by_pieces == out, "what the client gets depends on how the stream is cut"
    assert _without_reason(seen_in_pieces) == _without_reason(seen), "what is seen depends on how the stream is cut"
    if edits and not stream.lstrip().startswith(b"{"):
        _check_edited(stream, out)


def _without_reason(seen: Observed) -> Observed:
    """The reason why an answer cannot be read names a place in it, counted from where reading began."""
    return msgspec.structs.replace(seen, lost="lost") if seen.lost is not None else seen


def _check_edited(stream: bytes, out: bytes) -> None:
    """Up to the terminal event no chunk has usage left, and nothing was made."""
    for event in _EVENT.split(out):
        data = _data_of(event)
        told = json_object(data)
        if data.strip() == b"[DONE]" or (told is not None and told.get("error") is not None):
            break
        if told is not None and isinstance(told.get("choices"), list):
            assert "usage" not in told or _by_other_means(told), f"usage is left in {event!r}"
    assert len(out) <= len(stream), "the edited stream is longer"


_EVENT = re.compile(rb"\n\r?\n")


def _by_other_means(told: dict[str, Any]) -> bool:
    """Whether the chunk is not of the shape that is edited: nothing of it is decoded, so nothing of it can be taken out."""
    texts = (told.get(name) for name in ("id", "model", "service_tier", "type"))
    choices = told.get("choices") or []
    return any(not isinstance(text, str | None) for text in texts) or not (
        isinstance(choices, list) and all(isinstance(choice, dict) and isinstance(choice.get("delta"), dict | None) for choice in choices)
    )


def _as_openai_writes(stream: bytes) -> bool:
    """Whether every event is one that OpenAI might send: JSON of the right shape, its marks only where they mean something."""
    if not _is_utf8(stream) or b"\\ud" in stream.lower():  # half a surrogate pair: read by json, and refused by the parser we use
        return False
    for event in _EVENT.split(stream):
        data = _data_of(event)
        if not data or data.strip() == b"[DONE]":
            continue
        told = json_object(data)
        if told is None or _by_other_means(told):
            return False
        choices = told.get("choices") or []
        marks = {
            b'"choices":[{': bool(choices),
            b'"usage"': "usage" in told,
            b'"finish_reason"': sum("finish_reason" in each for each in choices),
        }
        if "choices" in told and any(data.count(mark) != times for mark, times in marks.items()):
            return False
        names = [line[6:].strip() for line in event.split(b"\n") if line.startswith(b"event:")]
        if names and names != [str(told.get("type", "")).encode()]:
            return False
    return True


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _data_of(event: bytes) -> bytes:
    return b"\n".join(line[5:].removeprefix(b" ").rstrip(b"\r") for line in event.split(b"\n") if line.startswith(b"data:"))


def grow_chat_stream(stream: bytes) -> None:
    """Both kinds of client, in reads of a network's size and in small ones."""
    for asked in (True, False):
        for size in (1_400, 64):
            observed(ChatStreamObserver(asked), [stream[at : at + size] for at in range(0, len(stream), size)])


def grow_responses_stream(stream: bytes) -> None:
    """In reads of a network's size and in small ones."""
    for size in (1_400, 64):
        observed(ResponsesStreamObserver(), [stream[at : at + size] for at in range(0, len(stream), size)])


def chat_stream_seeds() -> Seeds:
    """The recorded streams, whole and by their parts, with both line ends."""
    return _stream_seeds([path.stem for path in CASES.glob("*.sse") if not path.stem.startswith("responses")])


def responses_stream_seeds() -> Seeds:
    """The recorded streams, whole and by their parts, with both line ends."""
    return _stream_seeds([path.stem for path in CASES.glob("responses*.sse")])


def _stream_seeds(names: list[str]) -> Seeds:
    seeds: dict[str, bytes] = {"json": b"\0\1" + (CASES / "chat.json").read_bytes()}
    for name in names:
        stream = _WITHOUT_MEANING.sub(b"", (CASES / f"{name}.sse").read_bytes())
        events = stream.split(b"\n\n")
        short = b"\n\n".join([*events[:3], *events[-4:]])
        seeds |= {f"{name}, asked": b"\1\7" + short, f"{name}, CRLF": b"\0\1" + short.replace(b"\n", b"\r\n")}
        seeds |= {f"{name}, edited": b"\0\xaa" + short, f"{name}, small bound": b"\2\x30" + short}
    return seeds


_WITHOUT_MEANING = re.compile(  # here: nobody reads it, and short inputs are fuzzed faster
    rb'"(?:created|created_at|sequence_number|output_index|content_index)":[0-9]+,|"(?:object|system_fingerprint)":"[a-z._0-9]+",|"logprobs":(?:null|\[\]),'
)
