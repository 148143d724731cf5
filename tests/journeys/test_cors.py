"""A browser's way in: a page of another origin asks first, calls with its key, and reads what it needs of the answer.

`Browser` is the part of the Fetch standard that decides what a page is shown (CORS check, preflight, exposed headers): the plain
clients of the other journeys are shown everything.
"""

from __future__ import annotations

import http.client
import json
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

PAGE, OTHER = "https://app.example.com", "https://evil.example"
CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "What is on my bill?"}]}
SDK_HEADERS = {"content-type": "application/json", "x-stainless-lang": "js", "openai-organization": "org-mine"}  # none may go unasked
SHOWN_ALWAYS = {"cache-control", "content-language", "content-length", "content-type", "expires", "last-modified", "pragma"}


class NetworkError(Exception):
    """All that a page learns of an answer that is not for it; the reason is for the console."""


class Shown(NamedTuple):
    """What a page sees of an answer."""

    status: int
    headers: dict[str, str]
    body: bytes


class Browser:
    """One page of an origin. `with Browser(...) as page`: it keeps its connection, as browsers do."""

    def __init__(self, base_url: str, origin: str) -> None:
        self._origin, to = origin, urlsplit(base_url)
        self._path = to.path
        self._connection = http.client.HTTPConnection(to.hostname or "", to.port, timeout=20)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def fetch(self, path: str, key: str, body: Any, headers: dict[str, str] | None = None) -> Shown:
        given = SDK_HEADERS | (headers or {}) | {"authorization": f"Bearer {key}"}
        asked = ",".join(sorted(given))
        _, _, allowed = self.request("OPTIONS", path, {"access-control-request-method": "POST", "access-control-request-headers": asked})
        if "POST" not in allowed["access-control-allow-methods"] or allowed["access-control-allow-headers"] != asked:
            raise NetworkError(f"not allowed: {allowed}")
        status, text, found = self.request("POST", path, given, json.dumps(body))
        exposed = {name.strip() for name in found["access-control-expose-headers"].split(",")}
        return Shown(status, {name: value for name, value in found.items() if name in exposed | SHOWN_ALWAYS}, text)

    def request(self, method: str, path: str, headers: dict[str, str], body: str | None = None) -> tuple[int, bytes, dict[str, str]]:
        self._connection.request(method, self._path + path, body, headers | {"origin": self._origin})
        answer = self._connection.getresponse()
        text = answer.read()
        found = {name.lower(): ", ".join(answer.headers.get_all(name, [])) for name in answer.headers}  # one that is there twice: "a, b"
        named = found.get("access-control-allow-origin")
        if named not in ("*", self._origin) or (method == "OPTIONS" and not 200 <= answer.status <= 299):
            raise NetworkError(f"{answer.status}, access-control-allow-origin: {named}: {text!r}")
        return answer.status, text, found


def allow(place: Any, origins: Any) -> None:
    """Have the running gateway take this for `proxy.cors_origins`."""
    text = (place.config / "gateway.yaml").read_text()
    head, _, rest = text.partition("\n")
    assert head.startswith("proxy: {listen")
    place.write("gateway.yaml", f"{head.partition(', cors_origins')[0].rstrip('}')}, cors_origins: {json.dumps(origins)}}}\n{rest}")
    assert place.reload().status == 200


@pytest.fixture
def place(start_gateway: Any) -> Any:
    return start_gateway(poor={"limits": {"gpt-4o": {"rpd": 1}}}).place


def test_a_page_of_a_listed_origin_calls_streams_and_reads_errors_and_another_learns_nothing(place: Any, until: Any) -> None:
    key, poor = place.keys["voice"], place.keys["poor"]
    with Browser(place.base_url, PAGE) as page, pytest.raises(NetworkError, match=r"403.*proxy\.cors_origins"):
        page.fetch("/chat/completions", key, CHAT)  # nobody may, unless it is written
    allow(place, [PAGE, "http://localhost:5173"])
    with Browser(place.base_url, PAGE) as page:
        answer = page.fetch("/chat/completions", key, CHAT)
        assert (answer.status, json.loads(answer.body)["object"]) == (200, "chat.completion")
        ours = {"x-request-id", "x-gateway-request-id", "x-ratelimit-remaining-requests", "x-ratelimit-reset-tokens"}
        assert ours <= answer.headers.keys()
        stream = page.fetch("/chat/completions", key, CHAT | {"stream": True})
        assert (stream.status, stream.body.endswith(b"data: [DONE]\n\n")) == (200, True)
        assert page.fetch("/chat/completions", "gk-voice-wrong", CHAT).status == 401
        openais = page.fetch("/chat/completions", key, CHAT, {"x-simulator-fault": "status=429;retry_after_ms=1500"})
        assert (openais.status, openais.headers["retry-after-ms"]) == (429, "1500")
        assert page.fetch("/chat/completions", poor, CHAT).status == 200
        limited = page.fetch("/chat/completions", poor, CHAT)
        assert (limited.status, limited.headers["x-should-retry"]) == (429, "false")
        assert int(limited.headers["retry-after-ms"]) > 60_000
    with Browser(place.base_url, OTHER) as other:
        with pytest.raises(NetworkError, match="403"):
            other.fetch("/chat/completions", key, CHAT)
        with pytest.raises(NetworkError, match="200, access-control-allow-origin: None"):  # nor is it shown what it gets without asking
            other.request("GET", "/models", {"authorization": f"Bearer {key}"})

    place.settled()
    booked = [(entry["team"], entry["endpoint"], entry["status"]) for entry in place.entries()]
    chat = "chat/completions"
    assert booked == [("voice", chat, 200), ("voice", chat, 200), ("voice", chat, 429), ("poor", chat, 200), ("voice", "models", 200)]
    assert place.differences() == []
    until(lambda: place.metric("gateway_auth_failures_total", reason="unknown"), lambda count: count == 1, "the wrong key was counted")
    assert not place.metric("gateway_auth_failures_total", reason="missing")  # preflights bear no key, and are not missing one

    allow(place, "*")
    with Browser(place.base_url, OTHER) as anyone:
        assert anyone.fetch("/embeddings", key, {"model": "text-embedding-3-small", "input": "bill"}).status == 200
    assert place.complaints() == []
