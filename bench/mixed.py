"""Everything that clients do to a gateway: what `soak.py` mixes."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from random import Random
from typing import Any

import aiohttp

ACTS = {"call": 40, "stream": 25, "leave": 8, "fault": 8, "refused": 6, "pipelined": 4, "background": 3, "upload": 2, "idle": 2, "slow": 2}
"""How often each is done, of the sum."""
FAULTS = (
    "status=429", "status=500", "status=503", "close_without_answer", "garbage_head", "cut_after_bytes=200", "bad_chunk",
    "cut_after_events=3", "error_mid_stream", "malformed_usage", "no_usage", "stall_mid_stream=200", "hang_before_head",
)  # fmt: skip
WORDS = ("parcel", "card", "camera", "invoice", "ticket", "Lyon", "single", "sign-on", "plan", "refund", "blue", "May", "customer")


class Clients:
    """Everything that clients do to a gateway, one act at a time."""

    def __init__(self, base_url: str, keys: Mapping[str, str], session: aiohttp.ClientSession, chance: Random) -> None:
        self.seen: Counter[str] = Counter()
        self.whole: set[str] = set()  # exchanges of metered answers that clients had to their last byte
        self._base_url, self._keys, self._session, self._chance = base_url, keys, session, chance
        self._host, _, port = base_url.removeprefix("http://").removesuffix("/v1").partition(":")
        self._port = int(port)

    async def act(self, name: str) -> None:
        """One act of this kind. What the gateway or the simulator's faults do to it is counted, not raised."""
        try:
            async with asyncio.timeout(60):
                await getattr(self, f"_{name}")()
        except (aiohttp.ClientError, ConnectionError, asyncio.IncompleteReadError, TimeoutError) as error:
            self.seen[f"{name}: {type(error).__name__}"] += 1

    def _asked(self, *, stream: bool = False) -> tuple[str, dict[str, Any]]:
        chance, text = self._chance, " ".join(self._chance.choices(WORDS, k=self._chance.randint(3, 60)))
        kind = chance.choice(("chat", "chat", "responses", "embeddings") if not stream else ("chat", "chat", "responses"))
        if kind == "embeddings":
            return "/embeddings", {"model": "text-embedding-3-small", "input": text}
        body: dict[str, Any] = {"model": chance.choice(("gpt-4o", "gpt-4o-mini", "o3"))} | ({"stream": True} if stream else {})
        if kind == "responses":
            return "/responses", body | {"input": text}
        usage = {"stream_options": {"include_usage": True}} if stream and chance.random() < 0.5 else {}
        return "/chat/completions", body | usage | {"messages": [{"role": "user", "content": text}]}

    async def _post(self, path: str, body: Any, team: str = "voice", name: str = "call", fault: str = "") -> Any:
        headers = {"Authorization": f"Bearer {self._keys[team]}"} | ({"X-Simulator-Fault": fault} if fault else {})
        async with self._session.post(self._base_url + path, json=body, headers=headers) as answer:
            raw = await answer.read()
            self.seen[f"{name}: {answer.status}"] += 1
            if answer.status == 200 and not fault and name != "background":
                self.whole.add(answer.headers["x-gateway-request-id"])
            return json.loads(raw) if answer.content_type == "application/json" else raw

    async def _call(self) -> None:
        await self._post(*self._asked(), team=self._chance.choice(("voice", "search", "narrow")))

    async def _stream(self) -> None:
        await self._post(*self._asked(stream=True), team=self._chance.choice(("voice", "search")), name="stream")

    async def _fault(self) -> None:
        fault, stream = self._chance.choice(FAULTS), self._chance.random() < 0.5
        await self._post(*self._asked(stream=stream), team="hasty", name=f"fault {fault}", fault=fault)

    async def _leave(self) -> None:
        path, body = self._asked(stream=True)
        headers = {"Authorization": f"Bearer {self._keys[self._chance.choice(('voice', 'search'))]}"}
        async with self._session.post(self._base_url + path, json=body, headers=headers) as answer:
            for _ in range(self._chance.randint(0, 20)):
                await answer.content.readline()
            answer.close()
            self.seen["leave: left"] += 1

    async def _refused(self) -> None:
        path, body = self._asked()
        wrong = self._chance.choice(({"model": "gpt-none"}, {"model": 7}, {"stream": "yes"}))
        await self._post(path, body | wrong if self._chance.random() < 0.7 else [body], name="refused")

    async def _upload(self) -> None:
        if self._chance.random() < 0.5:
            image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "iVBO" * self._chance.randint(100, 700_000)}}
            await self._post("/chat/completions", {"model": "gpt-4o", "messages": [{"role": "user", "content": [image]}]}, name="upload")
            return
        form = aiohttp.FormData({"model": "whisper-1"})
        form.add_field("file", b"RIFF" * self._chance.randint(100, 700_000), filename="talk.wav")
        headers = {"Authorization": f"Bearer {self._keys['uploads']}"}
        async with self._session.post(self._base_url + "/audio/transcriptions", data=form, headers=headers) as answer:
            await answer.read()
            self.seen[f"upload: {answer.status}"] += 1

    async def _background(self) -> None:
        body = {"model": "o3", "input": " ".join(self._chance.choices(WORDS, k=9)), "background": True}
        made = await self._post("/responses", body, name="background")
        headers = {"Authorization": f"Bearer {self._keys['voice']}"}
        if "id" not in made or self._chance.random() < 0.2:
            return  # never fetched: it stays unknown
        for _ in range(3):
            async with self._session.get(f"{self._base_url}/responses/{made['id']}", headers=headers) as answer:
                await answer.read()
                self.seen[f"poll: {answer.status}"] += 1

    async def _pipelined(self) -> None:
        reader, writer = await asyncio.open_connection(self._host, self._port)
        count = self._chance.randint(2, 6)
        writer.write(b"".join(self._raw("/embeddings", {"model": "text-embedding-3-small", "input": WORDS[:3]}) for _ in range(count)))
        for _ in range(count):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            status, length = head.split()[1], re.search(r"content-length: (\d+)", head, re.IGNORECASE)
            await reader.readexactly(int(length[1]) if length else 0)
            self.seen[f"pipelined: {status}"] += 1
        writer.close()

    async def _idle(self) -> None:
        """A connection that says nothing, or half a head: the gateway ends it."""
        reader, writer = await asyncio.open_connection(self._host, self._port)
        if self._chance.random() < 0.5:
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: soak\r\n")
        await reader.read()
        self.seen["idle: closed"] += 1
        writer.close()

    async def _slow(self) -> None:
        """8 MiB of embeddings that are not read, or a byte now and then: the gateway ends it by its write time-out."""
        client, loop = socket.socket(), asyncio.get_running_loop()
        with client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            await loop.sock_connect(client, (self._host, self._port))
            many = {"model": "text-embedding-3-small", "input": ["a"] * 500, "dimensions": 3072, "encoding_format": "base64"}
            await loop.sock_sendall(client, self._raw("/embeddings", many))
            reads = self._chance.random() < 0.5
            with suppress(ConnectionError):
                for _ in range(10):
                    await asyncio.sleep(0.5)
                    if reads and not await loop.sock_recv(client, 1):
                        break
                while await loop.sock_recv(client, 4096):
                    pass
            self.seen["slow: ended"] += 1

    def _raw(self, path: str, body: Any) -> bytes:
        data = json.dumps(body).encode()
        key = self._keys["voice"]
        head = f"POST /v1{path} HTTP/1.1\r\nHost: soak\r\nAuthorization: Bearer {key}\r\nContent-Length: {len(data)}\r\n\r\n"
        return head.encode() + data
