"""Text to answer with: one word a token, so that what is seen can be counted."""

from __future__ import annotations

import base64
from collections.abc import Iterator

SPEECH = """the call was short and the line was clear so we can look at your bill together now please tell me which of the two
cards you mean and I will check what it used last month before we change the plan that you have"""
WORDS = tuple(SPEECH.split())
CHUNKS_MAX = 2000  # of one choice: a long answer has several tokens in a chunk
AUDIO_BYTES_PER_TOKEN = 24  # real sound has 2,400 (50 ms); nobody listens to this one
OBFUSCATION = "x7Qe2mV9aL4sT1kR8dB5wN"


def words(start: int, count: int) -> str:
    """So many tokens of text, from a place in the list on."""
    return " ".join(WORDS[(start + index) % len(WORDS)] for index in range(count))


def deltas(start: int, count: int) -> Iterator[tuple[str, int]]:
    """The same text in pieces: (piece, tokens so far). Joined they are `words(start, count)`."""
    size = 1 + count // CHUNKS_MAX
    for first in range(0, count, size):
        piece = words(start + first, min(size, count - first))
        yield (f" {piece}" if first else piece), min(first + size, count)


def sound(tokens: int) -> str:
    """Base64 that stands for so many tokens of audio."""
    return base64.b64encode(bytes(AUDIO_BYTES_PER_TOKEN * tokens)).decode()


def obfuscation(index: int) -> str:
    """The padding of a stream's chunk, of changing length."""
    return OBFUSCATION[: 2 + index * 7 % 19]
