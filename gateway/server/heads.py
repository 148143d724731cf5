"""From the head that httptools has read to a call."""

from __future__ import annotations

import httptools

from gateway.relay.call import Call


def call_of(parser: httptools.HttpRequestParser, target: bytes, headers: list[tuple[bytes, bytes]]) -> Call | None:
    """The call, its body still to come; None: its target or its version is not one of HTTP/1.1."""
    try:
        url = httptools.parse_url(target)
    except httptools.HttpParserInvalidURLError:
        return None
    version = parser.get_http_version()
    if version not in ("1.1", "1.0"):
        return None
    return Call(
        parser.get_method().decode(),
        url.path or b"/",
        url.query or b"",
        headers,
        http_10=version == "1.0",
        keep_alive=parser.should_keep_alive(),
    )
