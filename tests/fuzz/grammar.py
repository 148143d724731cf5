"""Mutations that keep what they change readable: bytes flipped at random seldom leave JSON that a reader looks into."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from .target import CONTROL_BYTES

STEPS_MAX = 4  # changes of one input at a time


@dataclass(frozen=True)
class Grammar:
    """What an input is made of, and odd things that may stand in the place of each part."""

    parts: re.Pattern[bytes]
    odd: tuple[bytes, ...]

    def mutate(self, data: bytes, draw: random.Random) -> bytes:
        """The same input with a few parts taken out, doubled, moved, or replaced by odd ones. The control bytes change seldom."""
        if draw.random() < 0.1:
            return bytes([draw.randrange(256), draw.randrange(256)]) + data[CONTROL_BYTES:]
        for _ in range(draw.randint(1, STEPS_MAX)):
            spans = [found.span() for found in self.parts.finditer(data, CONTROL_BYTES)]
            if not spans:
                return data + draw.choice(self.odd)
            (start, end), (other_start, other_end) = draw.choice(spans), draw.choice(spans)
            part = draw.choice((b"", draw.choice(self.odd), draw.choice(self.odd), data[other_start:other_end], data[start:end] * 2))
            data = data[:start] + part + data[end:]
        return data


_JSON_PARTS = (
    rb'"(?:[^"\\\n]|\\.)*"(?:\s*:)?|-?[0-9][0-9.eE+-]*|true|false|null|[\[\]{},]|\{[^{}\[\]]*\},?|"[a-z_]+":(?:\{[^{}]*\}|\[[^\[\]]*\]),?'
)
_JSON_ODD = (
    b"null", b"0", b"-1", b"-0", b"1", b"2", b"12.0", b"0.5", b"1e2", b"1e400", b"1e99999999999999999999", b"9007199254740992",
    b"9007199254740993", b"9223372036854775808", b"123456789012345678901234567890", b"01", b'""', b'"a"', b'"\\u0061"', b'"\\ud800"',
    b'"\xff"', b'"gpt-4o"', b'"gpt-4o-search-preview"', b"[]", b"{}", b"[{}]", b"true", b"false", b"NaN", b" ", b",", b"[" * 500,
)  # fmt: skip
_MEMBERS = (
    b'"model":', b'"usage":', b'"stream":', b'"stream_options":', b'"include_usage":', b'"n":', b'"max_tokens":', b'"input":',
    b'"messages":',    b'"prompt":', b'"id":', b'"error":', b'"choices":[{', b'"finish_reason":', b'"delta":',
    b'"cached_tokens":', b'"text_tokens":',
    b'"audio_tokens":', b'"total_tokens":', b'"output":', b'"tools":', b'"tool_usage":', b'"type":', b'"status":', b'"response":',
    b'"us\\u0061ge":',
)  # fmt: skip

JSON = Grammar(re.compile(_JSON_PARTS, re.DOTALL), _JSON_ODD + _MEMBERS)
EVENTS = Grammar(
    re.compile(rb"(?:data|event): ?|\r?\n\r?\n|\r?\n|" + _JSON_PARTS, re.DOTALL),
    _JSON_ODD
    + _MEMBERS
    + (b"\n\n", b"\n", b"\r\n\r\n", b"\n\r\n", b"\r", b"data: ", b"data:", b"data: [DONE]\n\n", b"event: error\n", b": ping\n\n"),
)
HTTP = Grammar(
    re.compile(rb"[^\r\n]*\r\n|[A-Za-z-]+:|[0-9]+|[ \t:;,/]|[^\r\n:;,/ ]+"),
    (
        b"\r\n", b"\n", b"\r", b"\r\n\r\n", b" ", b"\t", b"\0", b"0", b"00", b"+1", b"-1", b"0x5", b"1e1", b"fffffffffffffffff", b"chunked",
        b"chunked, chunked", b"identity", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding : chunked\r\n", b"Content-Length: 0\r\n",
        b"Content-Length: 5\r\n", b"content-length:\r\n", b"Content-Length: 5, 5\r\n", b"Connection: close\r\n", b"Connection: Upgrade\r\n",
        b"Connection: keep-alive, Content-Length\r\n", b"Upgrade: h2c\r\n", b"Expect: 100-continue\r\n", b"Host: a\r\n", b" folded\r\n",
        b"0\r\n\r\n", b"5\r\nhello\r\n", b";a=b", b';a="', b"HTTP/1.0", b"HTTP/1.1", b"HTTP/0.9", b"HTTP/2.0",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"Origin: https://a\r\n", b"Access-Control-Request-Method: PUT\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 204 No Content\r\n", b"http://a", b"%2f", b"\xff",
    ),
)  # fmt: skip
YAML = Grammar(
    re.compile(rb"[^\n]*\n|[\w.${}:-]+|[\[\]{},:\"' -]"),
    (
        b"null", b"~", b"0", b"-1", b"1.5", b".inf", b".nan", b"1e400", b"true", b"yes", b"2026-01-01", b"9" * 30, b"'a'",
        b'"a"', b"''", b"[]", b"{}",
        b"[a, a]", b"{a: b}", b"&a ", b"*a", b"<<: ", b"!!int ", b"!!binary ", b"!!python/none ", b"- ", b"? ", b"|\n  a\n",
        b"---\n", b"...\n",
        b"${OPENAI_API_KEY}", b"${ODD}", b"${", b"$${", b"${A:-b}", b"file:/dev/null", b"file:", b"unix:/a", b"[::1]:1", b"\xff", b"\0",
        b"\x85", b"\xef\xbb\xbf",
        b'"0.0000000000000000001"', b'"1e5"', b"9007199254740993", b"gpt-4o", b"tier-1", b"auto",
    ),
)  # fmt: skip
