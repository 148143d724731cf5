"""CORS: pages of which other origins may call from a browser. What the Fetch standard asks of a server, and no more.

A browser asks first, with an OPTIONS request that carries no key (a preflight), and shows a page an answer only if that names
the page's origin. So a preflight is answered here: it is no call, is not counted, and reaches nobody. Every other answer to an
origin that may call, errors and streams too, is given the headers that let its page read it; what OpenAI says on the matter is
about OpenAI's own host and is taken out. Requests without `Origin` come from no page, and nothing is done for them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Coroutine
from typing import Any

from gateway.relay.call import Call, Client
from gateway.server.answer import Answer, Finished
from gateway.server.connection import ServeCall

MAX_AGE_S = 7_200  # how long a browser may remember a preflight's answer; Chromium's own maximum
ANY = "*"

_ALLOWED_METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE"
_EXPOSED = b"""x-request-id x-gateway-request-id retry-after retry-after-ms x-should-retry location openai-processing-ms openai-version
x-ratelimit-limit-requests x-ratelimit-limit-tokens x-ratelimit-remaining-requests x-ratelimit-remaining-tokens
x-ratelimit-reset-requests x-ratelimit-reset-tokens""".split()
_EXPOSE_LINE = b"\r\naccess-control-expose-headers: " + b", ".join(_EXPOSED)
_VARY = b"\r\nvary: origin"  # whose page asks decides the headers; to one that may not call, no other's answer is to be shown
_FOREIGN = re.compile(rb"\r\naccess-control-[^:]*:[^\r\n]*", re.IGNORECASE)
_HEADER_NAMES = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:[ \t]*,[ \t]*[!#$%&'*+.^_`|~0-9A-Za-z-]+)*")


class Cors:
    """Which origins may call: those listed, as browsers write them, or any."""

    def __init__(self, origins: Collection[str]) -> None:
        """`origins` as "https://app.example.com"; "*" among them: any."""
        self._any = ANY in origins
        self._origins = frozenset(origin.encode() for origin in origins)

    def make_answer(self, call: Call, transport: asyncio.Transport, finished: Finished, *, close: bool) -> Answer:
        """Implements `MakeAnswer`: to a page's request, an answer that the page may read if its origin may call."""
        origin = call.header(b"origin")
        if origin is None:
            return Answer(call, transport, finished, close=close)
        lines = _VARY
        if self._may_call(origin):
            lines += b"\r\naccess-control-allow-origin: " + (b"*" if self._any else origin)
            lines += _preflight_lines(call) if call.is_preflight else _EXPOSE_LINE
        return _ToAPage(call, transport, finished, close=close, lines=lines)

    def serving(self, serve_call: ServeCall) -> ServeCall:
        """The same, but for preflights of origins that may call."""

        def serve(call: Call, client: Client) -> Coroutine[Any, None, None]:
            if call.is_preflight and self._may_call(call.header(b"origin")):
                return _yes(client)
            return serve_call(call, client)

        return serve

    def _may_call(self, origin: bytes | None) -> bool:
        return self._any or origin in self._origins


class _ToAPage(Answer):
    """An answer whose head says which page may read it."""

    __slots__ = ("_lines",)

    def __init__(self, call: Call, transport: asyncio.Transport, finished: Finished, *, close: bool, lines: bytes) -> None:
        super().__init__(call, transport, finished, close=close)
        self._lines = lines

    def begin(self, status: int, header_lines: bytes, content_length: int | None, *, has_body: bool) -> None:
        """The head, with these lines in place of all others that speak of access."""
        super().begin(status, _FOREIGN.sub(b"", header_lines) + self._lines, content_length, has_body=has_body)


async def _yes(client: Client) -> None:
    """What it says is in its head."""
    client.begin(204, b"", None, has_body=False)
    client.finish()


def _preflight_lines(call: Call) -> bytes:
    """Whatever headers the page wants to send: SDKs add their own, and what goes to OpenAI is decided elsewhere."""
    lines = b"\r\naccess-control-allow-methods: " + _ALLOWED_METHODS + b"\r\naccess-control-max-age: %d" % MAX_AGE_S
    wanted = call.header(b"access-control-request-headers") or b""
    return lines + b"\r\naccess-control-allow-headers: " + wanted if _HEADER_NAMES.fullmatch(wanted) else lines
