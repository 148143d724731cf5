"""Pages of other origins: preflights, what answers to them say, and that nothing is said to anybody else."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import invalid_request
from gateway.relay.call import Call, Client
from gateway.server.cors import Cors

PAGE = "https://app.example.com"
PREFLIGHT = (
    b"OPTIONS /v1/x HTTP/1.1\r\nHost: a\r\nOrigin: %b\r\nAccess-Control-Request-Method: POST\r\n"
    b"Access-Control-Request-Headers: authorization,content-type,x-stainless-os\r\n\r\n"
)
UPSTREAM_LINES = b"\r\nAccess-Control-Allow-Origin: *\r\nx-served: yes\r\naccess-control-expose-headers: X-Request-ID"
VARY = {"vary": "origin"}


def get(origin: str | None) -> bytes:
    return b"GET /v1/x HTTP/1.1\r\nHost: a\r\n" + (f"Origin: {origin}\r\n".encode() if origin is not None else b"") + b"\r\n"


class Upstream:
    """Serves as the path does with what OpenAI says; remembers what reached it."""

    def __init__(self) -> None:
        self.reached: list[str] = []

    async def serve(self, call: Call, client: Client) -> None:
        self.reached.append(call.method)
        if await call.received is not None or call.path == b"/broken":
            raise RuntimeError("ours")
        if call.path == b"/refused":
            client.refuse(invalid_request("No.", status=429))
        else:
            client.begin(200, UPSTREAM_LINES, None, has_body=True)
            client.write(b"one")
            client.finish(b"two")


def door_for(house: Any, upstream: Upstream, *origins: str) -> Any:
    cors = Cors(origins)
    return house.door(cors.serving(upstream.serve), make_answer=cors.make_answer)


def ask(house: Any, raw: bytes, *origins: str) -> tuple[Any, Upstream]:
    upstream = Upstream()

    async def test() -> Any:
        async with door_for(house, upstream, *origins) as door:
            line = await door.line()
            line.send(raw)
            return await line.answer()  # fails on a header that is there twice

    return house.run(test), upstream


def spoken_of(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.startswith("access-control-") or name == "vary"}


@pytest.mark.parametrize("origins, named", [((PAGE, "http://localhost:5173"), PAGE), (("*",), "*")], ids=["listed", "any"])
def test_a_preflight_is_answered_here_and_reaches_nobody(house: Any, origins: tuple[str, ...], named: str) -> None:
    got, upstream = ask(house, PREFLIGHT % PAGE.encode() + get(None), *origins)
    assert (got.status, got.body, upstream.reached) == (204, b"", ["GET"])  # what comes behind it is served
    assert "connection" not in got.headers
    assert spoken_of(got.headers) == VARY | {
        "access-control-allow-origin": named,
        "access-control-allow-methods": "GET, HEAD, POST, PUT, PATCH, DELETE",
        "access-control-allow-headers": "authorization,content-type,x-stainless-os",
        "access-control-max-age": "7200",
    }


@pytest.mark.parametrize("wanted", [b"", b"x y", b",", b"x,\xc3\xa4"])
def test_a_list_of_headers_that_is_none_is_not_repeated(house: Any, wanted: bytes) -> None:
    raw = (PREFLIGHT % PAGE.encode()).replace(b"authorization,content-type,x-stainless-os", wanted)
    got, _ = ask(house, raw, PAGE)
    assert got.status == 204
    assert "access-control-allow-headers" not in got.headers


@pytest.mark.parametrize(
    "origin",
    ["https://app.example.com.evil.net", "http://app.example.com", "https://app.example.com:444", "null", "", "https://APP.example.com"],
)
def test_another_origin_gets_no_leave(house: Any, origin: str) -> None:
    got, upstream = ask(house, PREFLIGHT % origin.encode(), PAGE)
    assert upstream.reached == ["OPTIONS"]  # the path refuses it, as any call without a key
    assert spoken_of(got.headers) == VARY
    got, _ = ask(house, get(origin), PAGE)
    assert (got.status, got.body) == (200, b"onetwo")
    assert spoken_of(got.headers) == VARY  # OpenAI's leave for everybody is not passed on


@pytest.mark.parametrize("path, status", [("/v1/x", 200), ("/refused", 429), ("/broken", 500)], ids=["streamed", "refused", "broken"])
def test_whatever_is_answered_an_allowed_page_may_read_it(house: Any, path: str, status: int) -> None:
    got, _ = ask(house, get(PAGE).replace(b"/v1/x", path.encode()), PAGE)
    assert got.status == status
    shown = spoken_of(got.headers)
    exposed = shown.pop("access-control-expose-headers").split(", ")
    assert shown == VARY | {"access-control-allow-origin": PAGE}
    assert {"x-request-id", "x-gateway-request-id", "retry-after-ms", "x-ratelimit-remaining-tokens"} <= set(exposed)


@pytest.mark.parametrize(
    "raw, status",
    [
        (get(PAGE).replace(b"\r\n\r\n", b"\r\nContent-Length: 99999999999\r\n\r\n"), 413),
        (get(PAGE).replace(b"\r\n\r\n", b"\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"), 400),
        (get(PAGE)[:-2] + b"X: " + b"x" * 70_000 + b"\r\n\r\n", 431),
    ],
    ids=["a body too large", "bad framing", "a head too large"],
)
def test_a_page_may_read_why_its_request_made_no_call(house: Any, raw: bytes, status: int) -> None:
    got, upstream = ask(house, raw, PAGE)
    assert (got.status, upstream.reached) == (status, [])
    assert got.headers["access-control-allow-origin"] == PAGE


@pytest.mark.parametrize("raw", [get(None), b"OPTIONS /v1/x HTTP/1.1\r\nHost: a\r\n\r\n"], ids=["GET", "OPTIONS"])
def test_who_sends_no_origin_is_told_nothing_and_what_openai_says_passes(house: Any, raw: bytes) -> None:
    got, upstream = ask(house, raw, "*")
    assert upstream.reached == [raw.split()[0].decode()]
    assert spoken_of(got.headers) == {"access-control-allow-origin": "*", "access-control-expose-headers": "X-Request-ID"}


def test_options_of_a_page_that_is_no_preflight_is_a_call(house: Any) -> None:
    got, upstream = ask(house, get(PAGE).replace(b"GET", b"OPTIONS"), PAGE)
    assert (got.status, upstream.reached) == (200, ["OPTIONS"])
    assert got.headers["access-control-allow-origin"] == PAGE
