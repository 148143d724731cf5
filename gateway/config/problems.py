"""What is wrong with the configuration: said once, with file, line, key, what was found and what is allowed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Literal, Protocol

import msgspec

KeyPath = tuple[str | int, ...]
Severity = Literal["error", "warning"]

_SECRET_KEYS = {"api_key", "token", "proxy_url"}
_FOUND_CHARACTERS_MAX = 80
_USERINFO = re.compile(r"://\S*@")


class Problem(msgspec.Struct, frozen=True):
    """One finding. A warning does not keep the configuration from being loaded. Encodes to JSON as it is."""

    file: str
    line: int  # from 1; 0: the file as a whole, or a folder
    key: str  # "accounts.openai.api_key", "keys[0].hash"; "": the file as a whole
    message: str  # what is wrong, and what to do where that is not plain
    found: str = ""  # what is written there, as YAML; never a secret
    allowed: str = ""
    suggestion: str = ""  # the nearest name that would do
    severity: Severity = "error"

    def text(self) -> str:
        """One line: `config/teams/voice.yaml:7: limits.gpt-4p: no such model; did you mean 'gpt-4o'?`."""
        where = f"{self.file}:{self.line}" if self.line else self.file
        said = f"{self.key}: {self.message}" if self.key else self.message
        if self.found:
            said += f", found {self.found}"
        if self.allowed:
            said += f"; allowed: {self.allowed}"
        if self.suggestion:
            said += f"; did you mean {self.suggestion!r}?"
        return f"{where}: {'warning: ' if self.severity == 'warning' else ''}{said}"


class Source(Protocol):
    """A file that problems can point into."""

    @property
    def file(self) -> str:
        """Its path as the user named it."""

    def line(self, path: KeyPath) -> int:
        """The line of a key, from 1; of the nearest thing around it when the key is not there."""

    def written(self, path: KeyPath) -> object:
        """The value as it is written, before substitution; None when it is not there."""


class Findings:
    """Collects problems, so that all are told at once."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def add(
        self,
        source: Source,
        path: KeyPath,
        message: str,
        *,
        show: bool = False,
        value: object = None,
        allowed: str = "",
        suggestion: str = "",
        severity: Severity = "error",
    ) -> None:
        """Note a problem at a key. `show` tells what is written there, or `value`, what that came to; neither where it may be a secret."""
        found = shown(source.written(path) if value is None else value) if show and not _SECRET_KEYS.intersection(path) else ""
        self.problems.append(Problem(source.file, source.line(path), key_text(path), message, found, allowed, suggestion, severity))

    @property
    def errors(self) -> list[Problem]:
        """Only what keeps the configuration from being loaded."""
        return [problem for problem in self.problems if problem.severity == "error"]


def key_text(path: KeyPath) -> str:
    """("keys", 0, "hash") -> "keys[0].hash"."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if part.isprintable() else repr(part))
    return text


def shown(value: object) -> str:
    """A value as it stands in YAML, short, and without the credentials of an URL."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = _USERINFO.sub("://***@", repr(value) if isinstance(value, str) else str(value))
    return text if len(text) <= _FOUND_CHARACTERS_MAX else text[:_FOUND_CHARACTERS_MAX] + "…"


def nearest(name: str, names: Iterable[str]) -> str:
    """The one of `names` that a misspelt `name` most likely meant, or ""."""
    return next(iter(get_close_matches(name, names, n=1)), "")
