"""The table, reached by every spelling and slipped past by none."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.endpoints.route import PATH_BYTES_MAX, Route, route
from gateway.endpoints.table import ENDPOINTS, Endpoint, Kind
from gateway.errors import ApiError


def example_of(endpoint: Endpoint) -> str:
    """A path of this row, without `/v1`."""
    return re.sub(r"\{(\w+)\}", lambda match: "some/more" if match[1] == "rest" else f"{match[1]}-1", endpoint.path)


def went(method: str, path: str | bytes) -> Route:
    found = route(method, path.encode() if isinstance(path, str) else path)
    assert isinstance(found, Route), found
    return found


def refused(method: str, path: str | bytes, assert_openai_error: Any) -> None:
    found = route(method, path.encode("latin-1") if isinstance(path, str) else path)
    assert isinstance(found, ApiError), found.endpoint
    error = assert_openai_error(found.status, {"content-type": "application/json"}, found.body(), 404)
    assert error["message"].startswith(f"Invalid URL ({method} ")


@pytest.mark.parametrize("spelling", ["/v1{}", "{}", "/v1{}/", "{}/", "/V1{}", "/%761{}"])
@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: f"{endpoint.method} {endpoint.path}")
def test_every_row_is_reached(endpoint: Endpoint, spelling: str) -> None:
    path = spelling.format(example_of(endpoint))
    found = went(endpoint.method, path)
    assert (found.endpoint.name, found.endpoint.kind, found.endpoint.method) == (endpoint.name, endpoint.kind, endpoint.method)
    assert found.upstream_path == re.sub(r"^/([vV]1|%761)", "", path).encode(), "the path goes on as it came"
    names = [name for name in re.findall(r"\{(\w+)\}", endpoint.path) if name != "rest"]
    assert {name: found.parameters[name] for name in names} == {name: f"{name}-1" for name in names}


@pytest.mark.parametrize("endpoint", [row for row in ENDPOINTS if row.owned_id], ids=lambda row: f"{row.method} {row.path}")
def test_a_row_that_owns_names_a_parameter_of_its_path(endpoint: Endpoint) -> None:
    assert f"{{{endpoint.owned_id}}}" in endpoint.path


def test_no_two_rows_are_the_same() -> None:
    rows = [(row.method, row.path) for row in ENDPOINTS]
    assert len(rows) == len(set(rows))


METERED = {row.path: row for row in ENDPOINTS if row.kind is Kind.METERED}
BILLED = [row for row in ENDPOINTS if row.kind in (Kind.METERED, Kind.UNMETERED)]


def test_what_is_metered_has_a_reader_and_an_observer() -> None:
    assert set(METERED) == {"/chat/completions", "/completions", "/responses", "/responses/compact", "/embeddings"}
    for row in METERED.values():
        assert row.read is not None
        assert row.observe is not None


SPELLINGS = {
    "in capitals": str.upper,
    "with its first letter in a capital": lambda path: path[0] + path[1].upper() + path[2:],
    "with a letter encoded": lambda path: path[0] + f"%{ord(path[1]):02x}" + path[2:],
    "with a letter encoded in capitals": lambda path: path[0] + f"%{ord(path[1]):02X}" + path[2:],
    "with every letter encoded": lambda path: "".join(char if char == "/" else f"%{ord(char):02x}" for char in path),
    "with a capital encoded": lambda path: path[0] + f"%{ord(path[1].upper()):02x}" + path[2:],
    "with a slash behind": lambda path: path + "/",
}


@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS.keys())
@pytest.mark.parametrize("row", BILLED, ids=lambda row: f"{row.method} {row.path}")
def test_no_spelling_of_a_billed_path_is_unknown(row: Endpoint, spell: Any) -> None:
    found = went(row.method, "/v1" + spell(example_of(row)))
    assert (found.endpoint.name, found.endpoint.kind) == (row.name, row.kind)


TWO_MEANINGS = [
    "/v1//chat/completions", "//v1/chat/completions", "/v1/chat//completions", "/v1/chat/completions//", "/v1/./chat/completions",
    "/v1/chat/./completions", "/v1/x/../chat/completions", "/v1/chat/completions/.", "/v1/chat/completions/..",
    "/v1/files/%2e%2e/chat/completions", "/v1/%2e/chat/completions", "/v1/%2E%2E/v1/chat/completions", "/v1/.%2e/chat/completions",
    "/v1/chat%2fcompletions", "/v1/chat%2Fcompletions", "/v1%2fchat/completions", "/v1/chat\\completions", "/v1/chat%5ccompletions",
    "/v1/chat/completions%00", "/v1/chat/completions%20", "/v1/chat/completions%0a", "/v1/chat/completions%09", "/v1/chat/completions%3f",
    "/v1/chat/completions%23", "/v1/chat/completions;x=1", "/v1/chat;x/completions", "/v1/chat/completions%3bx",
    "/v1/chat/%2563ompletions", "/v1/chat%252fcompletions", "/v1/chat/completions%", "/v1/chat/%zzcompletions", "/v1/chat/completions%ff",
    "/v1/chat/completion%c5%bf", "/v1/chat/completions\xe9", "/v1/chat/completions%7f", "/v1/chat/completions<", "/v1/%7bx%7d",
]  # fmt: skip


@pytest.mark.parametrize("path", TWO_MEANINGS)
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_path_that_two_servers_could_read_differently_is_refused(method: str, path: str, assert_openai_error: Any) -> None:
    refused(method, path, assert_openai_error)


NOWHERE = ["/", "", "*", "/v1", "/v1/", "/favicon.ico", "/chat", "/v2/chat/completions", "/v1chat/completions", "v1/models"]


@pytest.mark.parametrize("path", NOWHERE)
def test_outside_of_v1_there_is_nothing_but_the_table(path: str, assert_openai_error: Any) -> None:
    refused("GET", path, assert_openai_error)


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [("POST", "/v1/something/new", Kind.UNKNOWN), ("PUT", "/v1/chat/completions", Kind.UNKNOWN), ("PATCH", "/v1/files", Kind.UNKNOWN),
     ("GET", "/v1/something/new", Kind.FREE), ("DELETE", "/v1/files/file-1", Kind.FREE), ("OPTIONS", "/v1/chat/completions", Kind.FREE),
     ("HEAD", "/v1/something", Kind.FREE), ("POST", "/v1/v1/chat/completions", Kind.UNKNOWN), ("POST", "/v1/chat", Kind.UNKNOWN)],
)  # fmt: skip
def test_an_unknown_path_under_v1_passes_as_other(method: str, path: str, kind: Kind) -> None:
    found = went(method, path)
    assert (found.endpoint.name, found.endpoint.kind, found.parameters) == ("other", kind, {})
    assert found.upstream_path == path.removeprefix("/v1").encode()


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PROPFIND", "SOURCE", "get", ""])
def test_a_method_openai_does_not_have_is_refused(method: str, assert_openai_error: Any) -> None:
    refused(method, "/v1/models", assert_openai_error)


def test_head_goes_where_get_goes() -> None:
    for path in ("/v1/models", "/v1/models/gpt-4o", "/v1/responses", "/v1/responses/resp_1"):
        assert went("HEAD", path).endpoint is went("GET", path).endpoint
        assert went("HEAD", path).parameters == went("GET", path).parameters


PARAMETERS = [
    ("GET", "/v1/models/ft:gpt-4o:org::id", "models/retrieve", {"model": "ft:gpt-4o:org::id"}),
    ("GET", "/v1/models/ft%3Agpt-4o", "models/retrieve", {"model": "ft:gpt-4o"}),
    ("GET", "/v1/responses/RESP_a", "responses/retrieve", {"response_id": "RESP_a"}),
    ("POST", "/v1/responses/resp_1/cancel", "responses/cancel", {"response_id": "resp_1"}),
    ("POST", "/v1/responses/compact", "responses/compact", {}),
    ("POST", "/v1/responses/input_tokens", "responses/input_tokens", {}),
    ("GET", "/v1/responses/resp_1/input_items", "responses/input_items", {"response_id": "resp_1"}),
    ("GET", "/v1/responses/resp_1/something/new", "responses/other", {"response_id": "resp_1"}),
    ("POST", "/v1/responses/resp_1/steer", "responses/other", {"response_id": "resp_1"}),
    ("DELETE", "/v1/responses/resp_1/cancel", "responses/other", {"response_id": "resp_1"}),
    ("GET", "/v1/chat/completions/chatcmpl-1", "chat/completions/stored", {"completion_id": "chatcmpl-1"}),
    ("GET", "/v1/chat/completions/chatcmpl-1/files", "chat/completions/other", {"completion_id": "chatcmpl-1"}),
    ("POST", "/v1/threads/runs", "threads/runs", {}),
    ("POST", "/v1/threads/thread_1/runs", "threads/runs", {"thread_id": "thread_1"}),
    ("POST", "/v1/threads/t/runs/r/submit_tool_outputs", "threads/runs", {"thread_id": "t", "run_id": "r"}),
    ("POST", "/v1/images/edits", "images", {}),
    ("GET", "/v1/realtime", "realtime", {}),
    ("POST", "/v1/realtime/calls/rtc_1/hangup", "realtime", {}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "name", "parameters"), PARAMETERS, ids=[f"{case[0]} {case[1]}" for case in PARAMETERS])
def test_parameters_come_out_of_the_path(method: str, path: str, name: str, parameters: dict[str, str]) -> None:
    found = went(method, path)
    assert (found.endpoint.name, found.parameters) == (name, parameters)


@pytest.mark.parametrize(("over", "fits"), [(-1, True), (0, True), (1, False)], ids=["one under", "exactly", "one over"])
def test_paths_are_bounded(over: int, fits: bool, assert_openai_error: Any) -> None:
    path = "/v1/models/" + "m" * (PATH_BYTES_MAX + over - len("/v1/models/"))
    if fits:
        assert went("GET", path).endpoint.name == "models/retrieve"
    else:
        refused("GET", path, assert_openai_error)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["GET", "POST", "HEAD", "PUT"]),
    st.one_of(st.binary(max_size=40), st.text("/v1chat.%25e\\;?", max_size=30).map(str.encode)),
)
def test_any_bytes_are_a_route_or_a_refusal(method: str, path: bytes) -> None:
    found = route(method, path)
    if isinstance(found, Route):
        assert path.endswith(found.upstream_path)
        assert found.upstream_path.startswith(b"/")
    else:
        assert found.status == 404
        assert "\n" not in found.message
        assert "\r" not in found.message
