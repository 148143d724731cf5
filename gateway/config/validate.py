"""A document held against its model: pydantic finds everything at once, and each finding becomes a `Problem` with its line."""

from __future__ import annotations

import re
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gateway.config.documents import Document
from gateway.config.problems import Findings, KeyPath, nearest, shown

AModel = TypeVar("AModel", bound=BaseModel)

_MESSAGES = {
    "missing": "is missing",
    "extra_forbidden": "unknown key",
    "literal_error": "is not one of those allowed",
    "int_type": "a whole number is needed",
    "string_type": "text is needed, put it in quotes",
    "bool_type": "true or false is needed",
    "bool_parsing": "true or false is needed",
    "dict_type": "a mapping is needed",
    "model_type": "a mapping is needed",
    "list_type": "a list is needed",
    "tuple_type": "a list is needed",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "too_short": "must have at least {min_length} of them",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "is not written as it must be",
}
_TOP_KEY = re.compile(r"([a-z_]+): (.+)", re.DOTALL)  # how checks over a whole model name the key they mean


def validate(document: Document, values: dict[str, Any], model: type[AModel], findings: Findings) -> AModel | None:
    """The values as the model; None after every problem was noted. `values` is the document with variables filled in."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        for details in error.errors(include_url=False):
            _note(document, model, details, findings)
        return None


def _note(document: Document, model: type[BaseModel], details: ErrorDetails, findings: Findings) -> None:
    kind, context = details["type"], details.get("ctx", {})
    show = kind not in ("missing", "extra_forbidden", "too_short")
    is_key = details["loc"][-1:] == ("[key]",)
    path = _path(document.value, details["loc"][:-1] if is_key else details["loc"], kind)
    message = str(context["error"]) if kind == "value_error" else _MESSAGES.get(kind, details["msg"])
    if kind in _MESSAGES:
        message = message.format(**context)
    elif (named := _TOP_KEY.fullmatch(message)) and not path and named[1] in document.value:
        path, message, show = (named[1],), named[2], False
    allowed: list[str] = []
    if kind == "extra_forbidden":
        allowed = _keys_allowed(model, path[:-1])
    elif kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", context["expected"])
        message = "unknown key" if is_key else message
    elif kind == "string_pattern_mismatch":
        allowed = [context["pattern"]]
    misspelt = str(path[-1]) if kind == "extra_forbidden" or is_key else shown(details["input"]).strip("'")
    findings.add(
        document,
        path,
        message,
        show=show and not is_key and "found" not in message,
        allowed=", ".join(allowed),
        suggestion=nearest(misspelt, allowed) if kind in ("extra_forbidden", "literal_error") else "",
    )


def _path(values: Any, location: tuple[int | str, ...], kind: str) -> KeyPath:
    """Where it is in the file: pydantic's location without the names of union members it puts in between."""
    path: list[str | int] = []
    for number, part in enumerate(location):
        inside = part in values if isinstance(values, dict) else isinstance(values, list) and part in range(len(values))
        if inside:
            values = values[part]
        if inside or (kind == "missing" and number == len(location) - 1):
            path.append(part)
    return tuple(path)


def _keys_allowed(model: type[BaseModel], path: KeyPath) -> list[str]:
    """The keys a mapping inside the model may have."""
    found: type[BaseModel] | None = model
    for part in path:
        fields = {field.alias or name: field.annotation for name, field in found.model_fields.items()} if found else {}
        if part in fields:  # else an entry of the list or mapping just entered: its model is the same
            found = _model_in(fields[str(part)])
    return [field.alias or name for name, field in found.model_fields.items()] if found else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for argument in get_args(annotation) if (model := _model_in(argument))), None)
