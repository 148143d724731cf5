"""The Responses API: create, read again, cancel, delete, count, compact. Source: reference/endpoints.md section 4.

A background response is queued when it is made and done when it is first read after `POLLS_BEFORE_DONE` reads; its line is
written then, under the request that made it. GETs report usage again and cost nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from gateway.simulator.call import Answer, Call, json_answer
from gateway.simulator.chat import TOKENS_MAX
from gateway.simulator.desk import Desk
from gateway.simulator.draw import Draw, Prompt, Wish, prompt_of
from gateway.simulator.models import Model
from gateway.simulator.refusal import Refusal, invalid, missing
from gateway.simulator.response_stream import ResponseEvents
from gateway.simulator.tools import ToolItem, fees, has_search, tools_of, use_tools
from gateway.simulator.usage import RESPONSE_METERS, response_usage, tool_usage
from gateway.simulator.words import words
from gateway.units import INPUT_METERS

RUNNING = ("queued", "in_progress")
POLLS_BEFORE_DONE = 1  # reads of a background response that find it in progress
PROMPT_MODEL = "gpt-4.1"  # of a request that names a stored prompt and no model
ECHOED = ("instructions", "max_output_tokens", "max_tool_calls", "metadata", "previous_response_id", "prompt", "temperature",
          "top_p", "user", "safety_identifier", "prompt_cache_key")  # fmt: skip


@dataclass(slots=True)
class Record:
    """A response and what is known of it: enough to tell it at any state, and to bill it once."""

    call: Call  # the request that made it
    head: dict[str, Any]  # what the object says at every state
    drawn: Draw
    tools: list[ToolItem]
    answer: Answer  # what its line says of how it was made
    background: bool
    status: str = "queued"
    polls: int = 0

    @property
    def final_status(self) -> str:
        """completed, or incomplete when the cap cut it off."""
        return "incomplete" if self.drawn.choices[0].finish == "length" else "completed"

    @property
    def context_tokens(self) -> int:
        """What a next turn carries of it: its input and its output."""
        return sum(self.drawn.quantities.get(meter, 0) for meter in INPUT_METERS) + self.drawn.output_text

    def told(self, status: str | None = None, drawn: Draw | None = None) -> dict[str, Any]:
        """The response object in a state; usage and output are in it when it has ended."""
        status = status or self.status
        body = {**self.head, "status": status}
        if status in ("completed", "incomplete"):
            body |= {"output": self._output(), "usage": None if self.call.faults.no_usage else self.call.usage(response_usage(self.drawn))}
            if has_search(self.call):
                body["tool_usage"] = tool_usage(self.drawn)
            if status == "incomplete":
                body["incomplete_details"] = {"reason": "max_output_tokens"}
        elif status == "failed" and drawn is not None:
            error = {"code": "server_error", "message": "The server had an error while processing your request."}
            body |= {"error": error, "usage": self.call.usage(response_usage(drawn))}
        return body

    def _output(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = [{"id": f"rs_{self.head['id']}", "type": "reasoning", "summary": []}] if self.reasoned else []
        items += [tool.item for tool in self.tools]
        content = [{"type": "output_text", "text": words(0, self.drawn.choices[0].text_tokens), "annotations": [], "logprobs": []}]
        return [*items, {**self.message(), "status": self.final_status, "content": content}]

    @property
    def reasoned(self) -> bool:
        """Whether there is a reasoning item."""
        return bool(self.drawn.details.get("reasoning_tokens"))

    def message(self) -> dict[str, Any]:
        """The message item before it has content."""
        return {"id": f"msg_{self.head['id']}", "type": "message", "role": "assistant", "status": "in_progress", "content": []}


def create(call: Call, desk: Desk) -> Answer:
    """POST /v1/responses: whole, as a stream, or in the background."""
    record = _made(call, desk)
    response_id = str(record.head["id"])
    stored = call.body.get("store") is not False
    if record.background:
        if not stored:
            raise invalid("A background response must be stored.", "store")
        desk.store(response_id, record)
        record.answer.later, record.answer.generated = True, lambda: _finish(record, desk)
    elif stored:
        record.answer.generated = _keeper(desk, record)
    if call.flag("stream"):
        events = ResponseEvents(record)
        return replace(record.answer, steps=events.steps(), streamed=True, failure=events.failure)
    if record.background:
        return replace(json_answer(record.told(), answer_id=response_id), later=True)
    return replace(record.answer, steps=json_answer(record.told(record.final_status), record.drawn).steps)


def retrieve(call: Call, desk: Desk) -> Answer:
    """GET /v1/responses/{id}: the object again, or with ?stream=true the events after `starting_after`."""
    record = _found(call, desk)
    streamed = call.query.get("stream") == "true"
    if record.status in RUNNING:
        if streamed or record.polls >= POLLS_BEFORE_DONE:
            _finish(record, desk)
        else:
            record.polls, record.status = record.polls + 1, "in_progress"
    if not streamed:
        return json_answer(record.told(), answer_id=str(record.head["id"]))
    if not record.background or record.status == "cancelled":
        raise invalid("Only a background response can be streamed again.", "stream")
    after = call.query.get("starting_after", "")
    if after and not after.isdigit():
        raise invalid("Invalid value for 'starting_after': expected a sequence number.", "starting_after")
    return Answer(ResponseEvents(record).steps()[int(after) + 1 if after else 0 :], streamed=True, answer_id=str(record.head["id"]))


def cancel(call: Call, desk: Desk) -> Answer:
    """POST /v1/responses/{id}/cancel: only in the background, and only what has not ended; nothing had been generated yet."""
    record = _found(call, desk)
    if not record.background:
        raise invalid("Only a background response can be cancelled.")
    if record.status in RUNNING:
        record.status = "cancelled"
        desk.write(record.call, record.answer, None, 200, complete=False)
    return json_answer(record.told(), answer_id=str(record.head["id"]))


def delete(call: Call, desk: Desk) -> Answer:
    """DELETE /v1/responses/{id}."""
    record = _found(call, desk)
    del desk.stored[call.params["id"]]
    return json_answer({"id": record.head["id"], "object": "response", "deleted": True})


def input_items(call: Call, desk: Desk) -> Answer:
    """GET /v1/responses/{id}/input_items."""
    record = _found(call, desk)
    items = [_item(f"msg_in_{index}_{record.head['id']}", part) for index, part in enumerate(_input(record.call))]
    first, last = (items[0]["id"], items[-1]["id"]) if items else ("", "")
    return json_answer({"object": "list", "data": items, "first_id": first, "last_id": last, "has_more": False})


def input_tokens(call: Call, desk: Desk) -> Answer:
    """POST /v1/responses/input_tokens: a count, not priced."""
    if call.body.get("model") is not None:
        desk.model(call, "responses")
    return json_answer({"object": "response.input_tokens", "input_tokens": _prompt(call, desk).text})


def compact(call: Call, desk: Desk) -> Answer:
    """POST /v1/responses/compact: a call of its own, with its own usage."""
    model = desk.model(call, "responses")
    drawn = desk.draw(call, model, desk.tier(call, model), _prompt(call, desk), Wish(), RESPONSE_METERS)
    response_id = desk.new_id("resp_")
    output = [_item(f"msg_{index}_{response_id}", part) for index, part in enumerate(_input(call)) if _role(part) == "user"]
    output.append({"id": f"cmp_{response_id}", "type": "compaction", "encrypted_content": f"simulated {response_id}"})
    body = {"id": response_id, "object": "response.compaction", "created_at": int(time.time()), "output": output}
    if call.body.get("service_tier") is not None:  # told only when asked for, as the SDK's `ResponseCompactParams` says
        body["service_tier"] = drawn.service_tier
    if not call.faults.no_usage:
        body["usage"] = call.usage(response_usage(drawn))
    return json_answer(body, drawn, response_id)


def _made(call: Call, desk: Desk) -> Record:
    stored_prompt = isinstance(call.body.get("prompt"), dict)
    model = desk.model(call, "responses", PROMPT_MODEL if stored_prompt and call.body.get("model") is None else None)
    if call.body.get("input") is None and not stored_prompt:
        raise missing("input")
    prompt, background = _prompt(call, desk), call.flag("background")
    used = use_tools(call, desk, model)
    drawn = desk.draw(call, model, desk.tier(call, model), prompt, _wish(call), RESPONSE_METERS)
    drawn = replace(drawn, quantities=drawn.quantities | fees(used))
    head = _head(call, desk, model, drawn, background=background)
    answer = Answer([], drawn, answer_id=str(head["id"]), model=drawn.model)
    return Record(call, head, drawn, used, answer, background)


def _wish(call: Call) -> Wish:
    return Wish(
        tokens_max=call.number("max_output_tokens", None, 1, TOKENS_MAX),
        reasons=call.object("reasoning").get("effort") not in ("none", "minimal"),
        cache_kept_12h=call.object("prompt_cache_options").get("ttl") == "12h",
    )


def _head(call: Call, desk: Desk, model: Model, drawn: Draw, *, background: bool) -> dict[str, Any]:
    return {
        "id": desk.new_id("resp_"),
        "object": "response",
        "created_at": int(time.time()),
        "background": background,
        "error": None,
        "incomplete_details": None,
        "model": drawn.model,
        "output": [],
        "parallel_tool_calls": call.body.get("parallel_tool_calls") is not False,
        "reasoning": {"effort": None, "summary": None} | call.object("reasoning"),
        "service_tier": drawn.service_tier,
        "store": call.body.get("store") is not False,
        "text": call.object("text") or {"format": {"type": "text"}},
        "tool_choice": call.body.get("tool_choice") or "auto",
        "tools": tools_of(call),
        "truncation": call.body.get("truncation") or "disabled",
        "usage": None,
        **{name: call.body.get(name) for name in ECHOED},
    }


def _keeper(desk: Desk, record: Record) -> Callable[[], None]:
    """What remembers a response once all of it has been generated."""

    def keep() -> None:
        record.status = record.final_status
        desk.store(str(record.head["id"]), record)

    return keep


def _finish(record: Record, desk: Desk) -> None:
    """The background work is done, if it was not: write its line, under the request that ordered it."""
    if record.status not in RUNNING:
        return
    record.status = record.final_status
    desk.write(record.call, record.answer, record.drawn, 200, complete=True)


def _found(call: Call, desk: Desk) -> Record:
    record = desk.stored.get(call.params["id"])
    if not isinstance(record, Record):
        raise Refusal(404, "invalid_request_error", f"Response with id '{call.params['id']}' not found.")
    return record


def _prompt(call: Call, desk: Desk) -> Prompt:
    """What goes in: the request's own text, and the turns before it that the server holds."""
    previous, context = call.body.get("previous_response_id"), 0
    if previous is not None:
        record = desk.stored.get(previous) if isinstance(previous, str) else None
        if not isinstance(record, Record):
            message = f"Previous response with id '{previous}' not found."
            raise invalid(message, "previous_response_id", "previous_response_not_found")
        context = record.context_tokens
    return prompt_of([*_input(call), call.body.get("instructions"), *tools_of(call)], context)


def _input(call: Call) -> list[Any]:
    given = call.body.get("input")
    if given is None:
        return []
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if isinstance(given, list):
        return given
    raise invalid("Invalid type for 'input': expected a string or an array.", "input")


def _role(part: Any) -> str | None:
    return part.get("role") if isinstance(part, dict) else None


def _item(item_id: str, part: Any) -> dict[str, Any]:
    """An input item as it is told back: with an id, its text as a part."""
    item = part if isinstance(part, dict) else {"role": "user", "content": str(part)}
    if "role" not in item:
        return {"id": item_id, **item}
    kind = "output_text" if item["role"] == "assistant" else "input_text"
    content = item.get("content")
    if isinstance(content, str):
        content = [{"type": kind, "text": content} | ({"annotations": []} if kind == "output_text" else {})]
    return {"id": item_id, "type": "message", "status": "completed", **item, "content": content}
