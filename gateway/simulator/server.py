"""The simulator as a server: its routes, who may call, and starting and stopping it."""

from __future__ import annotations

import asyncio
import signal
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import msgspec
import uvloop
from aiohttp import web

from gateway.simulator import completions, plain, responses
from gateway.simulator.account import AccountWriter, Line, read_account
from gateway.simulator.call import Answer, Call
from gateway.simulator.chat import chat
from gateway.simulator.delivery import deliver
from gateway.simulator.desk import Desk, Pace
from gateway.simulator.faults import Order, ordered_status, parse
from gateway.simulator.refusal import Refusal, invalid

BODY_BYTES_MAX = 64 * 1024 * 1024
BACKLOG = 1024
SHUTDOWN_S = 1.0  # for answers in flight; then they are cut, and their lines written
ORGANIZATION_HEADERS = {
    "openai-organization": "org-simulator",
    "openai-version": "2020-10-01",
    "x-ratelimit-limit-requests": "10000",
    "x-ratelimit-remaining-requests": "9999",
    "x-ratelimit-reset-requests": "8.64s",
    "x-ratelimit-limit-tokens": "30000000",
    "x-ratelimit-remaining-tokens": "29999000",
    "x-ratelimit-reset-tokens": "2ms",
}
"""What the account of the organization has left: a gateway must put its teams' own numbers in their place."""


@dataclass(frozen=True, slots=True)
class Route:
    """An endpoint: where it is, and what answers. What answers is plain code without I/O, and raises Refusal."""

    method: str
    path: str  # without /v1
    answer: Callable[[Call, Desk], Answer]


ROUTES = (
    Route("POST", "/chat/completions", chat),
    Route("POST", "/completions", completions.completions),
    Route("POST", "/responses", responses.create),
    Route("POST", "/responses/input_tokens", responses.input_tokens),
    Route("POST", "/responses/compact", responses.compact),
    Route("GET", "/responses/{id}", responses.retrieve),
    Route("DELETE", "/responses/{id}", responses.delete),
    Route("POST", "/responses/{id}/cancel", responses.cancel),
    Route("GET", "/responses/{id}/input_items", responses.input_items),
    Route("POST", "/embeddings", plain.embeddings),
    Route("POST", "/moderations", plain.moderations),
    Route("POST", "/images/generations", plain.images),
    Route("POST", "/audio/transcriptions", plain.transcriptions),
    Route("GET", "/models", plain.list_models),
    Route("GET", "/models/{id}", plain.one_model),
    Route("GET", "/files", plain.empty_list),
    Route("GET", "/batches", plain.empty_list),
    Route("GET", "/vector_stores", plain.empty_list),
)


class Simulator:
    """An OpenAI stand-in on a socket. `async with Simulator(journal=path) as simulator: simulator.base_url`.

    The same seed draws the same usage for the same request. Any key is accepted that is not empty, or only `api_key`.
    """

    def __init__(
        self, host: str = "127.0.0.1", port: int = 0, *, journal: Path | str, seed: int = 0, pace: Pace | None = None,
        tls: ssl.SSLContext | None = None, api_key: str | None = None,
    ) -> None:  # fmt: skip
        self.journal = Path(journal)
        self._host, self._port, self._tls, self._api_key = host, port, tls, api_key
        self._seed, self._pace = seed, pace or Pace()
        self._stack = AsyncExitStack()
        self._desk: Desk | None = None

    @property
    def base_url(self) -> str:
        """What a client takes as base URL: "http://127.0.0.1:PORT/v1". The port is known once it has started."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'https' if self._tls else 'http'}://{host}:{self._port}/v1"

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._port

    def account(self) -> list[Line]:
        """What has been served so far."""
        return read_account(self.journal)

    def queue(self, *faults: str, path: str | None = None, times: int = 1) -> None:
        """Queue faults, as POST /simulator/faults does: `simulator.queue("status=429", path="/v1/responses")`."""
        assert self._desk is not None, "the simulator has not been started"
        self._desk.faults.add(Order(list(faults), path, times))

    async def __aenter__(self) -> Simulator:
        account = AccountWriter(self.journal)
        self._stack.callback(account.close)
        self._desk = Desk(account, self._seed, self._pace)
        front = _Front(self._desk, self._api_key)
        # Cancelling a handler when its client leaves is how OpenAI's own behaviour (generation stops) is had.
        runner = web.AppRunner(front.app(), handler_cancellation=True, access_log=None, shutdown_timeout=SHUTDOWN_S)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, self._host, self._port, ssl_context=self._tls, backlog=BACKLOG).start()
        self._port = int(runner.addresses[0][1])
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()


class _Front:
    """What stands before the endpoints: keys, bodies, faults, the shape of errors."""

    def __init__(self, desk: Desk, api_key: str | None) -> None:
        self._desk, self._api_key = desk, api_key

    def app(self) -> web.Application:
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.router.add_post("/simulator/faults", self._queue_faults)
        app.router.add_get("/simulator/faults", self._list_faults)
        app.router.add_delete("/simulator/faults", self._clear_faults)
        for route in ROUTES:
            for prefix in ("/v1", ""):
                app.router.add_route(route.method, prefix + route.path, self._handler(route.answer))
        app.router.add_route("*", "/{path:.*}", self._handler(_nowhere))
        return app

    def _handler(self, answer: Callable[[Call, Desk], Answer]) -> Callable[[web.Request], Any]:
        async def handle(request: web.Request) -> web.StreamResponse:
            started_ns = time.time_ns()
            call = Call(
                method=request.method,
                path=request.path if request.path.startswith("/v1/") else "/v1" + request.path,
                body={},
                request_id=self._desk.new_id("req_"),
                client_request_id=request.headers.get("X-Client-Request-Id"),
                started_at_us=started_ns // 1000,
                params=request.match_info,
                query=request.query,
            )
            headers = {"x-request-id": call.request_id, "openai-processing-ms": "0", **ORGANIZATION_HEADERS}
            try:
                self._authorize(request)
                call = await self._read(request, call)
                if call.faults.status is not None:
                    asked = call.body.get("model")
                    raise ordered_status(call.faults, call.faults.status, asked if isinstance(asked, str) else None)
                made = answer(call, self._desk)
            except Refusal as refusal:
                self._desk.write_refused(call, refusal.status)
                headers |= {"Content-Type": "application/json", **refusal.headers}
                return web.Response(status=refusal.status, body=refusal.body(), headers=headers)
            headers["openai-processing-ms"] = str((time.time_ns() - started_ns) // 1_000_000)
            return await deliver(request, call, self._desk, made, headers)

        return handle

    def _authorize(self, request: web.Request) -> None:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            message = "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth."
            raise Refusal(401, "invalid_request_error", message)
        if self._api_key is not None and key.strip() != self._api_key:
            shown = f"{key[:3]}***{key[-3:]}" if len(key) > 12 else "***"
            message = f"Incorrect API key provided: {shown}. You can find your API key at https://platform.openai.com/account/api-keys."
            raise Refusal(401, "invalid_request_error", message, "invalid_api_key")

    async def _read(self, request: web.Request, call: Call) -> Call:
        """The call with its body and faults."""
        body, file = await _body_of(request)
        wanted = request.headers.get("X-Simulator-Fault")
        faults = parse(wanted) if wanted is not None else self._desk.faults.take(call.path)
        return replace(call, body=body, file=file, faults=faults, dictated_usage=request.headers.get("X-Simulator-Usage"))

    async def _queue_faults(self, request: web.Request) -> web.Response:
        try:
            try:
                order = msgspec.json.decode(await request.read(), type=Order)
            except msgspec.DecodeError as wrong:
                raise invalid(f"Expected {{'path', 'faults', 'times'}}: {wrong}") from None
            self._desk.faults.add(order)
        except Refusal as refusal:
            return web.Response(status=refusal.status, body=refusal.body(), content_type="application/json")
        return await self._list_faults(request)

    async def _list_faults(self, request: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode({"queued": self._desk.faults.waiting()}), content_type="application/json")

    async def _clear_faults(self, request: web.Request) -> web.Response:
        self._desk.faults.clear()
        return await self._list_faults(request)


def _nowhere(call: Call, desk: Desk) -> Answer:
    raise Refusal(404, "invalid_request_error", f"Invalid URL ({call.method} {call.path})")


async def _body_of(request: web.Request) -> tuple[dict[str, Any], bytes]:
    """The JSON object or the form of a request, and the file in the form."""
    if request.method not in ("POST", "PUT", "PATCH") or not request.can_read_body:
        return {}, b""
    if request.content_type.startswith("multipart/"):
        fields: dict[str, Any] = {}
        file = b""
        for name, value in (await request.post()).items():
            if isinstance(value, web.FileField):
                file = value.file.read()
            else:
                fields[name] = value
        return fields, file
    try:
        body = msgspec.json.decode(await request.read())
    except msgspec.DecodeError as wrong:
        raise invalid(f"The body of the request is not JSON: {wrong}") from None
    if not isinstance(body, dict):
        raise invalid("The body of the request must be a JSON object.")
    return body, b""


@contextmanager
def in_thread(**options: Any) -> Iterator[Simulator]:
    """A running simulator for code that is not asynchronous; takes what Simulator takes."""
    simulator, ready, stop = Simulator(**options), Event(), asyncio.Event()
    loop = uvloop.new_event_loop()
    failures: list[BaseException] = []

    async def serve() -> None:
        async with simulator:
            ready.set()
            await stop.wait()

    def work() -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(serve())
        except BaseException as failure:  # told to the thread that asked
            failures.append(failure)
        finally:
            ready.set()

    thread = Thread(target=work, name="simulator")
    thread.start()
    ready.wait()
    if failures:
        thread.join()
        raise failures[0]
    try:
        yield simulator
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
    if failures:
        raise failures[0]


def run(
    listen: str, journal: Path | str, *, seed: int = 0, api_key: str | None = None, tokens_per_second: int = 0,
    first_token_ms: int = 0, tls: ssl.SSLContext | None = None, announce: Callable[[str], None] = print,
) -> None:  # fmt: skip
    """Serve until SIGTERM or SIGINT. `listen` is HOST:PORT, [::1]:PORT for IPv6; port 0 takes a free one.

    ValueError: `listen` is not HOST:PORT. OSError: the address or the journal cannot be had.
    """
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"{listen!r} is not HOST:PORT")
    simulator = Simulator(
        host.strip("[]"), int(port), journal=journal, seed=seed, pace=Pace(tokens_per_second, first_token_ms), tls=tls, api_key=api_key
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(simulator, announce))


async def _serve(simulator: Simulator, announce: Callable[[str], None]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with simulator:
        announce(f"simulator: listening on {simulator.base_url}")
        await stop.wait()
