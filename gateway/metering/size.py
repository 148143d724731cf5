"""How large the input of a call is, as far as its bytes tell: text, token ids, media. For estimates, never for bills.

Text is counted as it stands in the JSON. Base64 media is not text: images and files count by the piece, audio by its length.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

QUOTES_MAX = 100_000  # in a list of prompts that is read; more would hold the loop for milliseconds
OBJECTS_MAX = 50_000  # in a body whose media are looked for; more, and all of it counts as text: the estimate errs upwards

_TYPED = b'"type"'  # media stand only in content parts, and each part states its type
_MARKS = (b"image", b"_audio", b'file"')  # image_url, input_image, computer_screenshot's image_url, input_audio, file, input_file
_IMAGE_TYPES = frozenset({"image_url", "input_image", "computer_screenshot"})
_FILE_TYPES = frozenset({"file", "input_file"})  # inline, by URL, or kept at OpenAI
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


_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
_PARTS = msgspec.json.Decoder(list[_Part])
_PART = msgspec.json.Decoder(_Part)


class Size(NamedTuple):
    """Bytes of text, images and files by number, bytes of audio as it stands in base64."""

    text_bytes: int
    images: int = 0
    files: int = 0
    audio_base64_bytes: int = 0


def size_of(found: Mapping[str, msgspec.Raw], names: Iterable[str], body: bytes, *, arrays_min: int = 1) -> Size:
    """Text and media of the members with these names. Total.

    `arrays_min`: a body with media has at least so many arrays, which one fast look at its bytes can rule out.
    """
    held: list[msgspec.Raw] = []
    text_bytes = 0
    for name in names:
        if name in found:
            value = found[name]
            held.append(value)
            text_bytes += memoryview(value).nbytes
    if _TYPED not in body or body.count(b"[") < arrays_min or not any(mark in body for mark in _MARKS):
        return Size(text_bytes)
    if body.count(b"{") > OBJECTS_MAX:
        return Size(text_bytes)
    images = files = audio_base64_bytes = 0
    for value in held:
        media = _Media()
        try:
            media.add(value, levels=3)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue  # not of a shape OpenAI takes, so it counts as text and OpenAI will refuse it
        text_bytes -= media.json_bytes
        images, files, audio_base64_bytes = images + media.images, files + media.files, audio_base64_bytes + media.audio_base64_bytes
    return Size(text_bytes, images, files, audio_base64_bytes)


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


def prompts_in(value: msgspec.Raw) -> int:
    """How many prompts a `prompt` holds: a string or token ids are one, a list holds one in each string or array of ids. Total.

    Of a list with too many quotes to be read, each two count as a string: the estimate errs upwards.
    """
    view = memoryview(value)
    if not view.nbytes or view[0] != ord("["):
        return 1
    document = bytes(value)
    quotes = document.count(b'"')
    if not quotes:
        return max(1, document.count(b"[") - 1)
    if quotes <= QUOTES_MAX:
        try:
            return len(_ITEMS.decode(document))
        except RecursionError:
            pass  # only just not too deep for who read the body; OpenAI will refuse it
    return quotes // 2


class _Media:
    """Bytes of JSON that are no text, and what they are instead."""

    __slots__ = ("audio_base64_bytes", "files", "images", "json_bytes")

    def __init__(self) -> None:
        self.json_bytes = self.images = self.files = self.audio_base64_bytes = 0

    def add(self, value: msgspec.Raw, levels: int) -> None:
        """The media in an array of parts, or in one part; text has none. Raises what msgspec does where it is neither."""
        view = memoryview(value)
        if not view.nbytes or not levels:
            return
        if view[0] == ord("["):
            parts = _PARTS.decode(value)
        elif view[0] == ord("{"):
            parts = [_PART.decode(value)]
        else:
            return
        for part in parts:
            audio_bytes = memoryview(part.input_audio).nbytes
            self.audio_base64_bytes += audio_bytes
            self.json_bytes += audio_bytes + sum(memoryview(raw).nbytes for raw in (part.image_url, part.file, part.file_data))
            self.images += part.type in _IMAGE_TYPES
            self.files += part.type in _FILE_TYPES
            if part.type == "image_generation_call":
                self.json_bytes += memoryview(part.result).nbytes
                self.images += 1
            for inner in (part.content, part.output):
                self.add(inner, levels - 1)
