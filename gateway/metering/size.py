"""How large the input of a call is, as far as its bytes tell: text, token ids, images. For estimates, never for bills.

Text is counted as it stands in the JSON. Base64 media is not text, and what it costs in tokens cannot be read off its length.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

OBJECTS_MAX = 50_000  # in a body whose media are looked for; more, and all of it counts as text: the estimate errs upwards

_TYPED = b'"type"'  # media stand only in content parts, and each part states its type
_MARKS = (b"image", b"_audio", b"file_data")  # image_url, input_image, computer_screenshot's image_url, input_audio, input_file
_IMAGE_TYPES = frozenset({"image_url", "input_image", "computer_screenshot"})
_DIGIT = re.compile(rb"[0-9]")
_NONE = msgspec.Raw()


class _Part(msgspec.Struct):
    """A message, an item or a content part: one shape for all, since each may hold the next.

    Source: the request types of chat completions, responses and moderations in openai-python 3.54.0.
    """

    type: str | None = None
    image_url: msgspec.Raw = _NONE  # {"url": …} in chat, a string in responses
    input_audio: msgspec.Raw = _NONE
    file: msgspec.Raw = _NONE  # chat: {"file_data": …}
    file_data: msgspec.Raw = _NONE
    result: msgspec.Raw = _NONE  # image_generation_call: base64
    content: msgspec.Raw = _NONE
    output: msgspec.Raw = _NONE  # of tool calls: text, one part, or parts


_PARTS = msgspec.json.Decoder(list[_Part])
_PART = msgspec.json.Decoder(_Part)


class Size(NamedTuple):
    """Bytes of text and number of images."""

    text_bytes: int
    images: int


def size_of(found: Mapping[str, msgspec.Raw], names: Iterable[str], body: bytes, *, arrays_min: int = 1) -> Size:
    """Text and images of the members with these names. Total.

    `arrays_min`: a body with media has at least so many arrays, which one fast look at its bytes can rule out.
    """
    held: list[msgspec.Raw] = []
    text_bytes = 0
    for name in names:
        if name in found:
            value = found[name]
            held.append(value)
            text_bytes += memoryview(value).nbytes
    if body.count(b"[") < arrays_min or _TYPED not in body or not any(mark in body for mark in _MARKS):
        return Size(text_bytes, 0)
    if body.count(b"{") > OBJECTS_MAX:
        return Size(text_bytes, 0)
    images = 0
    for value in held:
        try:
            media_bytes, seen = _media(value, levels=3)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue  # not of a shape OpenAI takes, so it counts as text and OpenAI will refuse it
        text_bytes -= media_bytes
        images += seen
    return Size(text_bytes, images)


def text_or_token_ids(value: msgspec.Raw) -> tuple[int, int]:
    """(bytes of text, token ids) of an `input` or `prompt`: string, strings, ids, or arrays of ids. Total.

    Ids are counted without decoding: an array of numbers has one more element than commas, and so has an array of those.
    """
    view = memoryview(value)
    if not view.nbytes or view[0] != ord("["):
        return view.nbytes, 0
    document = bytes(value)
    if b'"' in document or b"{" in document:
        return len(document), 0
    return 0, document.count(b",") + 1 if _DIGIT.search(document) else 0


def _media(value: msgspec.Raw, levels: int) -> tuple[int, int]:
    """(bytes, images) of the media in an array of parts, or in one part; text has none."""
    view = memoryview(value)
    if not view.nbytes or not levels:
        return 0, 0
    if view[0] == ord("["):
        parts = _PARTS.decode(value)
    elif view[0] == ord("{"):
        parts = [_PART.decode(value)]
    else:
        return 0, 0
    media_bytes = images = 0
    for part in parts:
        media_bytes += sum(memoryview(raw).nbytes for raw in (part.image_url, part.input_audio, part.file, part.file_data))
        images += part.type in _IMAGE_TYPES
        if part.type == "image_generation_call":
            media_bytes += memoryview(part.result).nbytes
            images += 1
        for inner in (part.content, part.output):
            inner_bytes, inner_images = _media(inner, levels - 1)
            media_bytes += inner_bytes
            images += inner_images
    return media_bytes, images
