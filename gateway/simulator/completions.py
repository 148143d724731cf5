"""POST /v1/completions, the endpoint before chat. Source: reference/endpoints.md section 9."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from gateway.simulator.call import Answer, Call, Step, json_answer
from gateway.simulator.chat import CHOICES_MAX, DONE, TOKENS_MAX, chat_failure, sse, stream_options
from gateway.simulator.desk import Desk
from gateway.simulator.draw import Draw, Wish, prompt_of
from gateway.simulator.refusal import invalid
from gateway.simulator.usage import completion_usage
from gateway.simulator.words import deltas, words
from gateway.units import Meter

METERS = frozenset({Meter.INPUT_TEXT, Meter.OUTPUT_TEXT})


def completions(call: Call, desk: Desk) -> Answer:
    """One completion, whole or as a stream. All candidates of `best_of` are generated and billed, `n` of them shown."""
    model = desk.model(call, "completions")
    stream = stream_options(call)
    prompts = prompts_of(call)
    n = call.number("n", 1, 1, CHOICES_MAX) or 1
    best_of = call.number("best_of", n, 1, CHOICES_MAX) or 1
    if best_of < n:
        raise invalid("'best_of' must be at least 'n'.", "best_of")
    cap = call.number("max_tokens", None, 1, TOKENS_MAX)
    wish = Wish(tokens_max=cap, choices=n * len(prompts), unseen=(best_of - n) * len(prompts))
    drawn = desk.draw(call, model, "default", prompt_of(prompts), wish, METERS)
    head = {"id": desk.new_id("cmpl-"), "object": "text_completion", "created": int(time.time()), "model": drawn.model}
    if stream is None:
        choices = [_choice(index, words(index, shown.text_tokens), shown.finish) for index, shown in enumerate(drawn.choices)]
        body = {**head, "choices": choices}
        if not call.faults.no_usage:
            body["usage"] = call.usage(completion_usage(drawn))
        return json_answer(body, drawn, str(head["id"]))
    tells_usage = stream.get("include_usage") is True
    return Answer(list(_steps(call, head, drawn, tells_usage)), drawn, streamed=True, answer_id=str(head["id"]), failure=chat_failure)


def prompts_of(call: Call, name: str = "prompt", default: str | None = "") -> list[Any]:
    """The prompts of a call: a string, token ids, or a list of either."""
    given = call.body.get(name)
    if given is None and default is not None:
        return [default]
    if isinstance(given, str):
        return [given]
    if isinstance(given, list) and given and all(isinstance(part, (str, list)) for part in given):
        return given
    if isinstance(given, list) and given and all(isinstance(part, int) for part in given):
        return [given]
    raise invalid(f"Invalid value for '{name}': expected a string, an array of strings, or token ids.", name)


def _choice(index: int, text: str, finish: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}


def _steps(call: Call, head: dict[str, Any], drawn: Draw, tells_usage: bool) -> Iterator[Step]:
    usage: dict[str, Any] = {"usage": None} if tells_usage else {}
    text = drawn.hidden_tokens  # candidates that lost were generated before any could be shown
    for index, choice in enumerate(drawn.choices):
        before = text
        for piece, tokens in deltas(index, choice.text_tokens):
            text = before + tokens
            yield Step(sse({**head, "choices": [_choice(index, piece, None)], **usage}), text)
        yield Step(sse({**head, "choices": [_choice(index, "", choice.finish)], **usage}), text)
    if tells_usage and not call.faults.no_usage:
        yield Step(sse({**head, "choices": [], "usage": call.usage(completion_usage(drawn))}), text, final=True)
    yield Step(DONE, text, final=True)
