"""POST /v1/chat/completions. Source: reference/endpoints.md section 3."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec

from gateway.simulator.call import Answer, Call, Step, fees_of, json_answer
from gateway.simulator.desk import Desk
from gateway.simulator.draw import Choice, Draw, Wish, prompt_of
from gateway.simulator.models import Model
from gateway.simulator.refusal import invalid, missing
from gateway.simulator.usage import CHAT_METERS, chat_usage
from gateway.simulator.words import deltas, obfuscation, sound, words
from gateway.units import Meter, Usage

TOKENS_MAX = 1_000_000
CHOICES_MAX = 128
AUDIO_KEPT_S = 3600
DONE = b"data: [DONE]\n\n"
# These models search once per answer, which no usage object tells (reference/endpoints.md section 3).
SEARCH_FEES: dict[str, Usage] = {
    "gpt-4o-search-preview": {Meter.WEB_SEARCH_PREVIEW_CALLS: 1},
    "gpt-5-search-api": {Meter.WEB_SEARCH_CALLS: 1},
}
STREAM_FAILURE = {"message": "The server had an error while processing your request. Sorry about that!", "type": "server_error"}


def chat(call: Call, desk: Desk) -> Answer:
    """One chat completion, whole or as a stream."""
    model = desk.model(call, "chat")
    messages = call.array("messages")
    if not messages:
        raise missing("messages")
    stream = stream_options(call)
    wish = _wish(call, model)
    prompt = prompt_of([*messages, *call.array("tools")])
    drawn = desk.draw(call, model, desk.tier(call, model), prompt, wish, CHAT_METERS)
    fees = SEARCH_FEES.get(model.row, {})
    drawn = replace(drawn, quantities=drawn.quantities | fees)
    head = {"id": desk.new_id("chatcmpl-"), "created": int(time.time()), "model": drawn.model, "service_tier": drawn.service_tier}
    if stream is None:
        return json_answer(_whole(head, call, drawn, wish), drawn, str(head["id"]))
    steps = list(_Stream(call, head, drawn, stream, wish.spoken).steps())
    return Answer(steps, drawn, streamed=True, answer_id=str(head["id"]), failure=chat_failure)


def stream_options(call: Call) -> dict[str, Any] | None:
    """The stream options of a call that streams. None: it does not. Refusal 400: it has them and does not."""
    options = call.object("stream_options")
    if call.flag("stream"):
        return options
    if call.body.get("stream_options") is not None:
        raise invalid("The 'stream_options' parameter is only allowed when 'stream' is enabled.", "stream_options")
    return None


def chat_failure(how: str, index: int, last: Step) -> bytes:
    """What a stream says when it breaks: the same however, and no [DONE] follows."""
    return sse({"error": {**STREAM_FAILURE, "param": None, "code": None}})


def sse(body: Any) -> bytes:
    """One event without a name."""
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def _wish(call: Call, model: Model) -> Wish:
    spoken = "audio" in call.array("modalities")
    if spoken and not model.audio:
        raise invalid(f"The model `{model.name}` does not answer with audio.", "modalities")
    if spoken and not call.object("audio"):
        raise missing("audio")
    cap = call.number("max_completion_tokens", call.number("max_tokens", None, 1, TOKENS_MAX), 1, TOKENS_MAX)
    return Wish(
        tokens_max=cap,
        choices=call.number("n", 1, 1, CHOICES_MAX) or 1,
        spoken=spoken,
        reasons=call.body.get("reasoning_effort") not in ("none", "minimal"),
        predicted=call.body.get("prediction") is not None,
    )


def _whole(head: dict[str, Any], call: Call, drawn: Draw, wish: Wish) -> dict[str, Any]:
    choices = [
        {"index": index, "message": _message(head, index, choice, spoken=wish.spoken), "logprobs": None, "finish_reason": choice.finish}
        for index, choice in enumerate(drawn.choices)
    ]
    body = {**head, "object": "chat.completion", "choices": choices, "system_fingerprint": "fp_simulator"}
    if not call.faults.no_usage:
        body["usage"] = call.usage(chat_usage(drawn))
    return body


def _message(head: dict[str, Any], index: int, choice: Choice, *, spoken: bool) -> dict[str, Any]:
    text = words(index, choice.text_tokens)
    message: dict[str, Any] = {"role": "assistant", "content": None if spoken else text, "refusal": None, "annotations": []}
    if spoken:
        expires = head["created"] + AUDIO_KEPT_S
        message["audio"] = {"id": f"audio_{head['id']}", "data": sound(choice.audio_tokens), "expires_at": expires, "transcript": text}
    return message


class _Stream:
    """The chunks of one stream, and what had been generated at each."""

    def __init__(self, call: Call, head: dict[str, Any], drawn: Draw, options: dict[str, Any], spoken: bool) -> None:
        self._call, self._drawn, self._spoken = call, drawn, spoken
        self._tells_usage = options.get("include_usage") is True
        self._obfuscates = options.get("include_obfuscation") is not False
        self._head = {**head, "object": "chat.completion.chunk", "system_fingerprint": "fp_simulator"}
        self._fees = fees_of(drawn)
        self._text = self._audio = self._count = 0

    def steps(self) -> Iterator[Step]:
        drawn = self._drawn
        for index in range(len(drawn.choices)):
            start = {"role": "assistant", "refusal": None} | ({} if self._spoken else {"content": ""})
            yield self._chunk(index, start)
        self._text = drawn.hidden_tokens  # reasoning is over when the first word comes
        for index, choice in enumerate(drawn.choices):
            yield from self._spoken_choice(index, choice) if self._spoken else self._written_choice(index, choice)
        self._text, self._audio = drawn.output_text, drawn.output_audio
        for index, choice in enumerate(drawn.choices):
            yield self._chunk(index, {}, choice.finish)
        if self._tells_usage and not self._call.faults.no_usage:
            yield self._step({**self._head, "choices": [], "usage": self._call.usage(chat_usage(drawn))}, final=True)
        yield Step(DONE, self._text, self._audio, self._fees, final=True)

    def _written_choice(self, index: int, choice: Choice) -> Iterator[Step]:
        before = self._text
        for piece, tokens in deltas(index, choice.text_tokens):
            self._text = before + tokens
            yield self._chunk(index, {"content": piece})

    def _spoken_choice(self, index: int, choice: Choice) -> Iterator[Step]:
        audio_id, text_before, audio_before = f"audio_{self._head['id']}", self._text, self._audio
        for piece, tokens in deltas(index, choice.text_tokens):
            share = choice.audio_tokens * tokens // choice.text_tokens
            data = sound(audio_before + share - self._audio)
            self._text, self._audio = text_before + tokens, audio_before + share
            yield self._chunk(index, {"audio": {"id": audio_id, "transcript": piece, "data": data}})
        self._audio = audio_before + choice.audio_tokens
        yield self._chunk(index, {"audio": {"expires_at": self._head["created"] + AUDIO_KEPT_S}})

    def _chunk(self, index: int, delta: dict[str, Any], finish: str | None = None) -> Step:
        body = {**self._head, "choices": [{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}]}
        if self._tells_usage:
            body["usage"] = None
        return self._step(body)

    def _step(self, body: dict[str, Any], *, final: bool = False) -> Step:
        self._count += 1
        if self._obfuscates:
            body["obfuscation"] = obfuscation(self._count)
        return Step(sse(body), self._text, self._audio, self._fees if self._text or self._audio else {}, final)
