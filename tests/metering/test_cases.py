"""Every recorded answer, stream and event is what the SDK's own types say it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from openai.types import Completion, CreateEmbeddingResponse, ImagesResponse, ModerationCreateResponse
from openai.types.audio import Transcription
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.realtime import ResponseDoneEvent
from openai.types.responses import CompactedResponse, Response, ResponseStreamEvent
from openai.types.shared import ErrorObject
from pydantic import TypeAdapter

CASES = Path(__file__).parent.parent / "cases"
WHOLE: dict[str, Any] = {
    "chat": ChatCompletion,
    "completion": Completion,
    "embedding": CreateEmbeddingResponse,
    "moderation": ModerationCreateResponse,
    "response": Response,
    "compaction": CompactedResponse,
    "realtime": ResponseDoneEvent,
    "transcription": Transcription,
    "images": ImagesResponse,
}
STREAMS: dict[str, Any] = {"chat": ChatCompletionChunk, "completion": Completion, "responses": ResponseStreamEvent}


@pytest.mark.parametrize("path", sorted(CASES.glob("*.json")), ids=lambda path: path.stem)
def test_answer_is_of_its_type(path: Path) -> None:
    answer = json.loads(path.read_bytes())
    if path.stem == "speech_done":  # the SDK has no type for the events of streamed speech
        assert answer["type"] == "speech.audio.done"
    elif path.stem == "error":
        ErrorObject.model_validate(answer["error"], strict=True)
    else:
        WHOLE[path.stem.split("_")[0]].model_validate_json(path.read_bytes())


@pytest.mark.parametrize("path", sorted(CASES.glob("*.sse")), ids=lambda path: path.stem)
def test_events_are_of_their_type(path: Path) -> None:
    events = [line.removeprefix("data: ") for line in path.read_text("utf-8").split("\n") if line.startswith("data: ")]
    assert len(events) > 3
    if path.stem == "chat_stream_azure":  # its first chunk is Azure's own; the SDK never builds it strictly
        events = events[1:]
    for event in events:
        if path.stem == "completion_stream":  # the SDK's type is that of a whole completion, where nothing is unfinished
            event = event.replace('"finish_reason":null', '"finish_reason":"stop"')
        if event == "[DONE]":
            continue
        if "error" in json.loads(event) and not path.stem.startswith("responses"):
            ErrorObject.model_validate(json.loads(event)["error"], strict=True)
        else:
            TypeAdapter(STREAMS[path.stem.split("_")[0]]).validate_json(event)
