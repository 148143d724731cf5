"""The house: imports go one way, every room is on the map, names keep to the glossary."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HOUSE = ROOT / "gateway"
FLOORS = (  # ground floor first; a room imports only from floors listed before its own
    {"__init__"},
    {"units"},
    {"errors", "process", "failpoints"},
    {"catalogue", "teams"},  # facts; neighbours on a floor never import each other
    {"metering", "pricing", "admission"},  # rules over facts
    {"endpoints"},  # the table that binds them. Pure up to here
    {"config", "stores", "journal"},
    {"control"},
    {"relay", "ledger", "metrics"},
    {"job"},
    {"closing", "house"},
    {"exchange"},
    {"server", "late", "admin", "simulator", "dashboards"},
    {"worker", "books"},
    {"serve"},
    {"cli"},
    {"__main__"},
)
PURE = {"units", "errors", "catalogue", "teams", "metering", "pricing", "admission", "endpoints", "dashboards"}
FORBIDDEN_IN_PURE = {"aiohttp", "redis", "prometheus_client", "asyncio", "time", "os", "logging", "yaml", "socket", "structlog"}
UNNAMED = {"utils", "helpers", "common", "base", "misc", "core"}
MODULES = sorted(path.relative_to(HOUSE) for path in HOUSE.rglob("*.py") if "shipped" not in path.parts)


def room_of(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


def rooms_before(room: str) -> set[str]:
    before: set[str] = set()
    for floor in FLOORS:
        if room in floor:
            return before
        before |= floor
    raise AssertionError(f"gateway/{room} is on no floor")


def imports_of(path: Path) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse((HOUSE / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names.append(node.module or "")
            if node.module == "gateway":
                names += [f"gateway.{alias.name}" for alias in node.names if alias.name != "VERSION"]
    return names


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_go_one_way(path: Path) -> None:
    room = room_of(path)
    allowed = rooms_before(room) | {room, ""}
    for name in imports_of(path):
        top, _, rest = name.partition(".")
        if top == "gateway":
            assert rest.split(".")[0] in allowed, f"{path} imports {name}, which is on its own floor or above"
        elif room in PURE:
            assert top not in FORBIDDEN_IN_PURE, f"{path} is pure and imports {name}"


def test_the_simulator_is_an_independent_witness() -> None:
    for path in MODULES:
        if room_of(path) == "simulator":
            rooms = {name.split(".")[1] for name in imports_of(path) if name.startswith("gateway.")}
            assert rooms <= {"units", "simulator"}, f"{path} imports {rooms}"


@pytest.mark.parametrize("room", sorted({room_of(path) for path in MODULES} - {"__init__", "__main__"}))
def test_every_room_is_on_the_map(room: str) -> None:
    text = (HOUSE / "README.md").read_text(encoding="utf-8")
    assert re.search(rf"^  {room}(/|\.py)\s", text, re.MULTILINE), f"gateway/README.md does not name {room}"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse((HOUSE / path).read_text(encoding="utf-8"))), f"{path} has no docstring"
    assert not UNNAMED & {part.removesuffix(".py") for part in path.parts}


def test_every_promise_names_tests_that_exist() -> None:
    promises = (HOUSE / "README.md").read_text(encoding="utf-8").partition("## Promises")[2]
    named = set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", promises))
    assert len(re.findall(r"^\| \d \|", promises, re.MULTILINE)) == 9
    for file, function in named:
        path = ROOT / file
        assert path.is_file(), f"{file} is named by a promise and does not exist"
        assert not function or f"def {function}(" in path.read_text(encoding="utf-8"), f"{file} has no {function}"


def test_nothing_names_this_workplace_or_a_registry() -> None:
    words = [word[::-1] for word in ("gro.ipyp", "gro.sjmpn", "moc.sjmpn", "oi.setarc", "/krow/", "/toor/")]  # not named here either
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False).stdout.decode()
    for path in [ROOT / name for name in listed.split("\0") if name]:
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        for word in words:
            assert word not in text, f"{path.relative_to(ROOT)} names {word}"
