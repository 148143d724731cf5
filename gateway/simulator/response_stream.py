"""A response as a stream of events, numbered from 0. Source: reference/endpoints.md section 4."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.simulator.call import Step
from gateway.simulator.tools import fees
from gateway.simulator.words import deltas, obfuscation, words
from gateway.units import Usage

if TYPE_CHECKING:
    from gateway.simulator.responses import Record

BROKEN = "The server had an error while processing your request."


class ResponseEvents:
    """The events of one response, and what had been generated at each."""

    def __init__(self, record: Record) -> None:
        self._record = record
        options = record.call.body.get("stream_options")
        self._obfuscates = not (isinstance(options, dict) and options.get("include_obfuscation") is False)
        self._text = self._sequence = self._output_index = 0
        self._fees: Usage = {}

    def steps(self) -> list[Step]:
        """All events, from response.created to the terminal one."""
        return list(self._events())

    def failure(self, how: str, index: int, last: Step) -> bytes:
        """The event that ends the stream at this index: `error`, or `response.failed` with the usage until then."""
        self._sequence = index
        if how == "failed":
            drawn = self._record.drawn.cut(last.text, last.audio, last.fees)
            return self._event("response.failed", response=self._record.told("failed", drawn)).data
        return self._event("error", code="server_error", message=BROKEN, param=None).data

    def _events(self) -> Iterator[Step]:
        record, final = self._record, self._record.final_status
        yield self._event("response.created", response=record.told("queued" if record.background else "in_progress"))
        if record.background:
            yield self._event("response.queued", response=record.told("queued"))
        yield self._event("response.in_progress", response=record.told("in_progress"))
        if record.reasoned:
            item = {"id": f"rs_{record.head['id']}", "type": "reasoning", "summary": []}
            yield self._item_event("added", item)
            self._text = record.drawn.hidden_tokens
            yield self._item_event("done", item)
        for number, tool in enumerate(record.tools, start=1):
            yield self._item_event("added", {**tool.item, "status": "in_progress"})
            for event in tool.working:
                yield self._event(event, output_index=self._output_index, item_id=tool.item["id"])
            self._fees = fees(record.tools[:number])
            yield self._item_event("done", tool.item)
        self._text = record.drawn.hidden_tokens
        yield from self._message()
        self._text = record.drawn.output_text
        yield self._event(f"response.{final}", final=True, response=record.told(final))

    def _message(self) -> Iterator[Step]:
        record, message = self._record, self._record.message()
        place = {"item_id": message["id"], "output_index": self._output_index, "content_index": 0}
        tokens_all = record.drawn.choices[0].text_tokens
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        yield self._item_event("added", message)
        yield self._event("response.content_part.added", **place, part=part)
        before = self._text
        for piece, tokens in deltas(0, tokens_all):
            self._text = before + tokens
            padding: dict[str, Any] = {"obfuscation": obfuscation(self._sequence)} if self._obfuscates else {}
            yield self._event("response.output_text.delta", **place, delta=piece, logprobs=[], **padding)
        text = words(0, tokens_all)
        yield self._event("response.output_text.done", **place, text=text, logprobs=[])
        yield self._event("response.content_part.done", **place, part={**part, "text": text})
        yield self._item_event("done", {**message, "status": record.final_status, "content": [{**part, "text": text}]})

    def _item_event(self, what: str, item: dict[str, Any]) -> Step:
        step = self._event(f"response.output_item.{what}", output_index=self._output_index, item=item)
        self._output_index += what == "done"
        return step

    def _event(self, kind: str, *, final: bool = False, **members: Any) -> Step:
        body = {"type": kind, "sequence_number": self._sequence, **members}
        self._sequence += 1
        return Step(b"event: " + kind.encode() + b"\ndata: " + msgspec.json.encode(body) + b"\n\n", self._text, 0, self._fees, final)
