"""Endpoints that answer with one plain object: embeddings, moderations, models, images, transcriptions, empty lists.

Source: reference/endpoints.md sections 2 and 7 to 9.
"""

from __future__ import annotations

import base64
import struct
import time
from typing import Any

import msgspec

from gateway.simulator import models
from gateway.simulator.call import Answer, Call, Step, json_answer
from gateway.simulator.completions import prompts_of
from gateway.simulator.desk import Desk
from gateway.simulator.draw import Dice, Draw, Wish, dictated, prompt_of
from gateway.simulator.models import MODERATION_MODELS, Model
from gateway.simulator.refusal import invalid, missing, no_model
from gateway.simulator.words import deltas, words
from gateway.units import Meter, Usage

DIMENSIONS = 64  # of an embedding, unless asked; real ones have 1,536 or 3,072
DIMENSIONS_MAX = 3072
IMAGE_OUTPUT_TOKENS = 1056
IMAGES_MAX = 10
AUDIO_MS_PER_TOKEN = 100
WAV_HEADER_BYTES = 44
MADE = 1_735_689_600  # `created` of every model
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="  # one pixel
CATEGORIES = (
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm",
    "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence", "violence/graphic",
)  # fmt: skip


def embeddings(call: Call, desk: Desk) -> Answer:
    """POST /v1/embeddings: floats or base64, of strings or token ids."""
    model = desk.model(call, "embeddings")
    inputs = prompts_of(call, "input", None)
    dimensions = call.number("dimensions", DIMENSIONS, 1, DIMENSIONS_MAX) or DIMENSIONS
    drawn = _drawn(call, model, {Meter.INPUT_TEXT: max(1, prompt_of(inputs).text)})
    as_base64 = call.body.get("encoding_format") == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _embedding(Dice(desk.seed, part), dimensions, as_base64=as_base64)}
        for index, part in enumerate(inputs)
    ]
    tokens = drawn.quantities.get(Meter.INPUT_TEXT, 0)
    body = {"object": "list", "data": data, "model": drawn.model}
    return _with_usage(call, body, {"prompt_tokens": tokens, "total_tokens": tokens}, drawn)


def moderations(call: Call, desk: Desk) -> Answer:
    """POST /v1/moderations: free, and has no usage."""
    asked = call.body.get("model") or MODERATION_MODELS[0]
    if asked not in MODERATION_MODELS:
        raise no_model(str(asked))
    given = call.body.get("input")
    if given is None:
        raise missing("input")
    many = isinstance(given, list) and all(isinstance(part, str) for part in given)
    result = {
        "flagged": False,
        "categories": dict.fromkeys(CATEGORIES, False),
        "category_scores": dict.fromkeys(CATEGORIES, 0.001),
        "category_applied_input_types": {category: ["text"] for category in CATEGORIES},
    }
    modr_id = desk.new_id("modr-")
    return json_answer({"id": modr_id, "model": asked, "results": [result] * (len(given) if many else 1)}, answer_id=modr_id)


def list_models(call: Call, desk: Desk) -> Answer:
    """GET /v1/models."""
    return json_answer({"object": "list", "data": [_model(name) for name in models.names()]})


def one_model(call: Call, desk: Desk) -> Answer:
    """GET /v1/models/{id}."""
    name = call.params["id"]
    if name not in models.names():
        raise no_model(name)
    return json_answer(_model(name))


def empty_list(call: Call, desk: Desk) -> Answer:
    """GET of a collection in which there is nothing: /v1/files and others that only pass through a gateway."""
    return json_answer({"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False})


def images(call: Call, desk: Desk) -> Answer:
    """POST /v1/images/generations: text in, pictures out, both in tokens."""
    model = desk.model(call, "images")
    count = call.number("n", 1, 1, IMAGES_MAX) or 1
    tokens = prompt_of([call.text("prompt")]).text
    drawn = _drawn(call, model, {Meter.INPUT_TEXT: tokens, Meter.OUTPUT_IMAGE: IMAGE_OUTPUT_TOKENS * count})
    given, made = drawn.quantities.get(Meter.INPUT_TEXT, 0), drawn.quantities.get(Meter.OUTPUT_IMAGE, 0)
    usage = {
        "input_tokens": given,
        "input_tokens_details": {"text_tokens": given, "image_tokens": 0},
        "output_tokens": made,
        "output_tokens_details": {"image_tokens": made, "text_tokens": 0},
        "total_tokens": given + made,
    }
    return _with_usage(call, {"created": int(time.time()), "data": [{"b64_json": PNG}] * count}, usage, drawn)


def transcriptions(call: Call, desk: Desk) -> Answer:
    """POST /v1/audio/transcriptions: usage in tokens or in seconds, as the model is priced."""
    model = desk.model(call, "transcriptions")
    if not call.file:
        raise missing("file")
    duration_ms = _duration_ms(call.file)
    said = desk.dice(call, model).roll("words", 4, 40)
    by_the_minute = model.row in ("whisper-1", "gpt-transcribe")
    quantities: Usage = {Meter.DURATION_IN_MS: duration_ms} if by_the_minute else {
        Meter.INPUT_AUDIO: -(-duration_ms // AUDIO_MS_PER_TOKEN),
        Meter.INPUT_TEXT: prompt_of([call.body.get("prompt") or ""]).text,
        Meter.OUTPUT_TEXT: said,
    }  # fmt: skip
    drawn = _drawn(call, model, quantities)
    if call.flag("stream") and model.row != "whisper-1":  # whisper-1 ignores `stream`
        return _transcript_events(call, drawn, said)
    if call.body.get("response_format") in ("text", "srt", "vtt"):
        raise invalid("The simulator answers with 'json' or 'verbose_json'.", "response_format")
    return _with_usage(call, {"text": words(0, said)}, _transcript_usage(drawn), drawn)


def _transcript_events(call: Call, drawn: Draw, said: int) -> Answer:
    steps = [_event("transcript.text.delta", tokens, delta=piece) for piece, tokens in deltas(0, said)]
    usage = {} if call.faults.no_usage or Meter.DURATION_IN_MS in drawn.quantities else {"usage": call.usage(_transcript_usage(drawn))}
    steps.append(_event("transcript.text.done", drawn.output_text, final=True, text=words(0, said), **usage))
    return Answer(steps, drawn, streamed=True)


def _event(kind: str, tokens: int, *, final: bool = False, **members: Any) -> Step:
    return Step(b"data: " + msgspec.json.encode({"type": kind, **members}) + b"\n\n", tokens, final=final)


def _transcript_usage(drawn: Draw) -> dict[str, Any]:
    n = drawn.quantities.get
    if Meter.DURATION_IN_MS in drawn.quantities:
        return {"type": "duration", "seconds": n(Meter.DURATION_IN_MS, 0) / 1000}
    audio, text, output = n(Meter.INPUT_AUDIO, 0), n(Meter.INPUT_TEXT, 0), n(Meter.OUTPUT_TEXT, 0)
    details = {"text_tokens": text, "audio_tokens": audio}
    total = audio + text + output
    return {"type": "tokens", "input_tokens": audio + text, "input_token_details": details, "output_tokens": output, "total_tokens": total}


def _drawn(call: Call, model: Model, quantities: Usage) -> Draw:
    if call.dictated_usage is not None:
        return dictated(call.dictated_usage, model, "default", Wish(), frozenset(quantities))
    return Draw(model.name, "default", {meter: n for meter, n in quantities.items() if n})


def _with_usage(call: Call, body: dict[str, Any], usage: dict[str, Any], drawn: Draw) -> Answer:
    return json_answer(body if call.faults.no_usage else {**body, "usage": call.usage(usage)}, drawn)


def _embedding(dice: Dice, dimensions: int, *, as_base64: bool) -> list[float] | str:
    first = dice.roll("embedding", 1, 996)
    numbers = [((first * (index + 1)) % 997 - 498) / 1000 for index in range(dimensions)]
    return base64.b64encode(struct.pack(f"<{dimensions}f", *numbers)).decode() if as_base64 else numbers


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": MADE, "owned_by": "simulator", "shutdown_date": None}


def _duration_ms(file: bytes) -> int:
    """How long a recording is: of a WAV file as its head says, of anything else at 4 KB a second."""
    if file[:4] == b"RIFF" and len(file) >= WAV_HEADER_BYTES:
        bytes_per_second = int.from_bytes(file[28:32], "little")
        return max(1, (len(file) - WAV_HEADER_BYTES) * 1000 // max(1, bytes_per_second))
    return max(1, len(file) // 4)
