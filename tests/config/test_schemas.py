"""The committed JSON Schemas are those of the models, and say yes to what loads."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from gateway.config.schemas import schema_texts
from gateway.config.shipped import shipped_folder

EXAMPLE = Path(__file__).parent / "example"
REPOSITORY = Path(__file__).parents[2]
KINDS = {"gateway": "gateway.yaml", "tiers": "tiers.yaml", "model": "models/*.yaml", "team": "teams/*.yaml"}


@pytest.mark.parametrize("name", [f"{kind}.json" for kind in KINDS])
def test_a_committed_schema_is_up_to_date(name: str) -> None:
    committed = (REPOSITORY / "config" / "schemas" / name).read_text(encoding="utf-8")
    assert committed == schema_texts()[name], "run `python -m gateway.config.schemas config/schemas`"


@pytest.mark.parametrize("kind", KINDS)
def test_a_schema_accepts_every_shipped_and_example_file(kind: str) -> None:
    schema = json.loads(schema_texts()[f"{kind}.json"])
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    files = [file for folder in (EXAMPLE, shipped_folder()) for file in folder.glob(KINDS[kind])]
    assert len(files) >= 2
    for file in files:
        assert [error.message for error in validator.iter_errors(as_an_editor_sees_it(yaml.safe_load(file.read_text())))] == []


@pytest.mark.parametrize(
    "kind, value",
    [
        ("team", {"team": "Voice"}),
        ("team", {"team": "voice", "mode": "shadows"}),
        ("team", {"team": "voice", "modls": []}),
        ("gateway", {"accounts": {}}),
        ("gateway", {"accounts": {"openai": {}}, "workers": 0}),
        ("gateway", {"accounts": {"openai": {}}, "workers": "2"}),
    ],
)
def test_a_schema_refuses_what_does_not_load(kind: str, value: object) -> None:
    assert list(jsonschema.Draft202012Validator(json.loads(schema_texts()[f"{kind}.json"])).iter_errors(value))


def test_a_schema_lets_a_variable_stand_for_a_number() -> None:
    value = {"accounts": {"openai": {"data_residency": "${R:-false}"}}, "workers": "${WORKERS:-1}", "limits": {"on_store_error": "${P}"}}
    jsonschema.validate(value, json.loads(schema_texts()["gateway.json"]))


def test_every_key_is_described() -> None:
    for name in ("gateway.json", "team.json"):
        schema = json.loads(schema_texts()[name])
        for section in (schema, *schema.get("$defs", {}).values()):
            assert section.get("description"), section
            for key, value in section.get("properties", {}).items():
                assert value.get("description") or "$ref" in value, f"{name}: {key}"


def as_an_editor_sees_it(value: Any) -> Any:
    """JSON has no dates."""
    if isinstance(value, dict):
        return {key: as_an_editor_sees_it(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_an_editor_sees_it(item) for item in value]
    return value.isoformat() if isinstance(value, date) else value
