"""Watching answers go by for what they used: one observer for each form an answer has. Sans-io: feed bytes, cut anywhere."""

from __future__ import annotations

import re
from typing import Protocol

import msgspec

from gateway.metering.answers import (
    NO_JSON,
    Observed,
    clipped,
    error_code_of,
    given,
    read_chat_answer,
    read_response_answer,
    read_response_object,
    with_chat_search,
)
from gateway.metering.edit import without_usage
from gateway.metering.sse import ANSWER_BYTES_MAX, EVENT_BYTES_MAX, AnswerObserver, StreamObserver, bytes_before, data_of, with_data
from gateway.metering.usage import MeteringLost, usage_from_chat
from gateway.units import Usage

__all__ = ["AnswerObserver", "ChatStreamObserver", "Observed", "Observer", "ResponsesStreamObserver"]


class Observer(Protocol):
    """What the path asks of every observer. No method raises."""

    ended: bool  # the terminal event has been fed
    usage_due: bool  # the model is done and the usage has not come yet: worth reading on for
    started: bool  # the first content has been fed: time to first token

    def feed(self, data: bytes) -> bytes:
        """Bytes that may go to the client now."""

    def release(self) -> bytes:
        """What was held for the entry: the terminal event and all after it; all that is fed later passes."""

    def finish(self) -> Observed:
        """What was seen. To be called once, when no more will be fed, before `release`."""


# Chat completions, and completions


class _Delta(msgspec.Struct):
    content: msgspec.Raw = NO_JSON
    refusal: msgspec.Raw = NO_JSON
    tool_calls: msgspec.Raw = NO_JSON
    function_call: msgspec.Raw = NO_JSON
    audio: msgspec.Raw = NO_JSON


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: msgspec.Raw = NO_JSON
    finish_reason: msgspec.Raw = NO_JSON


class _Chunk(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    service_tier: str | None = None
    choices: list[_Choice] | None = None
    usage: msgspec.Raw = NO_JSON
    error: msgspec.Raw = NO_JSON


_CHUNK = msgspec.json.Decoder(_Chunk)
_NULL_USAGE = re.compile(rb',"usage":null(?=(?:,"obfuscation":"[^"\\\n]*+")?\}\n\n)')
_NULL_USAGE_LAST = b',"usage":null}\n\n'
_EMPTY = frozenset({b"", b'""', b"null", b"[]", b"{}"})
_CHAT_MARKS = (b'"finish_reason":"', b'"usage":{', b"data: [DONE]")
_CHAT_ENDS = (b"data: [DONE]", b"data:[DONE]", b'data: {"error"', b'data:{"error"', b"event: error", b"event:error")


def _beginnings(texts: tuple[bytes, ...]) -> frozenset[bytes]:
    return frozenset(text[:length] for text in texts for length in range(len(text)))


_CHAT_END_BEGINNINGS = _beginnings(_CHAT_ENDS)


class ChatStreamObserver(StreamObserver):
    """Watches a chat completion stream, or a completion stream (the same shape, with `choices[].text`).

    The gateway always asks for usage. If the client did not (`usage_asked` false), the extra chunk and the `usage` members are
    taken out again and all else stays byte for byte; if it did, every byte passes. `[DONE]`, or an error mid-stream, waits
    for `release`. An event counts as one emitted token. Names of members are expected as OpenAI writes them, unescaped.

    Source: reference/endpoints.md section 3; Azure opens with a chunk without choices and usage (limits-and-errors.md section 7).
    """

    def __init__(self, usage_asked: bool, *, event_bytes_max: int = EVENT_BYTES_MAX) -> None:
        super().__init__(read_chat_answer, edits=not usage_asked, event_bytes_max=event_bytes_max)
        self._usage: Usage | None = None
        self._details: dict[str, int] = {}
        self._model: str | None = None
        self._service_tier: str | None = None
        self._id: str | None = None
        self._error_code: str | None = None
        self._emitted_tokens = 0

    def _bulk(self, block: bytes) -> bytes | None:
        """Chunks on one `data` line each, LF, with choices, none finished, no usage: most of any stream, as OpenAI writes it.

        Exact: a quote inside a JSON string is escaped, so these patterns match only members; and a member right before the
        brace that ends its line is the outermost.
        """
        events = block.count(b'"choices":[{')
        if not block.startswith(b"data: {") or (events > 1 and block.count(b"\n\ndata: {") != events - 1):
            return None
        if b"\n" in block.replace(b"\n\n", b"", events) or not block.endswith(b"\n\n"):  # faster than counting lines
            return None
        if block.count(b'"finish_reason":null') != block.count(b'"finish_reason"'):
            return None
        usages = block.count(b'"usage"')
        if usages:
            if not self._edits:
                if block.count(b'"usage":null') != usages:
                    return None
            else:
                edited = block.replace(_NULL_USAGE_LAST, b"}\n\n")  # its usual place, and thrice as fast as the pattern
                if len(block) - len(edited) != usages * (len(_NULL_USAGE_LAST) - 3):
                    edited, removed = _NULL_USAGE.subn(b"", block)
                    if removed != usages:
                        return None
                block = edited
        self._emitted_tokens += events
        return block

    def _plain_bytes(self, block: bytes, at: int, reach: int) -> int:
        return bytes_before(_CHAT_MARKS, block, at, reach)

    def _may_end(self, tail: bytes) -> bool:
        return tail in _CHAT_END_BEGINNINGS or tail.startswith(_CHAT_ENDS)

    def _event(self, event: bytes) -> bytes:
        data = data_of(event)
        if not data:
            return event
        if data.strip() == b"[DONE]":
            self._end()
            return event
        try:
            chunk = _CHUNK.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            if b'"usage"' in data and self._usage is None:
                self._lost = "a chunk with usage cannot be read"
            return event
        if given(chunk.error):
            self._error_code = error_code_of(chunk.error)
            self._end()
            return event
        self._read(chunk)
        if not self._edits or not memoryview(chunk.usage).nbytes:
            return event
        if given(chunk.usage) and not chunk.choices:
            return b""
        if event.endswith(_NULL_USAGE_LAST) and event.count(b'"usage"') == 1 and event.count(b"\n") == 2:
            return event[: -len(_NULL_USAGE_LAST)] + b"}\n\n"  # as in `_bulk`
        try:
            return with_data(event, without_usage(data))
        except ValueError:
            return event  # decoded, but not by our tokenizer: rather one member too many than a broken event

    def _end(self) -> None:
        self.ended = True
        self.usage_due = False

    def _read(self, chunk: _Chunk) -> None:
        choices = chunk.choices or ()
        finished = any(bytes(choice.finish_reason) not in _EMPTY for choice in choices)
        if not self.started or finished or given(chunk.usage):
            self._id = clipped(chunk.id) or self._id
            self._model = clipped(chunk.model) or self._model
            self._service_tier = clipped(chunk.service_tier) or self._service_tier
        if any(_says(choice) for choice in choices):
            self.started = True
            self._emitted_tokens += 1
        elif self.started and choices and not finished:
            self._emitted_tokens += 1
        if finished:
            self.usage_due = self._usage is None
        if given(chunk.usage):
            self.usage_due = False
            try:
                self._usage, self._details = usage_from_chat(chunk.usage)
                self._lost = None
            except MeteringLost as why:
                self._usage, self._details, self._lost = None, {}, why.reason

    def _observed(self) -> Observed:
        usage, details = self._usage, self._details
        if usage is not None:
            usage, details = with_chat_search((usage, details), self._model)
        return Observed(
            usage=usage,
            details=details,
            model_served=self._model,
            service_tier=self._service_tier,
            answer_id=self._id,
            error_code=self._error_code,
            emitted_tokens=self._emitted_tokens,
            lost=self._lost,
        )


def _says(choice: _Choice) -> bool:
    delta = choice.delta
    if bytes(choice.text) not in _EMPTY:
        return True
    if delta is None:
        return False
    return any(bytes(raw) not in _EMPTY for raw in (delta.content, delta.refusal, delta.tool_calls, delta.function_call, delta.audio))


# Responses


class _ResponsesEvent(msgspec.Struct):
    type: str | None = None
    response: msgspec.Raw = NO_JSON
    code: msgspec.Raw = NO_JSON
    error: msgspec.Raw = NO_JSON


_RESPONSES_EVENT = msgspec.json.Decoder(_ResponsesEvent)
_TERMINAL = frozenset({"response.completed", "response.incomplete", "response.failed", "error"})
_WITH_RESPONSE = frozenset({"response.created", "response.in_progress", "response.queued"})
_RESPONSES_MARKS = (b".done\n", b".added\n", b"event: response.completed\n")
_RESPONSES_ENDS = (
    b"data: [DONE]",
    b"data:[DONE]",
    *(
        start + name
        for name in (b"response.completed", b"response.incomplete", b"response.failed", b"error")
        for start in (b"event: ", b"event:", b'data: {"type":"', b'data:{"type":"')
    ),
)
_RESPONSES_END_BEGINNINGS = _beginnings(_RESPONSES_ENDS)
_ITEM_OPENED = frozenset({"response.output_item.added"})
_ITEM_CLOSED = frozenset({"response.output_item.done", "response.output_text.done", "response.function_call_arguments.done"})


class ResponsesStreamObserver(StreamObserver):
    """Watches a responses stream. Every byte passes; the terminal event, which carries the usage, waits for `release`.

    Its event may hold a whole answer with images, so its bound is that of answers. An event named `….delta` counts as one
    emitted token. `usage_due`: an output item is complete and no other has begun. Source: reference/endpoints.md section 4.
    """

    def __init__(self, *, event_bytes_max: int = ANSWER_BYTES_MAX) -> None:
        super().__init__(read_response_answer, edits=False, event_bytes_max=event_bytes_max)
        self._answer = Observed()
        self._error_code: str | None = None
        self._emitted_tokens = 0

    def _bulk(self, block: bytes) -> bytes | None:
        """Nothing but events that are named deltas, with LF: the name is on a line of its own, and no JSON string holds a LF."""
        events = block.count(b".delta\n")
        if block.count(b"\n") != 3 * events or not block.startswith(b"event: response."):
            return None
        if events > 1 and block.count(b"\n\nevent: response.") != events - 1:
            return None
        self._emitted_tokens += events
        return block

    def _plain_bytes(self, block: bytes, at: int, reach: int) -> int:
        return bytes_before(_RESPONSES_MARKS, block, at, reach)

    def _may_end(self, tail: bytes) -> bool:
        return tail in _RESPONSES_END_BEGINNINGS or tail.startswith(_RESPONSES_ENDS)

    def _event(self, event: bytes) -> bytes:
        data = data_of(event)
        if not data:
            return event
        if data.strip() == b"[DONE]":
            self._end()
            return event
        try:
            told = _RESPONSES_EVENT.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            if b'"usage"' in data:
                self._lost = "an event with usage cannot be read"
            return event
        kind = told.type or ""
        if kind.endswith(".delta"):
            self.started = True
            self._emitted_tokens += 1
        elif kind in _TERMINAL:
            self._terminal(kind, told, data)
        elif kind in _WITH_RESPONSE:
            self._answer = read_response_object(told.response)
        elif kind.endswith(".partial_image"):
            self.started = True
        elif kind in _ITEM_CLOSED:
            self.usage_due = True
        elif kind in _ITEM_OPENED:
            self.usage_due = False
        return event

    def _end(self) -> None:
        self.ended = True
        self.usage_due = False

    def _terminal(self, kind: str, told: _ResponsesEvent, data: bytes) -> None:
        self._end()
        if given(told.response):
            self._answer = read_response_object(told.response)
            self._lost = self._answer.lost
        elif kind == "error":
            self._error_code = error_code_of(told.error if given(told.error) else data)
        else:
            self._lost = "a terminal event without its response"

    def _observed(self) -> Observed:
        answer = self._answer
        return Observed(
            usage=answer.usage,
            details=answer.details,
            model_served=answer.model_served,
            service_tier=answer.service_tier,
            answer_id=answer.answer_id,
            answer_status=answer.answer_status,
            error_code=self._error_code or answer.error_code,
            emitted_tokens=self._emitted_tokens,
            lost=self._lost or answer.lost,
        )
