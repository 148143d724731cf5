"""README.md says only what is there: its commands, options, files, links and configuration."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from gateway.cli.app import app

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
NAMED = {
    line.partition("#")[0].strip()
    for text in [*re.findall(r"`(gateway [^`\n]+)`", TEXT), *(body for kind, body in BLOCKS if kind == "sh")]
    for line in re.split(r"\n|&&|;", text)
    if line.strip().startswith("gateway ")
}


def test_the_two_commands_are_near_the_top_each_on_one_line() -> None:
    lines = TEXT.splitlines()
    assert lines.index("pip install . && gateway demo") < 15
    assert lines.index("pip install '.[test]' && pytest") < 20
    assert "export OPENAI_API_KEY=sk-...; gateway init && gateway serve" in lines


def test_there_are_commands_to_check() -> None:
    assert {"gateway demo", "gateway init", "gateway serve", "gateway check", "gateway usage"} <= NAMED


@pytest.mark.parametrize("line", sorted(NAMED - {"gateway --help"}))
def test_every_command_and_option_it_names_exists(line: str) -> None:
    command: Any = get_command(app)
    words = shlex.split(line)[1:]
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    assert command.name != "gateway", f"there is no command {line}"
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= options
    required = [parameter for parameter in command.params if parameter.required]
    assert len([word for word in words if not word.startswith("-")]) >= len(required)


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)]+)\)", TEXT))))
def test_every_link_leads_to_a_file(target: str) -> None:
    assert (ROOT / target).is_file()


def test_its_configuration_is_one(call: Any, home: Path) -> None:
    for kind, body in BLOCKS:
        if kind == "yaml":
            file = home / body.splitlines()[0].removeprefix("# ")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(body.replace("/run/secrets", str(home)))
    for name in ("tls.crt", "tls.key"):
        (home / name).write_text("there")
    assert sorted(path.name for path in Path("config").rglob("*.yaml")) == ["gateway.yaml", "gpt-4o-mini.yaml", "voice.yaml"]
    problems = json.loads(call("check", "--json").stdout)["problems"]
    assert [problem for problem in problems if not problem["key"].endswith("api_key")] == []


def test_every_admin_path_it_names_is_served() -> None:
    served = (ROOT / "gateway" / "admin" / "app.py").read_text(encoding="utf-8")
    for path in re.findall(r"`(/(?:admin/v1/|metrics|healthz|readyz)\w*)`", TEXT):
        assert f'"{path}"' in served
