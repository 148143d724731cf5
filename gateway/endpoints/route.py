"""From method and path to a row of the table. Pure.

The path is matched as OpenAI's server might read it (decoded, in lower case), so that no spelling of a billed path slips
through as an unknown one; what is sent on are the bytes that came.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

import msgspec

from gateway.endpoints.table import ENDPOINTS, Endpoint, Kind
from gateway.errors import ApiError, invalid_request

PATH_BYTES_MAX = 2_048
# Decoded once. No `%`, which a server that decodes twice would read further; no `;`, `?` or `#`, at which some would end the path.
_SEGMENT = re.compile(rb"[0-9A-Za-z._~!$&'()*+,=:@-]+")

_ELSEWHERE = {
    method: Endpoint("other", method, "/{rest}", Kind.FREE if method in ("GET", "DELETE", "HEAD", "OPTIONS") else Kind.UNKNOWN)
    for method in ("GET", "DELETE", "HEAD", "OPTIONS", "POST", "PUT", "PATCH")
}


class Route(msgspec.Struct, frozen=True):
    """Where a call goes."""

    endpoint: Endpoint
    upstream_path: bytes  # as it came, without `/v1`: appended to the account's base URL
    parameters: dict[str, str] = {}


class _Node:
    """A step in the tree of paths: by literal segment, by parameter, or any rest."""

    __slots__ = ("children", "endpoints", "name", "parameter", "rest")

    def __init__(self) -> None:
        self.children: dict[bytes, _Node] = {}
        self.parameter: _Node | None = None
        self.name = ""
        self.endpoints: dict[str, Endpoint] = {}
        self.rest: dict[str, Endpoint] = {}


def _tree() -> _Node:
    root = _Node()
    for endpoint in ENDPOINTS:
        node = root
        for segment in endpoint.path.strip("/").split("/"):
            if segment == "{rest}":
                node.rest[endpoint.method] = endpoint
                break
            if segment.startswith("{"):
                node.parameter = node.parameter or _Node()
                node = node.parameter
                node.name = segment[1:-1]
            else:
                node = node.children.setdefault(segment.encode(), _Node())
        else:
            node.endpoints[endpoint.method] = endpoint
    return root


_ROOT = _tree()
_EXACT = {
    (endpoint.method, prefix + endpoint.path.encode()): Route(endpoint, endpoint.path.encode())
    for endpoint in ENDPOINTS
    if "{" not in endpoint.path
    for prefix in (b"", b"/v1")
}


def route(method: str, path: bytes) -> Route | ApiError:
    """The row for a request. HEAD goes where GET goes. Paths that two servers could read differently are refused."""
    exact = _EXACT.get((method, path))
    if exact is not None:
        return exact
    wanted = "GET" if method == "HEAD" else method
    if wanted not in _ELSEWHERE:
        return _invalid_url(method, path)
    if len(path) > PATH_BYTES_MAX or not path.startswith(b"/") or b"%2f" in path.lower():
        return _invalid_url(method, path)
    segments = unquote_to_bytes(path)[1:].removesuffix(b"/").split(b"/")
    if any(segment in (b".", b"..") or not _SEGMENT.fullmatch(segment) for segment in segments):
        return _invalid_url(method, path)
    versioned = segments[0].lower() == b"v1"
    if versioned:
        segments = segments[1:]
        if not segments:
            return _invalid_url(method, path)
    upstream_path = b"/" + path.split(b"/", 2)[2] if versioned else path
    found = _walk(segments, wanted)
    if found is not None:
        return Route(found[0], upstream_path, found[1])
    if not versioned:
        return _invalid_url(method, path)  # a browser's favicon, a scanner: nothing that OpenAI has
    return Route(_ELSEWHERE[wanted], upstream_path)


def _walk(segments: list[bytes], method: str) -> tuple[Endpoint, dict[str, str]] | None:
    node, rest = _ROOT, None
    parameters: dict[str, str] = {}
    for segment in segments:
        rest = node.rest.get(method, rest)
        child = node.children.get(segment.lower())
        if child is None and node.parameter is not None:
            child = node.parameter
            parameters[child.name] = segment.decode()
        if child is None:
            return (rest, parameters) if rest is not None else None
        node = child
    endpoint = node.endpoints.get(method, rest)
    return (endpoint, parameters) if endpoint is not None else None


def _invalid_url(method: str, path: bytes) -> ApiError:
    shown = path[:200].decode("ascii", "replace").replace("\r", " ").replace("\n", " ")
    return invalid_request(f"Invalid URL ({method} {shown})", status=404)
