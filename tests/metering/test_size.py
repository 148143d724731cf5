"""How large the input of a call is: prompts, token ids, text and media."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ApiError
from gateway.metering.body import COUNT_MAX, CallBody, read_chat, read_completion, read_embedding, read_moderation, read_response
from gateway.metering.size import OBJECTS_MAX, QUOTES_MAX

Reader = Callable[[bytes], CallBody | ApiError]


def read(reader: Reader, **body: Any) -> CallBody:
    found = reader(json.dumps(body).encode())
    assert isinstance(found, CallBody), found
    return found


# Prompts and token ids

PROMPTS = [
    pytest.param("a", 1, id="a string"),
    pytest.param("[1],[2]", 1, id="a string with brackets in it"),
    pytest.param([1, 2, 3], 1, id="token ids"),
    pytest.param(["a"], 1, id="a list of one string"),
    pytest.param(["a", 'b","c', "\\"], 3, id="a list of strings"),
    pytest.param([[1, 2]], 1, id="a list of one array of ids"),
    pytest.param([[1, 2], [3], [4]], 3, id="a list of arrays of ids"),
    pytest.param(["a", [1]], 2, id="a list of both"),
    pytest.param([], 1, id="an empty list"),
    pytest.param(None, 1, id="null"),
    pytest.param(["a"] * (QUOTES_MAX // 2), QUOTES_MAX // 2, id="as many as are read"),
    pytest.param(["a"] * (QUOTES_MAX // 2) + ["b,b"], QUOTES_MAX // 2 + 1, id="one more"),
]


@pytest.mark.parametrize("prompt, prompts", PROMPTS)
def test_each_prompt_of_a_list_has_its_choices(prompt: Any, prompts: int) -> None:
    assert read(read_completion, model="m", prompt=prompt).choices == prompts
    assert read(read_completion, model="m", prompt=prompt, n=2, best_of=3).choices == 3 * prompts


def test_choices_stay_countable() -> None:
    assert read(read_completion, model="m", prompt=["a", "b"], n=COUNT_MAX // 2).choices == COUNT_MAX
    assert read(read_completion, model="m", prompt=["a", "b"], n=COUNT_MAX // 2 + 1).choices == COUNT_MAX


def test_a_completion_without_a_prompt_has_one() -> None:
    assert read(read_completion, model="m").choices == 1


INPUTS = [
    pytest.param("Hello", 7, 0, id="string"),
    pytest.param(["Hello", "you"], 16, 0, id="strings"),
    pytest.param(["1, 2"], 8, 0, id="a string with numbers in it"),
    pytest.param([1, 2, 3], 0, 3, id="ids"),
    pytest.param([17], 0, 1, id="one id"),
    pytest.param([[1, 2], [3, 4, 5]], 0, 5, id="arrays of ids"),
    pytest.param([], 0, 0, id="nothing"),
    pytest.param([[]], 0, 0, id="an array of nothing"),
]


@pytest.mark.parametrize("given_input, text_bytes, token_ids", INPUTS)
def test_token_ids_are_counted_exactly(given_input: Any, text_bytes: int, token_ids: int) -> None:
    embedding = read(read_embedding, model="m", input=given_input)
    assert (embedding.input_text_bytes, embedding.input_token_ids, embedding.choices) == (text_bytes, token_ids, 0)
    completion = read(read_completion, model="m", prompt=given_input)
    assert (completion.input_text_bytes, completion.input_token_ids) == (text_bytes, token_ids)


@given(st.lists(st.lists(st.integers(0, 200_000), min_size=1), min_size=1), st.sampled_from([None, 1]))
@settings(max_examples=50, deadline=None)
def test_token_ids_are_counted_exactly_however_written(arrays: list[list[int]], indent: int | None) -> None:
    body = json.dumps({"model": "m", "input": arrays}, indent=indent).encode()
    found = read_embedding(body)
    assert isinstance(found, CallBody)
    assert found.input_token_ids == sum(map(len, arrays))


# Text and media

PIXELS = base64.b64encode(bytes(60_000)).decode()
DATA_URL = "data:image/png;base64," + PIXELS


def part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


MEDIA = [
    pytest.param(
        read_chat,
        "messages",
        [{"role": "user", "content": [part("x"), {"type": "image_url", "image_url": {"url": DATA_URL}}]}],
        1,
        id="chat image",
    ),
    pytest.param(
        read_chat,
        "messages",
        [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": PIXELS, "format": "wav"}}]}],
        0,
        id="chat audio",
    ),
    pytest.param(
        read_chat, "messages", [{"role": "user", "content": [{"type": "file", "file": {"file_data": DATA_URL}}]}], 0, id="chat file"
    ),
    pytest.param(
        read_response, "input", [{"role": "user", "content": [{"type": "input_image", "image_url": DATA_URL}] * 2}], 2, id="response images"
    ),
    pytest.param(
        read_response, "input", [{"role": "user", "content": [{"type": "input_file", "file_data": DATA_URL}]}], 0, id="response file"
    ),
    pytest.param(
        read_response,
        "input",
        [{"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": PIXELS}],
        1,
        id="an image made earlier",
    ),
    pytest.param(
        read_response,
        "input",
        [{"type": "computer_call_output", "call_id": "c", "output": {"type": "computer_screenshot", "image_url": DATA_URL}}],
        1,
        id="a screenshot",
    ),
    pytest.param(
        read_response,
        "input",
        [{"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "image_url": DATA_URL}]}],
        1,
        id="an image from a function",
    ),
    pytest.param(read_moderation, "input", [{"type": "image_url", "image_url": {"url": DATA_URL}}], 1, id="moderated image"),
]


FILES = [
    pytest.param(
        read_chat, "messages", [{"content": [part("x"), {"type": "file", "file": {"file_id": "file-1"}}]}], 1, id="kept, in a chat"
    ),
    pytest.param(read_chat, "messages", [{"content": [{"type": "file", "file": {"file_data": DATA_URL}}] * 2}], 2, id="two, inline"),
    pytest.param(read_response, "input", [{"content": [{"type": "input_file", "file_id": "file-1"}]}], 1, id="kept"),
    pytest.param(read_response, "input", [{"content": [{"type": "input_file", "file_url": "https://x/y"}]}], 1, id="by URL"),
    pytest.param(read_response, "input", [{"content": [{"type": "input_file", "file_data": DATA_URL}]}], 1, id="inline"),
    pytest.param(read_response, "input", [{"content": [{"type": "input_text", "text": 'a "file"'}]}], 0, id="only named in text"),
]


@pytest.mark.parametrize("reader, member, value, files", FILES)
def test_files_are_counted(reader: Reader, member: str, value: Any, files: int) -> None:
    assert read(reader, model="m", **{member: value}).files == files


def test_audio_counts_by_its_length_in_base64() -> None:
    said = {"type": "input_audio", "input_audio": {"data": PIXELS, "format": "mp3"}}
    found = read(read_chat, model="m", messages=[{"role": "user", "content": [part("x"), said, said]}])
    assert 2 * len(PIXELS) < found.audio_base64_bytes < 2 * len(PIXELS) + 100
    assert (found.images, found.files) == (0, 0)
    assert read(read_response, model="m", input=[{"role": "user", "content": [said]}]).audio_base64_bytes > len(PIXELS)


@pytest.mark.parametrize("reader, member, value, images", MEDIA)
def test_media_are_not_text(reader: Reader, member: str, value: Any, images: int) -> None:
    found = read(reader, model="m", **{member: value})
    assert found.images == images
    assert 0 < found.input_text_bytes < 300


def test_text_that_looks_like_media_is_text() -> None:
    text = '{"type":"image_url","image_url":{"url":"data:"}}' * 100
    found = read(read_chat, model="m", messages=[{"role": "user", "content": [part(text)]}])
    assert (found.images, found.input_text_bytes > len(text)) == (0, True)


@pytest.mark.parametrize("content", [5, {"type": 5, "image_url": DATA_URL}, [5], [[]], [{"type": ["image_url"]}]], ids=str)
def test_media_of_an_unknown_shape_count_as_text(content: Any) -> None:
    messages = [{"role": "user", "content": content}, {"role": "user", "content": [part("image")]}]
    found = read(read_chat, model="m", messages=messages)
    assert (found.images, found.input_text_bytes) == (0, len(json.dumps(messages)))


@pytest.mark.parametrize(
    "objects, looked_at", [(OBJECTS_MAX, True), (OBJECTS_MAX + 1, False)], ids=["as many as are looked at", "one more"]
)
def test_a_body_of_too_many_objects_counts_as_text(objects: int, looked_at: bool) -> None:
    image = {"type": "image_url", "image_url": ""}
    body = json.dumps({"model": "m", "input": [image, *[{}] * (objects - 2)]}).encode()
    found = read_moderation(body)
    assert isinstance(found, CallBody)
    assert found.images == (1 if looked_at else 0)
