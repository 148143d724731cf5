"""What may grow in an input, by target: before, MARK, what is repeated, MARK, after. Each was once quadratic in somebody's reader."""

from __future__ import annotations

from .target import MARK

_POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n"
_OK = b"HTTP/1.1 200 OK\r\n"
_CHUNK = b'data: {"id":"a","choices":[{"delta":{"content":"a"},"finish_reason":null}],"usage":null}\n\n'
_DELTA = b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"a"}\n\n'
_CHAT = b'{"model":"gpt-4o","stream":true,"messages":'

_PARTS: dict[str, tuple[tuple[bytes, bytes, bytes], ...]] = {
    "request": (
        (b"", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b""),
        (b"GET / HTTP/1.1\r\nHost: a\r\n", b"a: b\r\n", b"\r\n"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"a", b"\r\n\r\n"),
        (b"GET /", b"a", b" HTTP/1.1\r\nHost: a\r\n\r\n"),
        (_POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n", b"0\r\n\r\n"),
        (_POST + b"Transfer-Encoding: chunked\r\n\r\n1", b";a=b", b"\r\na\r\n0\r\n\r\n"),
        (_POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n", b"\r\n"),
        (_POST + b"Content-Length: 9999999\r\n\r\n", b"a", b""),
        (b"", b"\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    ),
    "credentials": ((b"a=b", b"&api-key=a", b""), (b"", b"&", b""), (b"api%", b"2dkey=api%", b""), (b"Bearer", b" ", b"a")),
    "body": (
        (_CHAT, b"[", b""),
        (_CHAT + b"[", b'{"role":"user","content":"a"},', b"0]}"),
        (_CHAT + b'[{"content":[', b'{"type":"image_url","image_url":{"url":"a"}},', b"0]}]}"),
        (_CHAT + b"[]", b',"a":1', b"}"),
        (_CHAT + b"[]", b',"\\u0061":1', b"}"),
        (_CHAT + b'[],"stream_options":{"a":0', b',"a":1', b"}}"),
        (_CHAT + b'"', b"a", b'"}'),
        (_CHAT + b'"', b"\\u0061", b'"}'),
        (_CHAT + b'"', b"\xc3\xa9", b'"}'),
        (b'{"model":"a","prompt":[', b'"a",', b'"a"]}'),
        (b'{"model":"a","prompt":[', b"[1],", b"[1]]}"),
        (b'{"model":"a","n":', b"9", b"}"),
        (b"{", b" ", b'"usage":1}'),
        (b'{"a":1', b',"usage":1', b"}"),
    ),
    "answer": (
        (_OK, b"a: b\r\n", b"\r\n"),
        (_OK + b"Connection: a", b",a", b"\r\n\r\n"),
        (_OK + b"transfer-encoding: chunked\r\n\r\n", b"1\r\na\r\n", b"0\r\n\r\n"),
        (_OK + b"transfer-encoding: chunked\r\n\r\n1", b";a=b", b"\r\na\r\n0\r\n\r\n"),
        (_OK + b'transfer-encoding: chunked\r\n\r\n1;a="', b"\\a", b'"\r\na\r\n0\r\n\r\n'),
        (_OK + b"transfer-encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n", b"\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", _OK + b"\r\n"),
        (_OK + b"\r\n", b"a", b""),
        (_OK + b"x-ratelimit-", b"a", b": b\r\n\r\n"),
    ),
    "chat-stream": (
        (b"", _CHUNK, b"data: [DONE]\n\n"),
        (b"", _CHUNK.replace(b"\n", b"\r\n"), b"data: [DONE]\r\n\r\n"),
        (_CHUNK, _CHUNK + b": ping\n\n", b"data: [DONE]\n\n"),
        (_CHUNK, _CHUNK.replace(b"null}]", b'"stop"}]') + _CHUNK, b""),
        (_CHUNK, _CHUNK.replace(b'"usage":null', b'"usage":{"prompt_tokens":1}') + _CHUNK, b""),
        (_CHUNK, b"data: a\n", b"\n"),
        (_CHUNK + b"data: ", b"a", b""),
        (_CHUNK, b"\n", b""),
        (_CHUNK, b"\n\r", b""),
        (_CHUNK, b"\r\n", b""),
        (_CHUNK + b"data: [DONE]\n\n", b"a", b""),
        (b'data: {"choices":[],"usage":', b"[", b""),
    ),
    "responses-stream": (
        (b"", _DELTA, b""),
        (b"", _DELTA.replace(b"\n", b"\r\n"), b""),
        (_DELTA, _DELTA + b"event: response.output_item.added\ndata: {}\n\n", b""),
        (_DELTA + b'event: response.completed\ndata: {"type":"response.completed","response":{"output":[', b'{"type":"a"},', b"0]}}\n\n"),
        (_DELTA, b"data: a\n", b"\n"),
        (_DELTA, b"\n", b""),
        (_DELTA + b"event: r", b"e", b""),
    ),
    "whole-answer": (
        (b'{"usage":{"input_tokens":1,"output_tokens":1},"output":[', b'{"type":"web_search_call"},', b'{"type":"x_call"}]}'),
        (b'{"usage":{"input_tokens":1,"output_tokens":1},"output":"_call', b"a", b'"}'),
        (b'{"error":{"code":"', b"a", b'"}}'),
        (b'{"usage":', b'{"a":', b"1}}"),
        (b"{", b'"usage":null,', b'"a":1}'),
    ),
    "usage": (
        (b'{"prompt_tokens":', b"1", b"}"),
        (b'{"prompt_tokens":1.', b"0", b',"completion_tokens":1}'),
        (b'{"type":"duration","seconds":1.', b"0", b"}"),
        (b'{"prompt_tokens":1.0', b',"a":1.0', b"}"),
        (b'{"prompt_tokens":1.0,"a":', b"[", b"}"),
    ),
    "configuration": (
        (b"a: ", b"[", b""),
        (b"", b"a:\n ", b"a: 1\n"),
        (b"team: ", b"a", b"\n"),
        (b"team: ", b"1", b"\n"),
        (b"models: [", b"a, ", b"a]\n"),
        (b"models:\n", b"- a\n", b""),
        (b"a: &a [a]\nb: [", b"*a, ", b"]\n"),
        (b"team: ", b"${A:-", b"\n"),
        (b"", b"a: 1\n", b""),
        (b"a: |\n", b"  b\n", b""),
        (b"a: '", b"''", b"'\n"),
        (b"", b"# a\n", b"team: a\n"),
        (b"", b"\t", b""),
        (b"", b"? ", b""),
        (b"", b"- ", b""),
    ),
    "segments": ((b"", b"\0", b""), (b"", b"\0\0\0\0\0\0\0\0\1", b""), (b"", b"a", b"")),
}

GROWING = {name: tuple(MARK.join(parts) for parts in each) for name, each in _PARTS.items()}
