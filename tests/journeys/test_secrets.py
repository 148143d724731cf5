"""Secrets stay secret: looked for everywhere the gateway writes, and in everything both sides were ever sent."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import openai
import pytest

PROMPT = "the words nobody else may read 7f3a"
ANSWER = "the call was short and the line was clear"  # what the simulator says
CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": PROMPT}]}
UPSTREAM_KEY = "sk-upstream-5e1f0c8a7b3d49d2"
ASIDE = {"OpenAI-Organization": "org-tenant", "OpenAI-Project": "proj_tenant", "api-key": "gk-aside", "X-Client-Request-Id": "clients-own"}


class Upstream:
    """An upstream that keeps every byte it was sent, and passes it on to the simulator."""

    def __init__(self, port: int) -> None:
        self.received, self.port = b"", 0
        self._to = port
        self._carried: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Upstream:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._carried:
            task.cancel()
        await asyncio.gather(*self._carried, return_exceptions=True)
        await self._server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._carried.add(asyncio.create_task(self._carry(reader, writer)))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, onwards = await asyncio.open_connection("127.0.0.1", self._to)
        back = asyncio.create_task(_pump(answers, writer))
        try:
            while data := await reader.read(65_536):
                self.received += data
                onwards.write(data)
            onwards.close()
            await back
        finally:
            back.cancel()
            for each in (writer, onwards):
                each.close()
                with suppress(OSError):
                    await each.wait_closed()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
    writer.close()


def files_of(root: Path) -> dict[str, bytes]:
    """Everything that was written, but for the configuration, which the operator wrote."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file() and "config" not in path.parts}


def traffic(journey: Any) -> list[bytes]:
    """Calls that end in every way; what the client was sent, heads and bodies."""
    asked = [
        ("POST", "/chat/completions", CHAT, {}),
        ("POST", "/chat/completions", CHAT | {"stream": True}, {}),
        ("POST", "/responses", {"model": "gpt-4o", "input": PROMPT}, {}),
        ("POST", "/embeddings", {"model": "text-embedding-3-small", "input": PROMPT}, {}),
        ("POST", "/chat/completions", CHAT | {"model": PROMPT}, {}),
        ("POST", "/chat/completions", b'{"model": "gpt-4o", "messages": "' + PROMPT.encode(), {}),
        ("POST", "/chat/completions", CHAT, {"X-Simulator-Fault": "status=400"}),
        ("POST", "/chat/completions", CHAT, {"X-Simulator-Fault": "close_without_answer"}),
        ("POST", "/chat/completions", CHAT, {"X-Simulator-Fault": "garbage_head"}),
        ("POST", "/chat/completions", CHAT | {"stream": True}, {"X-Simulator-Fault": "cut_after_events=3"}),
        ("POST", "/chat/completions", CHAT, {"X-Simulator-Fault": "malformed_usage=array"}),
        ("POST", f"/{PROMPT.replace(' ', '-')}", {"input": PROMPT}, {}),
        ("GET", "/models", None, {}),
    ]
    answers = [journey.send(method, path, body, ASIDE | headers) for method, path, body, headers in asked]
    return [b"\n".join([*(f"{name}: {value}".encode() for name, value in answer.headers.items()), answer.body]) for answer in answers]


def test_keys_and_bodies_are_nowhere_but_where_they_belong(start_gateway: Any) -> None:
    journey = start_gateway()
    key = journey.place.keys["voice"]
    told = traffic(journey)
    with pytest.raises(openai.AuthenticationError) as refused:
        journey.client(api_key=key[:-4] + "0000").models.list()
    told.append(str(refused.value).encode())
    assert len(journey.entries()) == 11  # all but the unknown model and the broken body
    admin = b"".join(
        journey.place.admin(path).body
        for path in (
            "/metrics",
            "/readyz",
            "/admin/v1/entries",
            "/admin/v1/usage",
            "/admin/v1/teams",
            "/admin/v1/limits",
            "/admin/v1/models",
        )
    )
    journey.place.process.stop()
    written = files_of(journey.place.root)
    assert {"ledger.db", "gateway.log", "gateway.out"} < written.keys()
    assert any(name.startswith("journal/w0/") and ANSWER.encode() not in data and data for name, data in written.items())
    for where, data in {**written, "the admin port": admin}.items():
        for secret in (key, key[3:-8], UPSTREAM_KEY, PROMPT, ANSWER, "gk-aside"):
            assert secret.encode() not in data, f"{secret[:12]}... is in {where}"
    for answer in told:
        assert UPSTREAM_KEY.encode() not in answer
        assert key.encode() not in answer
    assert b"org-simulator" not in b"".join(told)  # the account's organisation
    journey.place.serve()  # so that it can be stopped as all others are


def test_openai_is_never_sent_what_the_tenant_said_of_itself(start_gateway: Any) -> None:
    journey = start_gateway()
    place = journey.place

    async def story() -> bytes:
        async with Upstream(int(place.upstream_url.rsplit(":", 1)[1].partition("/")[0])) as upstream:
            text = (place.config / "gateway.yaml").read_text()
            place.write("gateway.yaml", text.replace(place.upstream_url, f"http://127.0.0.1:{upstream.port}/v1"))
            assert (await asyncio.to_thread(place.reload)).status == 200
            await asyncio.to_thread(traffic, journey)
            place.write("gateway.yaml", text)
            assert (await asyncio.to_thread(place.reload)).status == 200
            return upstream.received

    received = asyncio.run(story())
    assert received.count(b"Bearer " + UPSTREAM_KEY.encode()) == 11
    assert received.count(PROMPT.encode()) >= 9
    for secret in (place.keys["voice"], "gk-voice", "gk-aside", "org-tenant", "proj_tenant", "clients-own"):
        assert secret.encode() not in received, secret
    entries = journey.entries()
    assert {entry["client_request_id"] for entry in entries} == {"clients-own"}
    assert all(json.dumps(entry["exchange_id"])[1:-1].encode() in received for entry in entries)
