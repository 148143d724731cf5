"""Any bytes in: a document or problems out, never an exception."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.config.documents import DEPTH_MAX, FILE_BYTES_MAX, Document, read_document

if TYPE_CHECKING:
    from conftest import Folder

BOMB = b"a: &a [x, x]\n" + b"".join(b"%c: &%c [*%c, *%c]\n" % (n, n, n - 1, n - 1) for n in range(98, 122))
FRAGMENTS = st.sampled_from(
    [
        "team", "tier", "keys", "accounts", ": ", ":\n", "\n", "\n  ", "- ", "[", "]", "{", "}", ", ", '"', "'", "&a ", "*a", "<<", "? ",
        "!!int ", "!!float ", "!!timestamp ", "!!bool ", "!!null ", "!!binary ", "|\n", ">\n", "# ", "---\n", "...\n", "%YAML 1.1\n",
        "\t", "0x", "1:60", "1e999", ".nan", "2027-13-45", "${", "${A}", "${A:-b}", "$${", "\\U00110000", "\\ud800", "\ufeff", "\x00",
        "\x85", "é", "voice", "openai", "9" * 5000,
    ]
)  # fmt: skip
TYPED_WRONG = b"""\
team: 99999999999999999999
tier: 0xffffffffffffffffffffffffffffffffff
model: {}
start: []
accounts: {a: 3, openai: {tier: [x]}}
"""


@given(st.binary(max_size=200) | st.lists(FRAGMENTS, max_size=30).map(lambda parts: "".join(parts).encode()))
@settings(max_examples=400, deadline=None)
@example(b'a: "\\U7FFFFFFF"')
@example(b"!!int x: !!int ''")
@example(b"a: !!timestamp x")
@example(b"a: !!float ''")
@example(b"a: !!bool maybe")
@example(b"a: 0x" + b"f" * 60_000)
@example(b"a: 1" + b":59" * 60_000)
@example(b"? &a [*a]\n: *a")
@example(BOMB)
def test_any_bytes_are_a_document_or_problems(content: bytes) -> None:
    read = read_document("f.yaml", content)
    if isinstance(read, Document):
        assert isinstance(read.value, dict)
        assert read.line(("nowhere",)) == 1
    else:
        assert read
        assert all(problem.text().startswith("f.yaml") and problem.message for problem in read)


@pytest.mark.parametrize("name", ["gateway.yaml", "tiers.yaml", "models/gpt-4o.yaml", "teams/voice.yaml"])
@given(content=st.binary(max_size=100) | st.lists(FRAGMENTS, max_size=30).map(lambda parts: "".join(parts).encode()))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(content=TYPED_WRONG)
def test_any_bytes_in_a_file_are_loaded_or_told(folder: Folder, name: str, content: bytes) -> None:
    folder.write(name, content)
    for text in folder.texts():
        assert text.startswith(("config/", "shipped/"))
        assert "\n" not in text.partition("is not valid YAML")[0]


@pytest.mark.parametrize(
    "text, depth",
    [("[" * 63 + "]" * 63, 64), ("{a: " * 63 + "1" + "}" * 63, 64)],
    ids=["lists", "mappings"],
)
def test_nesting_is_bounded_exactly(text: str, depth: int) -> None:
    assert depth == DEPTH_MAX
    assert isinstance(read_document("f", f"a: {text}".encode()), Document)
    assert not isinstance(read_document("f", f"a: [{text}]".encode()), Document)
    assert not isinstance(read_document("f", (f"a: [{text}]\n" + "# " + "x" * 2_000).encode()), Document)  # measured before it is parsed


INDENTED = "".join(f"{' ' * n}a:\n" for n in range(900))


@pytest.mark.parametrize("text", ["- " * 30_000, "? " * 30_000, "[" * 30_000, "{a: " * 30_000, INDENTED])
def test_deep_nesting_of_any_kind_does_not_exhaust_the_stack(text: str) -> None:
    assert not isinstance(read_document("f", text.encode()), Document)


def test_size_is_bounded_exactly() -> None:
    assert isinstance(read_document("f", b"a: 1\n#".ljust(FILE_BYTES_MAX, b"x")), Document)
    assert not isinstance(read_document("f", b"a: 1\n#".ljust(FILE_BYTES_MAX + 1, b"x")), Document)


def test_lines_are_those_of_the_keys() -> None:
    document = read_document("f", b"\xef\xbb\xbf# first\na:\n  b:\n    - x: 1\n      y: 2\n    -\n      z\nc: 2024-10-02\n")
    assert isinstance(document, Document)
    assert document.value == {"a": {"b": [{"x": 1, "y": 2}, "z"]}, "c": date(2024, 10, 2)}
    there = {("a",): 2, ("a", "b"): 3, ("a", "b", 0): 4, ("a", "b", 0, "y"): 5, ("a", "b", 1): 7, ("c",): 8}
    around = {("a", "b", 9): 3, ("c", "d"): 8, (): 1}
    assert {path: document.line(path) for path in there | around} == there | around


def test_each_key_that_is_there_twice_is_told() -> None:
    read = read_document("f", b"a: 1\nb: {c: 1, c: 2}\na: 2\na: 3\n")
    assert isinstance(read, list)
    assert [problem.text() for problem in read] == [
        "f:2: b.c: is there twice, first in line 2",
        "f:3: a: is there twice, first in line 1",
        "f:4: a: is there twice, first in line 1",
    ]
