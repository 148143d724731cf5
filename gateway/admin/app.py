"""The routes of the admin port."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog
from aiohttp import web
from prometheus_client.exposition import choose_encoder

from gateway.admin import facts
from gateway.admin.guard import refusal
from gateway.admin.questions import DIMENSIONS, BadQuestion, entries_limit, filters_of, group_by, moment, usage_shown
from gateway.admin.view import BooksView, Level
from gateway.control import WorkerAway
from gateway.errors import ApiError, invalid_request
from gateway.ledger import LedgerError

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
ENTRY_FILTERS = ("team", "key", "account", "endpoint", "model", "exchange_id", "session_id", "usage_source", "outcome")
BODY_BYTES_MAX = 64 * 1024  # no route reads a body
VIEW: web.AppKey[BooksView] = web.AppKey("view")

_log = structlog.get_logger("gateway.admin")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(view: BooksView) -> web.Application:
    """The admin port over these books. The token is read from the ruling configuration at each request."""
    app = web.Application(middlewares=[errors_in_shape, guarded], client_max_size=BODY_BYTES_MAX)
    app[VIEW] = view
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/admin/v1/usage", usage)
    app.router.add_get("/admin/v1/entries", entries)
    app.router.add_get("/admin/v1/limits", limits)
    app.router.add_get("/admin/v1/models", models)
    app.router.add_get("/admin/v1/teams", teams)
    app.router.add_post("/admin/v1/reload", reload)
    return app


@web.middleware
async def errors_in_shape(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every failure in OpenAI's shape, so that one reader of errors serves both ports."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        return shown_error(_of_http(request, error), allow=error.headers.get("Allow"))
    except BadQuestion as error:
        return shown_error(invalid_request(str(error), param=error.parameter))
    except LedgerError as error:
        return shown_error(ApiError(503, "server_error", f"The ledger cannot answer now: {error}.", code="ledger_unavailable"))
    except WorkerAway as error:
        return shown_error(ApiError(503, "server_error", f"No worker answers: {error}.", code="worker_away"))
    except Exception:  # a fault of ours: told in the log, and to the caller only that it is one
        _log.exception("admin_failed", method=request.method, path=request.path)
        return shown_error(ApiError(500, "server_error", "The gateway failed to answer this; its log says why."))


@web.middleware
async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Serve those who may ask."""
    if request.path not in OPEN_PATHS and (refused := _refused(request)) is not None:
        response = shown_error(refused)
        if refused.status == 401:
            response.headers["WWW-Authenticate"] = 'Bearer realm="gateway admin"'
        return response
    response = await handler(request)  # type: ignore[assignment]
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


async def healthz(request: web.Request) -> web.Response:
    """200 while the process runs and its loop turns."""
    return web.Response(text="ok\n")


async def readyz(request: web.Request) -> web.Response:
    """One line per check: level, name, state, and for those who may ask everything the detail. 503 when calls are not carried."""
    checks = request.app[VIEW].readiness()
    status = 503 if any(check.level is Level.FAILED for check in checks) else 200
    details = _refused(request) is None
    if request.headers.get("Accept") == "application/json":
        shown = checks if details else tuple(msgspec.structs.replace(check, detail="") for check in checks)
        return as_json({"ready": status == 200, "checks": shown}, status)
    lines = [f"{check.level} {check.name} {check.state}" + (f": {check.detail}" if details and check.detail else "") for check in checks]
    return web.Response(text="\n".join(lines) + "\n", status=status)


async def metrics(request: web.Request) -> web.Response:
    """The registry, in a thread: thousands of lines take a while, and nothing else waits for them."""
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    body = await asyncio.to_thread(encode, request.app[VIEW].registry)
    return web.Response(body=body, headers={"Content-Type": content_type})


async def usage(request: web.Request) -> web.Response:
    """Usage and cost in [since, until), whole hours in UTC, grouped by `by` and filtered by any dimension."""
    query = request.query
    by, since_us, until_us = group_by(query), moment(query, "since"), moment(query, "until")
    filters = filters_of(query, DIMENSIONS, ("by", "since", "until"))
    try:
        rows = await request.app[VIEW].ask(lambda ledger: ledger.usage(by, since_us, until_us, filters))  # type: ignore[arg-type]
    except ValueError as error:
        raise BadQuestion("since", str(error)) from error
    return as_json({"by": by, **usage_shown(rows)})


async def entries(request: web.Request) -> web.Response:
    """The newest effective entries admitted in [since, until), oldest first."""
    query = request.query
    filters = filters_of(query, ENTRY_FILTERS, ("since", "until", "limit"))
    since_us, until_us, limit = moment(query, "since"), moment(query, "until"), entries_limit(query)
    found = await request.app[VIEW].ask(lambda ledger: list(ledger.entries(filters, since_us, until_us, limit=limit)))
    return as_json({"entries": found, "more": len(found) == limit})


async def limits(request: web.Request) -> web.Response:
    """Live buckets, of one team or all."""
    filters_of(request.query, ("team",), ())
    team = request.query.get("team")
    view = request.app[VIEW]
    if team is not None and all(team != known.name for known in view.snapshot.teams):
        raise BadQuestion("team", f"there is no team '{team}'")
    return as_json(await view.limits(team))


async def models(request: web.Request) -> web.Response:
    """Every model card: names, prices, limits."""
    return as_json({"models": facts.models_shown(request.app[VIEW].snapshot)})


async def teams(request: web.Request) -> web.Response:
    """Every team and its keys' ids, never their hashes."""
    return as_json({"teams": facts.teams_shown(request.app[VIEW].snapshot)})


async def reload(request: web.Request) -> web.Response:
    """Read the configuration now: 200 when every connected worker has taken it, 409 with the problems when nothing changed."""
    reloaded = await request.app[VIEW].reload()
    if reloaded.ok:
        return as_json(reloaded)
    message = "The configuration was not taken: " + "; ".join(reloaded.problems)
    return shown_error(ApiError(409, "invalid_request_error", message, code="config_refused"))


def as_json(value: Any, status: int = 200) -> web.Response:
    """A JSON answer. Integers stay whole, however large."""
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


def shown_error(error: ApiError, allow: str | None = None) -> web.Response:
    """An error as OpenAI would send it."""
    response = web.Response(body=error.body(), status=error.status, content_type="application/json")
    if allow is not None:
        response.headers["Allow"] = allow
    return response


def _refused(request: web.Request) -> ApiError | None:
    token = request.app[VIEW].snapshot.settings.admin.token.value
    peer = request.transport.get_extra_info("peername") if request.transport else None
    host = peer[0] if isinstance(peer, tuple) else None
    return refusal(token, request.method, host, request.headers)


def _of_http(request: web.Request, error: web.HTTPException) -> ApiError:
    if error.status == 404:
        return invalid_request(f"Unknown request URL: {request.method} {request.path}.", code="unknown_url", status=404)
    if error.status == 405:
        return invalid_request(f"Not allowed method ({request.method} {request.path}).", code="method_not_supported", status=405)
    return invalid_request(error.reason or "The request cannot be served.", status=error.status)
