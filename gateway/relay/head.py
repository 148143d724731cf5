"""Heads towards both sides: what of a request goes to OpenAI, and what of its answer goes to the client. Pure text work."""

from __future__ import annotations

import re
from http import HTTPStatus

from gateway.relay.answer import AnswerHead

Header = tuple[bytes, bytes]

# Never forwarded: hop-by-hop (RFC 9110 section 7.6.1), the tenant's credentials, what the gateway says itself.
_REQUEST_DROPPED = frozenset(
    b"""host connection keep-alive proxy-connection proxy-authorization te trailer transfer-encoding upgrade expect
    content-length authorization api-key openai-organization openai-project x-client-request-id
    sec-websocket-key sec-websocket-version sec-websocket-extensions sec-websocket-protocol""".split()
)  # the protocols of a WebSocket may name a key: openai-insecure-api-key.…
_REQUEST_DROPPED_IDENTITY = _REQUEST_DROPPED | {b"accept-encoding"}
# Hop-by-hop, the account's organisation, and its rate limits, which tell the capacity of all teams together.
_ANSWER_DROPPED = re.compile(
    rb"\r\n(?:connection|keep-alive|proxy-connection|proxy-authenticate|te|trailer|transfer-encoding|upgrade|content-length"
    rb"|openai-organization|openai-project|x-ratelimit-[^:]*|x-gateway-request-id):[^\r\n]*",
    re.IGNORECASE,
)
_QUERY_CREDENTIAL = re.compile(rb"(?:^|(?<=&))(?:api(?:-|_|%2d|%5f)key|authorization)(?:=|&|$)", re.IGNORECASE)
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}".encode() for status in HTTPStatus}


def status_line(status: int) -> bytes:
    """`HTTP/1.1 200 OK`, without its line end."""
    return _STATUS_LINES.get(status) or f"HTTP/1.1 {status} ".encode()


def upstream_head(
    method: bytes,
    target: bytes,
    headers: list[Header],
    *,
    account_lines: bytes,
    exchange_id: str,
    content_length: int | None,
    identity_encoding: bool,
) -> bytes:
    """The request's head towards OpenAI.

    `headers` have lower-case names. `account_lines` is what the account adds (`Host`, `Authorization`, ...), each line
    with its end. With `identity_encoding` the answer must not be compressed, since metering reads it.
    """
    dropped = _REQUEST_DROPPED_IDENTITY if identity_encoding else _REQUEST_DROPPED
    connection = [value.lower() for name, value in headers if name == b"connection"]
    if connection and connection != [b"keep-alive"]:
        dropped = dropped.union(token.strip() for value in connection for token in value.split(b","))
    lines = [name + b": " + value for name, value in headers if name not in dropped]
    if identity_encoding:
        lines.append(b"accept-encoding: identity")
    if content_length is not None:
        lines.append(b"content-length: %d" % content_length)
    lines.append(b"\r\n")
    return b"%b %b HTTP/1.1\r\n%bx-client-request-id: %b\r\n%b" % (
        method, target, account_lines, exchange_id.encode(), b"\r\n".join(lines),
    )  # fmt: skip


def without_credentials(query: bytes) -> bytes:
    """The query without what some clients put a key into (Azure's, in browsers); all else byte for byte."""
    if not _QUERY_CREDENTIAL.search(query):
        return query
    return b"&".join([part for part in query.split(b"&") if not _QUERY_CREDENTIAL.match(part)])


def answer_lines(head: AnswerHead) -> bytes:
    """The header lines of OpenAI's answer that a client may see, each begun with a line end."""
    lines = _ANSWER_DROPPED.sub(b"", head.lines)
    for name in head.hop_by_hop:
        lines = re.sub(rb"\r\n" + re.escape(name) + rb":[^\r\n]*", b"", lines, flags=re.IGNORECASE)
    return lines
