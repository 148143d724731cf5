"""`${NAME}` and `${NAME:-default}` in strings; `$${` is a plain `${`. The environment is an argument."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gateway.config.documents import Document
from gateway.config.problems import Findings, KeyPath

Variables = dict[str, str | None]
"""What was looked up and what was there: a file is read again when one of these has changed."""

_VARIABLE = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<default>:-[^{}]*)?\}|\$\{[^}]*\}?")


def _is_text(value: str) -> bool:
    """Whether the variable's bytes were UTF-8: Python keeps others as halves of surrogate pairs, which nothing can write down."""
    return not any("\ud800" <= character <= "\udfff" for character in value)


def substitute(document: Document, env: Mapping[str, str], findings: Findings) -> tuple[dict[str, Any], Variables]:
    """The document's values with variables filled in. As in a shell, `:-` stands in for an empty variable too."""
    looked_up: Variables = {}

    def fill(text: str, path: KeyPath) -> str:
        def one(match: re.Match[str]) -> str:
            name = match["name"]
            if name is None:
                if match[0] == "$${":
                    return "${"
                findings.add(document, path, f"{match[0]!r} is not a variable", allowed="${NAME}, ${NAME:-default}, and $${ for a plain ${")
                return ""
            found = looked_up[name] = env.get(name)
            if found is not None and not _is_text(found):
                findings.add(document, path, f"the environment's {name} is not UTF-8; set it again")
                return ""
            if match["default"] is not None:
                return found or match["default"].removeprefix(":-")
            if found is None:
                findings.add(document, path, f"the environment has no {name}; set it, or write ${{{name}:-default}}")
            return found or ""

        return _VARIABLE.sub(one, text) if "${" in text else text

    def walk(value: Any, path: KeyPath) -> Any:
        if isinstance(value, str):
            return fill(value, path)
        if isinstance(value, dict):
            return {key: walk(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [walk(item, (*path, number)) for number, item in enumerate(value)]
        return value

    return walk(document.value, ()), looked_up
