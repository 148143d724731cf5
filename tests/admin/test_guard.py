"""Who may ask: every kind of request on both sides of the line."""

import pytest

from gateway.admin.guard import refusal

LOCAL = {"Host": "127.0.0.1:9091"}
TOKEN = "s3cret-token"

WITHOUT_TOKEN = [
    ("this machine", "GET", "127.0.0.1", LOCAL, None),
    ("this machine by IPv6", "GET", "::1", {"Host": "[::1]:9091"}, None),
    ("this machine, IPv4 mapped into IPv6", "GET", "::ffff:127.0.0.1", LOCAL, None),
    ("this machine by name", "GET", "127.0.0.1", {"Host": "localhost:9091"}, None),
    ("a Unix socket", "GET", None, {"Host": "localhost"}, None),
    ("another machine", "GET", "10.0.0.7", LOCAL, 403),
    ("another machine, mapped", "GET", "::ffff:10.0.0.7", LOCAL, 403),
    ("a peer that is no address", "GET", "", LOCAL, 403),
    ("a name rebound to this machine", "GET", "127.0.0.1", {"Host": "evil.example:9091"}, 403),
    ("a name that only begins like ours", "GET", "127.0.0.1", {"Host": "localhost.evil.example"}, 403),
    ("an address inside a name", "GET", "127.0.0.1", {"Host": "127.0.0.1.evil.example"}, 403),
    ("no Host", "GET", "127.0.0.1", {}, 403),
    ("a broken Host", "GET", "127.0.0.1", {"Host": "[::1"}, 403),
    ("through a proxy on this machine", "GET", "127.0.0.1", {**LOCAL, "X-Forwarded-For": "10.0.0.7"}, 403),
    ("a POST of a program", "POST", "127.0.0.1", LOCAL, None),
    ("a POST of our own page", "POST", "127.0.0.1", {**LOCAL, "Origin": "http://127.0.0.1:9091", "Sec-Fetch-Site": "same-origin"}, None),
    ("a POST of another page", "POST", "127.0.0.1", {**LOCAL, "Origin": "https://evil.example"}, 403),
    ("a POST of a page on another port", "POST", "127.0.0.1", {**LOCAL, "Origin": "http://127.0.0.1:8000"}, 403),
    ("a POST of a sandboxed page", "POST", "127.0.0.1", {**LOCAL, "Origin": "null"}, 403),
    ("a POST that a browser calls cross-site", "POST", "127.0.0.1", {**LOCAL, "Sec-Fetch-Site": "cross-site"}, 403),
    ("a POST of a sister site", "POST", "127.0.0.1", {**LOCAL, "Sec-Fetch-Site": "same-site"}, 403),
]


@pytest.mark.parametrize("method,peer,headers,status", [row[1:] for row in WITHOUT_TOKEN], ids=[row[0] for row in WITHOUT_TOKEN])
def test_without_a_token_only_this_machine_is_served(method: str, peer: str | None, headers: dict[str, str], status: int | None) -> None:
    refused = refusal("", method, peer, headers)
    assert (refused and refused.status) == status


WITH_TOKEN = [
    ("the token, from anywhere", f"Bearer {TOKEN}", None),
    ("the scheme in small letters", f"bearer {TOKEN}", None),
    ("no token", None, 401),
    ("an empty one", "Bearer ", 401),
    ("one letter less", f"Bearer {TOKEN[:-1]}", 401),
    ("one letter more", f"Bearer {TOKEN}x", 401),
    ("another scheme", f"Basic {TOKEN}", 401),
    ("no scheme", TOKEN, 401),
    ("letters that are not ASCII", "Bearer s3cret-tokén", 401),
    ("half a surrogate pair", "Bearer \udcff", 401),
]


@pytest.mark.parametrize("authorization,status", [row[1:] for row in WITH_TOKEN], ids=[row[0] for row in WITH_TOKEN])
@pytest.mark.parametrize("peer", ["10.0.0.7", "127.0.0.1"])
def test_with_a_token_only_its_bearer_is_served(peer: str, authorization: str | None, status: int | None) -> None:
    headers = {"Host": "gateway.internal"} | ({} if authorization is None else {"Authorization": authorization})
    refused = refusal(TOKEN, "POST", peer, headers)
    assert (refused and refused.status) == status
    assert refused is None or TOKEN not in refused.message
