"""Where the members of a JSON object stand in its bytes, so that edits touch nothing else.

The parser that reads bodies says what the members are and how long each value is; here only names and what is between members
is looked at. So this agrees with that parser on every document, and its work grows with the members, not with what is in them.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import msgspec

_SPACE = rb"[ \t\n\r]*+"
_OPEN = re.compile(_SPACE + rb"\{" + _SPACE)
_NAME = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"' + _SPACE + rb":" + _SPACE, re.DOTALL)
_NEXT = re.compile(_SPACE + rb"[,}]" + _SPACE)


class Name:
    """A member's name. Equals only itself, so that a dict keeps duplicates side by side."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


def _named(_type: type, text: Any) -> Name:
    return Name(text)


Members = dict[Name, msgspec.Raw]
MEMBERS = msgspec.json.Decoder(Members, dec_hook=_named)
"""Reads the outermost object: every member, in order, its value as raw JSON."""


class Member(NamedTuple):
    """One member of an object: its name with escapes resolved, and its offsets in the document."""

    name: str
    start: int  # of the opening quote of the name
    value_start: int
    value_end: int


def members(document: bytes) -> list[Member]:
    """The members of the outermost object, in order, duplicates included.

    Raises ValueError when the document is not a JSON object, or is nested too deeply for the parser.
    """
    try:
        told = MEMBERS.decode(document)
    except RecursionError as deep:
        raise ValueError("nested too deeply") from deep
    found: list[Member] = []
    at = _end_of(_OPEN, document, 0)
    for name, value in told.items():
        value_start = _end_of(_NAME, document, at)
        value_end = value_start + memoryview(value).nbytes
        found.append(Member(name.text, at, value_start, value_end))
        at = _end_of(_NEXT, document, value_end)
    return found


def _end_of(pattern: re.Pattern[bytes], document: bytes, at: int) -> int:
    matched = pattern.match(document, at)
    if matched is None:
        raise ValueError("not a JSON object")
    return matched.end()


def member_spans(document: bytes, name: str) -> list[Member]:
    """The outermost members of this name: usually none or one. Raises ValueError like `members`."""
    return [member for member in members(document) if member.name == name]


def without_member(document: bytes, name: str) -> bytes:
    """The document without its outermost members of this name and their commas; all else byte for byte.

    Raises ValueError like `members`.
    """
    every = members(document)
    kept = next((index for index, member in enumerate(every) if member.name != name), None)
    if kept is None:
        return document[: every[0].start] + document[every[-1].value_end :] if every else document
    at = every[0].start
    parts = [document[:at]]
    at = every[kept].start
    for before, member in zip(every[kept:], every[kept + 1 :], strict=False):
        if member.name == name:
            parts.append(document[at : document.index(b",", before.value_end)])
            at = member.value_end
    return b"".join([*parts, document[at:]])
