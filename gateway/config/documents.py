"""YAML text to plain values, with the line of every key. Any bytes give a document or problems, never an exception.

Stricter than YAML: one document, a mapping at the top, string keys, no key twice, no anchors, no tags of one's own, bounded size and depth.
"""

from __future__ import annotations

import re
from typing import Any

import yaml
from yaml.constructor import SafeConstructor

from gateway.config.problems import Findings, KeyPath, Problem, key_text

FILE_BYTES_MAX = 1_048_576  # the largest real file (10,000 models in one team's list) is far below
DEPTH_MAX = 64
_FAST_DEPTH_MAX = 1_000  # libyaml's composer recurses in C and dies of a full stack beyond some 10,000

_NUMBER_CHARACTERS_MAX = 100  # dates have 35 at most; reading a number takes the square of its length

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CONSTRUCT = SafeConstructor()
_TAG = "tag:yaml.org,2002:"
_SCALARS: dict[str, Any] = {
    _TAG + "str": lambda node: node.value,
    _TAG + "int": _CONSTRUCT.construct_yaml_int,
    _TAG + "float": _CONSTRUCT.construct_yaml_float,
    _TAG + "bool": _CONSTRUCT.construct_yaml_bool,
    _TAG + "null": lambda node: None,
    _TAG + "timestamp": _CONSTRUCT.construct_yaml_timestamp,
}


class Document:
    """One file, parsed: its values, and where each of them stands."""

    __slots__ = ("_node", "file", "value")

    def __init__(self, file: str, value: dict[str, Any], node: yaml.Node | None) -> None:
        self.file = file
        self.value = value
        self._node = node

    def line(self, path: KeyPath) -> int:
        """The line of a key, from 1; of the nearest thing around it when the key is not there."""
        return 1 if self._node is None else _line(self._node, path)

    def written(self, path: KeyPath) -> object:
        """The value as it is written, before substitution; None when it is not there."""
        value: Any = self.value
        for part in path:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return None
        return value


def read_document(file: str, content: bytes) -> Document | list[Problem]:
    """Parse one configuration file."""
    text = _decode(file, content)
    if isinstance(text, Problem):
        return [text]
    if _may_be_too_deep(text):
        return [Problem(file, 0, "", f"is nested too deeply, more than {DEPTH_MAX} levels")]
    try:
        node = yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        context = f" {error.context}" if error.context else ""
        return [Problem(file, mark.line + 1 if mark else 0, "", f"is not valid YAML: {error.problem}{context}")]
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, max(0, text.find(chr(error.character)))) + 1  # its position counts bytes, or characters
        return [Problem(file, line, "", f"is not valid YAML: the character U+{error.character:04X} is not allowed")]
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # the parser written in Python raises the last two
        return [Problem(file, 0, "", f"is not valid YAML: {error}")]
    if node is None:
        return [Problem(file, 0, "", "is empty")]
    if not isinstance(node, yaml.MappingNode):
        return [Problem(file, node.start_mark.line + 1, "", "a mapping of keys to values is needed at the top")]
    findings = Findings()
    value = _Reader(file, findings).value(node, ())
    return findings.problems or Document(file, value, node)


def _decode(file: str, content: bytes) -> str | Problem:
    if len(content) > FILE_BYTES_MAX:
        return Problem(file, 0, "", f"is larger than {FILE_BYTES_MAX} bytes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        return Problem(file, content.count(b"\n", 0, error.start) + 1, "", f"is not UTF-8, found the byte 0x{content[error.start]:02x}")


def _may_be_too_deep(text: str) -> bool:
    """Each level needs a bracket, or a column of its own for at most a mapping and a list; only what could be deep is measured."""
    columns = max(map(len, re.split("[\n\r\x85\u2028\u2029]", text)))
    if text.count("[") + text.count("{") + 2 * (columns + 1) <= _FAST_DEPTH_MAX:
        return False
    depth = 0
    try:
        for event in yaml.parse(text, Loader=_LOADER):  # events come from a state machine, without recursion
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEPTH_MAX:
                return True
    except (yaml.YAMLError, ValueError):
        pass  # composing stops at the same place and says why
    return False


class _Reader:
    """Nodes to plain values. Every problem goes to `findings` and leaves None behind."""

    def __init__(self, file: str, findings: Findings) -> None:
        self._file = file
        self._findings = findings
        self._seen: set[int] = set()

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        if id(node) in self._seen:  # composing makes one node of an anchor and all its aliases
            return self._refuse(node, path, "aliases (*) are not read, write the value out")
        self._seen.add(id(node))
        if len(path) >= DEPTH_MAX and isinstance(node, yaml.CollectionNode):
            return self._refuse(node, path[:1], f"is nested too deeply, more than {DEPTH_MAX} levels")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self.value(item, (*path, number)) for number, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, path)
        return self._refuse(node, path, f"the tag {node.tag!r} is not read")

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        read: dict[str, Any] = {}
        first_lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != _TAG + "str":
                what = "merge keys (<<) are not read" if key_node.tag == _TAG + "merge" else "a key must be a string, put it in quotes"
                self._refuse(key_node, path, what)
                continue
            key = key_node.value
            if key in read:
                self._refuse(key_node, (*path, key), f"is there twice, first in line {first_lines[key]}")
                continue
            first_lines[key] = key_node.start_mark.line + 1
            read[key] = self.value(value_node, (*path, key))
        return read

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        construct = _SCALARS.get(node.tag)
        if construct is None:
            return self._refuse(node, path, f"the tag {node.tag!r} is not read")
        if len(node.value) > _NUMBER_CHARACTERS_MAX and node.tag != _TAG + "str":
            return self._refuse(node, path, "is too long for a number, put it in quotes if it is text")
        try:
            return construct(node)
        except (ValueError, KeyError, IndexError, OverflowError, AttributeError):  # an explicit !!int or an impossible date
            return self._refuse(node, path, f"is not a valid {node.tag.removeprefix(_TAG)}, put it in quotes if it is text")

    def _refuse(self, node: yaml.Node, path: KeyPath, message: str) -> None:
        self._findings.problems.append(Problem(self._file, node.start_mark.line + 1, key_text(path), message))


def _line(node: yaml.Node, path: KeyPath) -> int:
    line = 1
    for part in path:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == part), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line
