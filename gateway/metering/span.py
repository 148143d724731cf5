"""Where the members of a JSON object stand in its bytes: an exact small tokenizer, so that edits touch nothing else.

It finds spans, it does not judge: give it documents a parser has accepted, or catch ValueError. Linear, iterative, and
possessive in its patterns, so that neither depth nor length can make it fail or crawl.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

_SPACE = rb"[ \t\n\r]*+"
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_SCALAR = _STRING + rb'|[^ \t\n\r,\[\]{}":]++'

_OPEN = re.compile(_SPACE + rb"\{" + _SPACE + rb"(\})?")
_MEMBER = re.compile(rb"(" + _STRING + rb")" + _SPACE + rb":" + _SPACE + rb"(?:(" + _SCALAR + rb")|(?=[\[{]))", re.DOTALL)
_BRACKET = re.compile(rb'(?:[^"\[\]{}]++|' + _STRING + rb")*+([\[\]{}])", re.DOTALL)
_NEXT = re.compile(_SPACE + rb"([,}])" + _SPACE)

_text = msgspec.json.Decoder(str).decode


class Member(NamedTuple):
    """One member of an object: its name with escapes resolved, and its offsets in the document."""

    name: str
    start: int  # of the opening quote of the name
    value_start: int
    value_end: int


def members(document: bytes) -> list[Member]:
    """The members of the outermost object, in order, duplicates included.

    Raises ValueError when the document does not have the form of an object. Values are not checked inside.
    """
    opened = _OPEN.match(document)
    if opened is None:
        raise ValueError("not a JSON object")
    found: list[Member] = []
    at = opened.end()
    closed = opened[1] is not None
    while not closed:
        member = _MEMBER.match(document, at)
        if member is None:
            raise ValueError("a member without a name or a value")
        value_start, value_end = member.span(2)
        if value_start < 0:
            value_start = member.end()
            value_end = _nested_end(document, value_start)
        found.append(Member(_decoded(member[1]), at, value_start, value_end))
        following = _NEXT.match(document, value_end)
        if following is None:
            raise ValueError("an object without an end")
        at = following.end()
        closed = following[1] == b"}"
    return found


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


def _nested_end(document: bytes, at: int) -> int:
    depth = 0
    while True:
        bracket = _BRACKET.match(document, at)
        if bracket is None:
            raise ValueError("a bracket that does not close")
        at = bracket.end()
        depth += 1 if bracket[1] in b"{[" else -1
        if not depth:
            return at


def _decoded(quoted: bytes) -> str:
    if b"\\" not in quoted and quoted.isascii():
        return quoted[1:-1].decode("ascii")
    try:
        return _text(quoted)
    except msgspec.DecodeError as broken:
        raise ValueError("a name that is not a JSON string") from broken
