"""Whole answers, and usage as it is reported anywhere. Oracle: Python's json."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from gateway.endpoints.taps import ModelsFilter
from gateway.metering.answers import (
    Observed,
    Reader,
    read_chat_answer,
    read_compaction_answer,
    read_completion_answer,
    read_embedding_answer,
    read_plain_answer,
    read_response_answer,
)
from gateway.metering.close import usage_at_end
from gateway.metering.observers import AnswerObserver, Observer
from gateway.metering.usage import (
    QUANTITY_MAX,
    Json,
    Metered,
    MeteringLost,
    usage_from_chat,
    usage_from_duration,
    usage_from_embedding,
    usage_from_images,
    usage_from_realtime,
    usage_from_response,
    usage_from_speech,
    usage_from_transcription,
)
from gateway.units import Meter, Usage, tokens_of

from .target import CASES, Seeds, control, cut

_READERS: tuple[Reader, ...] = (
    read_chat_answer, read_completion_answer, read_embedding_answer, read_response_answer, read_compaction_answer, read_plain_answer,
)  # fmt: skip
_REPORTS: tuple[Callable[[Json], Metered], ...] = (
    usage_from_chat, usage_from_response, usage_from_realtime, usage_from_embedding, usage_from_transcription, usage_from_duration,
    usage_from_speech, usage_from_images,
)  # fmt: skip
_ASK: Usage = {Meter.INPUT_TEXT: 400, Meter.OUTPUT_TEXT: 1_000}


def check_whole_answer(data: bytes) -> None:
    """Every reader of answers gives what it saw and nothing else; what it takes for usage json reads too, and the sums are right."""
    flags, how, answer = control(data)
    read = _READERS[flags % len(_READERS)]
    passed, seen = observed(AnswerObserver(read), list(cut(answer, how)))
    assert passed == answer
    assert seen == read(answer), "what is seen depends on how the answer is cut"
    check_observed(seen)
    if seen.usage:
        told = json_object(answer)
        assert told is not None, f"usage is read from what is no JSON object: {seen}"
        drawn = sum(tokens for name, tokens in seen.details.items() if name.startswith("image_gen_") and name.endswith("_image_tokens"))
        total = seen.details.get("total_tokens")
        assert total is None or tokens_of(seen.usage) == total + drawn, "the meters do not add up to the total"


def check_usage(data: bytes) -> None:
    """Usage or MeteringLost: quantities are whole numbers above 0, and disjoint: they add up to the total."""
    flags, _, report = control(data)
    reads = _REPORTS[flags % len(_REPORTS)]
    try:
        usage, details = reads(report)
    except MeteringLost:
        return
    check_usage_values(usage)
    told = json_object(report)
    assert told is not None, "usage is read from what is no JSON object"
    if "total_tokens" in details:
        assert tokens_of(usage) == details["total_tokens"], "the meters do not add up to the total"


def check_observed(seen: Observed) -> None:
    """What every reader promises of what it gives, and that it can be closed."""
    for text in (seen.model_served, seen.service_tier, seen.answer_id, seen.answer_status, seen.error_code, seen.lost):
        assert text is None or len(text) <= 200
    assert seen.emitted_tokens >= 0
    if seen.usage is not None:
        check_usage_values(seen.usage)
    assert all(isinstance(value, int) and 0 <= value <= 2 * QUANTITY_MAX for value in seen.details.values())
    draw = random.Random(len(repr(seen)))
    usage, source = usage_at_end(
        seen, ask=_ASK, status=draw.choice([None, 200, 400, 500]), complete=draw.random() < 0.5, billable=draw.random() < 0.8,
        hides_tokens=draw.random() < 0.5, streamed=draw.random() < 0.5, background=draw.random() < 0.2,
    )  # fmt: skip
    check_usage_values(usage)
    assert (source == "not_billed") <= (not usage), "something that is not billed has usage"
    assert source != "reported" or usage == seen.usage


def check_usage_values(usage: Usage) -> None:
    """Known meters, whole numbers above 0, no wider than a ledger."""
    for meter, quantity in usage.items():
        assert isinstance(meter, Meter)
        assert isinstance(quantity, int)
        assert 0 < quantity <= 2 * QUANTITY_MAX, f"{meter} is {quantity}"


def check_models(data: bytes) -> None:
    """Of any list of models, cut anywhere, a client sees JSON with no model that its team may not see."""
    _, how, answer = control(data)
    taps = ModelsFilter(lambda name: name.startswith("gpt")), ModelsFilter(lambda name: name.startswith("gpt"))
    for tap, pieces in zip(taps, ([answer], list(cut(answer, how))), strict=True):
        for piece in pieces:
            assert tap.feed(piece) == b""
    shown = taps[0].release()
    assert shown == taps[1].release()
    listed = json.loads(shown.decode(errors="replace"))
    assert listed["object"] == "list"
    assert all(item["id"].startswith("gpt") for item in listed["data"])


def whole_answer_seeds() -> Seeds:
    """Every recorded answer, by every reader."""
    cases = {path.stem: path.read_bytes() for path in CASES.glob("*.json")}
    return {f"{name}, {read.__name__}": bytes([number, 7]) + case for name, case in cases.items() for number, read in enumerate(_READERS)}


def usage_seeds() -> Seeds:
    """The usage of every recorded answer, by every reader."""
    reports: dict[str, bytes] = {
        "floats": b'{"prompt_tokens":12.0,"completion_tokens":1e2}',
        "seconds": b'{"type":"duration","seconds":12.3456}',
    }
    for path in CASES.glob("*.json"):
        told = json.loads(path.read_bytes())
        usage = told.get("usage") or (told.get("response") or {}).get("usage")
        if usage:
            reports[path.stem] = json.dumps(usage, separators=(",", ":")).encode()
    return {
        f"{name}, {read.__name__}": bytes([number, 0]) + report for name, report in reports.items() for number, read in enumerate(_REPORTS)
    }


def models_seeds() -> Seeds:
    """Lists of models, right and wrong."""
    return {
        "list": b'\0\5{"object":"list","data":[{"id":"gpt-4o","object":"model"},{"id":"o3","object":"model"}]}',
        "id twice": b'\0\1{"data":[{"id":"gpt-4o","id":"o3"},{"id":"o3","id":"gpt-4o"}]}',
        "no ids": b'\0\1{"data":[{},[],1]}',
    }


def grow_whole_answer(answer: bytes) -> None:
    """Every reader."""
    for read in _READERS:
        read(answer)


def grow_usage(report: bytes) -> None:
    """Every reader."""
    for read in _REPORTS:
        try:
            read(report)
        except MeteringLost:
            continue


def json_object(text: bytes) -> dict[str, Any] | None:
    """What Python's json reads, numbers as bytes; None when that is no object. Usage beside a text that is no UTF-8 is still usage."""
    try:
        read = json.loads(text.decode(errors="replace"), parse_int=str.encode, parse_float=str.encode, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    return read if isinstance(read, dict) else None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def observed(observer: Observer, pieces: list[bytes]) -> tuple[bytes, Observed]:
    passed = b"".join([observer.feed(piece) for piece in pieces])
    seen = observer.finish()
    held = observer.release()
    assert observer.feed(b"later") == b"later"
    return passed + held, seen
