"""The plainest proxy aiohttp makes: its server, its client, the body passed on as it comes. No keys, no limits, no usage.

    python bench/tools/aiohttp_proxy.py PORT UPSTREAM_URL [CA_FILE]

On uvloop, which the gateway's environment has anyway. Prints "ready" when it listens.
"""

from __future__ import annotations

import ssl
import sys
from collections.abc import AsyncIterator

import aiohttp
import uvloop
from aiohttp import web

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer", "proxy-authorization", "proxy-authenticate"}
REPLACED = {"host", "authorization", "content-length"}
BODY_BYTES_MAX = 64 * 1024 * 1024

UPSTREAM = web.AppKey("upstream", str)
SESSION = web.AppKey("session", aiohttp.ClientSession)


async def relay(request: web.Request) -> web.StreamResponse:
    """One call, its answer streamed."""
    headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP | REPLACED}
    headers["Authorization"] = "Bearer sk-upstream"
    body = await request.read()
    url = request.app[UPSTREAM] + request.rel_url.raw_path_qs
    async with request.app[SESSION].request(request.method, url, headers=headers, data=body) as answer:
        shown = {name: value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP}
        response = web.StreamResponse(status=answer.status, headers=shown)
        await response.prepare(request)
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
        return response


async def session(app: web.Application) -> AsyncIterator[None]:
    """One client for all calls; as many connections as are wanted, no time-out of its own."""
    context = ssl.create_default_context(cafile=sys.argv[3]) if len(sys.argv) > 3 else True
    connector = aiohttp.TCPConnector(limit=0, ssl=context)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None), auto_decompress=False) as app[SESSION]:
        yield


def main() -> None:
    """Serve until SIGTERM."""
    uvloop.install()
    app = web.Application(client_max_size=BODY_BYTES_MAX)
    app[UPSTREAM] = sys.argv[2]
    app.cleanup_ctx.append(session)
    app.router.add_route("*", "/{path:.*}", relay)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), backlog=2_048, access_log=None, print=lambda _: print("ready", flush=True))


if __name__ == "__main__":
    main()
