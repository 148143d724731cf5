"""Heads towards both sides: what never passes, and that everything else does."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.relay.answer import AnswerReader
from gateway.relay.head import answer_lines, status_line, upstream_head, without_credentials

ACCOUNT = b"host: api.openai.com\r\nauthorization: Bearer sk-account\r\n"


def sent(headers: list[tuple[bytes, bytes]], *, content_length: int | None = None, identity_encoding: bool = False) -> list[bytes]:
    """The lines of the head that goes to OpenAI."""
    head = upstream_head(
        b"POST", b"/v1/chat/completions?a=b", headers, account_lines=ACCOUNT, exchange_id="gx-1", content_length=content_length,
        identity_encoding=identity_encoding,
    )  # fmt: skip
    assert head.endswith(b"\r\n\r\n")
    return head[:-4].split(b"\r\n")


FIXED = [
    b"POST /v1/chat/completions?a=b HTTP/1.1", b"host: api.openai.com", b"authorization: Bearer sk-account", b"x-client-request-id: gx-1"
]  # fmt: skip


@pytest.mark.parametrize(
    ("query", "sent"),
    [
        (b"", b""),
        (b"limit=2&after=x", b"limit=2&after=x"),
        (b"api-key=gk-voice", b""),
        (b"a=1&api-key=gk-voice&b=2", b"a=1&b=2"),
        (b"API_KEY=gk&Authorization=Bearer+gk", b""),
        (b"api%2Dkey=gk&x", b"x"),
        (b"my-api-key=1&note=api-key=2", b"my-api-key=1&note=api-key=2"),
    ],
)
def test_a_key_in_the_query_stays_here(query: bytes, sent: bytes) -> None:
    assert without_credentials(query) == sent


def test_the_head_is_the_accounts_and_then_the_clients() -> None:
    headers = [(b"content-type", b"application/json"), (b"openai-beta", b"assistants=v2"), (b"user-agent", b"x/1")]
    lines = [b"content-type: application/json", b"openai-beta: assistants=v2", b"user-agent: x/1"]
    assert sent(headers, content_length=12) == [*FIXED, *lines, b"content-length: 12"]
    assert sent([], content_length=None) == FIXED
    assert sent([], content_length=0) == [*FIXED, b"content-length: 0"]


@pytest.mark.parametrize(
    "name",
    ["host", "connection", "keep-alive", "proxy-connection", "proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade",
     "expect", "content-length", "authorization", "api-key", "openai-organization", "openai-project", "x-client-request-id",
     "sec-websocket-protocol", "sec-websocket-key", "sec-websocket-version", "sec-websocket-extensions"],
)  # fmt: skip
def test_a_header_of_one_hop_or_of_the_team_never_goes_on(name: str) -> None:
    assert sent([(name.encode(), b"gk-secret"), (b"x-kept", b"1"), (name.encode(), b"again")]) == [*FIXED, b"x-kept: 1"]


def test_headers_that_connection_names_stay_on_their_hop() -> None:
    headers = [(b"x-hop", b"1"), (b"connection", b"keep-alive, X-Hop"), (b"connection", b"x-other ,"), (b"x-other", b"2")]
    headers.append((b"x-kept", b"3"))
    assert sent(headers) == [*FIXED, b"x-kept: 3"]


def test_identity_is_asked_for_where_the_answer_is_read() -> None:
    headers = [(b"accept-encoding", b"gzip, br"), (b"accept", b"*/*")]
    assert sent(headers, identity_encoding=True) == [*FIXED, b"accept: */*", b"accept-encoding: identity"]
    assert sent(headers, identity_encoding=False) == [*FIXED, b"accept-encoding: gzip, br", b"accept: */*"]


def test_a_header_that_is_given_twice_goes_on_twice() -> None:
    assert sent([(b"x-a", b"1"), (b"x-a", b"2")]) == [*FIXED, b"x-a: 1", b"x-a: 2"]


printable = st.binary(max_size=12).map(lambda raw: bytes(byte for byte in raw if byte == 9 or (byte >= 32 and byte != 127)))
headers = st.lists(st.tuples(st.text("abc-", min_size=1, max_size=6).map(str.encode), printable), max_size=6)


@settings(max_examples=100, deadline=None)
@given(headers)
def test_the_head_has_a_line_for_each_header_and_no_more(headers: list[tuple[bytes, bytes]]) -> None:
    assert sent(headers) == [*FIXED, *(name + b": " + value for name, value in headers)]


def shown(lines: bytes) -> bytes:
    """What a client sees of these header lines of OpenAI."""
    reader = AnswerReader()
    reader.feed(b"HTTP/1.1 200 OK" + lines + b"\r\n\r\n")
    assert reader.head is not None
    return answer_lines(reader.head)


@pytest.mark.parametrize(
    "name",
    ["connection", "keep-alive", "proxy-connection", "proxy-authenticate", "te", "trailer", "transfer-encoding", "upgrade",
     "content-length", "openai-organization", "openai-project", "x-ratelimit-limit-requests", "x-ratelimit-remaining-tokens",
     "x-ratelimit-reset-project-tokens", "x-ratelimit-limit-tokens_usage_based", "x-gateway-request-id"],
)  # fmt: skip
def test_a_header_of_one_hop_or_of_the_account_never_reaches_a_client(name: str) -> None:
    value = {"transfer-encoding": "chunked", "content-length": "0"}.get(name, "org-secret")
    for spelling in (name, name.title(), name.upper()):
        assert shown(f"\r\nX-Kept: 1\r\n{spelling}: {value}\r\nX-Also: 2".encode()) == b"\r\nX-Kept: 1\r\nX-Also: 2"


def test_what_connection_names_in_an_answer_stays_on_its_hop() -> None:
    assert shown(b"\r\nX-Hop: 1\r\nConnection: keep-alive, x-hop\r\nX-Hopper: 2") == b"\r\nX-Hopper: 2"


@pytest.mark.parametrize(
    "line",
    ["x-request-id: req_1", "OpenAI-Processing-Ms: 410", "openai-version: 2020-10-01", "retry-after: 9", "retry-after-ms: 9000",
     "x-should-retry: false", "content-type: text/event-stream", "Content-Encoding: gzip", "x-ratelimited: no", "connections: 1"],
)  # fmt: skip
def test_everything_else_passes_byte_for_byte(line: str) -> None:
    assert shown(f"\r\n{line}\r\nSet-Cookie:a=b".encode()) == f"\r\n{line}\r\nSet-Cookie:a=b".encode()


def test_status_lines_have_the_usual_words_and_none_for_others() -> None:
    assert status_line(429) == b"HTTP/1.1 429 Too Many Requests"
    assert status_line(599) == b"HTTP/1.1 599 "
