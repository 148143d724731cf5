"""What stands in a request: its target, its query, its key."""

from __future__ import annotations

import contextlib
import json
from typing import Any
from urllib.parse import unquote_to_bytes

from gateway.endpoints.route import Route, route
from gateway.endpoints.table import ENDPOINTS, Kind
from gateway.errors import ApiError
from gateway.relay.head import without_credentials
from gateway.teams import Identity, Key, Team, key_hash
from gateway.teams.identify import identify, shown

from .target import Seeds, control

_BILLED = {tuple(endpoint.path.strip("/").split("/")) for endpoint in ENDPOINTS if endpoint.kind not in (Kind.FREE, Kind.UNKNOWN)}
_METHODS = ("GET", "POST", "HEAD", "DELETE", "PUT", "PATCH", "OPTIONS", "TRACE")


def check_route(data: bytes) -> None:
    """A row or OpenAI's 404. No other spelling of a billed path passes as an unknown one, and what is sent on stays in its line."""
    flags, _, path = control(data)
    method = _METHODS[flags % len(_METHODS)]
    where = route(method, path)
    if isinstance(where, ApiError):
        assert (where.status, where.type) == (404, "invalid_request_error")
        where.body()
        return
    assert isinstance(where, Route)
    assert path.endswith(where.upstream_path), "another path is sent on than came"
    sent_on = set(where.upstream_path)
    assert all(0x21 <= byte <= 0x7E for byte in sent_on), "what is sent on would end the request's line early"
    assert not sent_on & set(b"?#\\"), "what is sent on has another end for other servers"
    if where.endpoint.name == "other":
        assert _as_a_lenient_server_reads(path) not in _BILLED_LITERAL, "a billed path passes as an unknown one"


_BILLED_LITERAL = {b"/".join(part.encode() for part in parts) for parts in _BILLED if not any(part.startswith("{") for part in parts)}


def _as_a_lenient_server_reads(path: bytes) -> bytes:
    for _ in range(3):
        path = unquote_to_bytes(path)
    path = path.lower().replace(b"\\", b"/").partition(b"?")[0].partition(b"#")[0]
    kept: list[bytes] = []
    for segment in path.split(b"/"):
        segment = segment.partition(b";")[0].strip()
        if segment == b"..":
            del kept[-1:]
        elif segment not in (b"", b"."):
            kept.append(segment)
    return b"/".join(kept[1:] if kept[:1] == [b"v1"] else kept)


def route_seeds() -> Seeds:
    """Every row, as it stands and misspelt."""
    seeds = {}
    for endpoint in ENDPOINTS:
        method = _METHODS.index(endpoint.method) if endpoint.method in _METHODS else 0
        path = ("/v1" + endpoint.path).encode()
        name = endpoint.method + endpoint.path.replace("/", " ").replace("{", "").replace("}", "")
        seeds[name] = bytes([method, 0]) + path
        seeds[name + ", odd"] = bytes([method, 0]) + path.replace(b"/v1/", b"/V1/%2e/").replace(b"e", b"%45")
    return seeds


# Targets: keys and credentials

_KEY = b"gk-" + b"0123456789abcdef" * 4
_WHO = Identity(Team("voice", "tier-1"), Key("k1", key_hash(_KEY)))
_KNOWN = {key_hash(_KEY): _WHO}


def check_credentials(data: bytes) -> None:
    """Only the key identifies, an error shows too little of it to use, and no credential stays in a query."""
    flags, _, text = control(data)
    if flags & 1:
        kept = without_credentials(text)
        names = [unquote_to_bytes(part.partition(b"=")[0]).lower().replace(b"_", b"-") for part in kept.split(b"&")]
        assert not {b"api-key", b"authorization"} & set(names), f"a credential stays in the query: {kept!r}"
        others = [part for part in text.split(b"&") if b"key" not in part.lower() and b"auth" not in part.lower() and b"%" not in part]
        assert [part for part in kept.split(b"&") if part in others] == others or not kept, "something else was taken out of the query"
        return
    found = identify(text, _KNOWN, 0)
    if isinstance(found, Identity):
        assert found is _WHO
        assert text.split()[0].lower() == b"bearer"
        assert text.split()[1] == _KEY
    else:
        said = found.error.body()
        token = text.strip().partition(b" ")[2].strip()
        with contextlib.suppress(UnicodeDecodeError):
            assert len(token) < 12 or json.dumps(token.decode())[1:-1].encode() not in said, "an error shows a whole key"
        assert len(shown(token)) <= 12
        assert json.loads(said)["error"]["code"] in (None, "invalid_api_key")


def credential_seeds() -> Seeds:
    """Keys right and wrong, queries with and without."""
    return {
        "right key": b"\0\0Bearer " + _KEY,
        "odd spaces": b"\0\0  bearer   " + _KEY + b" ",
        "wrong key": b"\0\0Bearer " + _KEY[:-1] + b"0",
        "basic": b"\0\0Basic YTpi",
        "no scheme": b"\0\0" + _KEY,
        "query": b"\1\0api-version=1&api-key=secret&x=authorization",
        "query, encoded": b"\1\0a=b&api%2Dkey=secret&API_KEY&authorization=x",
    }


def grow_credentials(text: bytes) -> Any:
    """Both readers on one text."""
    return identify(text, _KNOWN, 0), without_credentials(text)
