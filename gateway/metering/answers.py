"""Whole answers: what one JSON object that OpenAI sent says about its call. Total.

Only the fields that are metered are decoded; the rest is skipped over.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gateway.metering.tools import chat_search_usage, tool_usage
from gateway.metering.usage import REASON_CHARS_MAX, Json, Metered, MeteringLost, usage_from_chat, usage_from_embedding, usage_from_response
from gateway.units import Usage

NO_JSON = msgspec.Raw()
TEXT_CHARS_MAX = 200  # of what is kept of any text: it goes into an entry of bounded size


class Observed(msgspec.Struct, frozen=True):
    """What an exchange was seen to use."""

    usage: Usage | None = None  # None: not reported
    details: dict[str, int] = {}
    model_served: str | None = None
    service_tier: str | None = None
    answer_id: str | None = None
    answer_status: str | None = None  # of responses: completed, failed, in_progress, …
    error_code: str | None = None  # of an error object, whole or mid-stream: its code, else its type
    emitted_tokens: int = 0  # content deltas seen: an estimate of the output of a stream that was cut
    lost: str | None = None  # why metering stopped


Reader = Callable[[bytes], Observed]
"""What a whole answer says. Total."""


class Error(msgspec.Struct):
    """An error object; `code` is a number in some answers, so both are kept raw."""

    code: msgspec.Raw = NO_JSON
    type: msgspec.Raw = NO_JSON


class _Answer(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    service_tier: str | None = None
    status: str | None = None
    usage: msgspec.Raw = NO_JSON
    error: msgspec.Raw = NO_JSON
    output: msgspec.Raw = NO_JSON
    tools: msgspec.Raw = NO_JSON
    tool_usage: msgspec.Raw = NO_JSON


_ANSWER = msgspec.json.Decoder(_Answer)
_ERROR = msgspec.json.Decoder(Error)
_TEXT = msgspec.json.Decoder(str)


def read_chat_answer(answer: bytes) -> Observed:
    """A chat completion, with the search that some models make in each."""
    return _observed(answer, lambda read: _chat(read))


def read_completion_answer(answer: bytes) -> Observed:
    """A legacy completion."""
    return _observed(answer, lambda read: usage_from_chat(read.usage))


def read_embedding_answer(answer: bytes) -> Observed:
    """A list of embeddings; the base64 or floats in it are skipped."""
    return _observed(answer, lambda read: usage_from_embedding(read.usage))


def read_response_answer(answer: bytes) -> Observed:
    """A response, created or retrieved. Its usage may be null until its status is terminal."""
    return _observed(answer, _response)


def read_compaction_answer(answer: bytes) -> Observed:
    """A response.compaction: usage as of responses, no tools."""
    return _observed(answer, lambda read: usage_from_response(read.usage))


def read_plain_answer(answer: bytes) -> Observed:
    """A moderation: free, so that nothing is its reported usage."""
    return _observed(answer, None)


def with_chat_search(metered: Metered, model: str | None) -> Metered:
    """The usage of a chat answer and the fee of the search its model made."""
    usage, details = metered
    searched = chat_search_usage(model)
    return (usage | searched if searched else usage), details


def given(value: msgspec.Raw) -> bool:
    """Whether a member is there and not null."""
    view = memoryview(value)
    return view.nbytes > 0 and view[0] != ord("n")


def error_code_of(error: Json) -> str:
    """Code of an error object, else its type, else "error". Total; clipped."""
    try:
        told = _ERROR.decode(error)
        for value in (told.code, told.type):
            if given(value):
                text = _TEXT.decode(value) if memoryview(value)[0] == ord('"') else bytes(value).decode()
                if text:
                    return text[:TEXT_CHARS_MAX]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass  # an error that is no object, or whose code is no text, is still an error
    return "error"


def clipped(text: str | None) -> str | None:
    """At most TEXT_CHARS_MAX of it."""
    return text if text is None or len(text) <= TEXT_CHARS_MAX else text[:TEXT_CHARS_MAX]


def _chat(read: _Answer) -> Metered:
    return with_chat_search(usage_from_chat(read.usage), read.model)


def _response(read: _Answer) -> Metered:
    usage, details = usage_from_response(read.usage)
    fees, more = tool_usage(read.output, read.tools, read.tool_usage)
    for meter, count in fees.items():
        usage[meter] = usage.get(meter, 0) + count
    return usage, details | more


def _observed(answer: Json, meter: Callable[[_Answer], Metered] | None) -> Observed:
    try:
        read = _ANSWER.decode(answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as broken:
        return Observed(lost=f"answer cannot be read: {broken}"[:REASON_CHARS_MAX])
    usage: Usage | None = None
    details: dict[str, int] = {}
    lost: str | None = None
    error_code = error_code_of(read.error) if given(read.error) else None
    if meter is None:
        usage = {} if error_code is None else None
    elif given(read.usage):
        try:
            usage, details = meter(read)
        except MeteringLost as why:
            lost = why.reason
    return Observed(
        usage=usage,
        details=details,
        model_served=clipped(read.model),
        service_tier=clipped(read.service_tier),
        answer_id=clipped(read.id),
        answer_status=clipped(read.status),
        error_code=error_code,
        lost=lost,
    )


def read_response_object(response: Json) -> Observed:
    """The `response` inside an event of a responses stream."""
    return _observed(response, _response)
