"""JSON Schemas of the four kinds of files, for editors: `python -m gateway.config.schemas <folder>` writes them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from gateway.catalogue.schema import CardModel, TiersModel
from gateway.config.gateway_file import GatewayFile
from gateway.config.team_file import TeamFile

_FILES: dict[str, type[BaseModel]] = {"gateway": GatewayFile, "model": CardModel, "team": TeamFile, "tiers": TiersModel}
_VARIABLE = {"type": "string", "pattern": r"\$\{"}
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema_texts() -> dict[str, str]:
    """By file name, as they are committed."""
    texts = {}
    for name, model in _FILES.items():
        schema = {"$schema": _DIALECT, **_with_variables(model.model_json_schema())}
        texts[f"{name}.json"] = json.dumps(schema, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
    return texts


def _with_variables(schema: Any) -> Any:
    """`${NAME}` may stand where a number, a word of several or text of some form is wanted."""
    if isinstance(schema, list):
        return [_with_variables(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") in ("integer", "number", "boolean") or (schema.keys() & {"enum", "pattern"} and schema.get("type") != "object"):
        beside = {key: schema[key] for key in ("title", "description", "default", "examples") if key in schema}
        return {"anyOf": [{key: value for key, value in schema.items() if key not in beside}, _VARIABLE], **beside}
    return {key: value if key in ("default", "examples", "required") else _with_variables(value) for key, value in schema.items()}


if __name__ == "__main__":
    for file_name, text in schema_texts().items():
        Path(sys.argv[1], file_name).write_text(text, encoding="utf-8")
