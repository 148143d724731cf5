"""The admin port as a client meets it. What needs whole books is in tests/books."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from gateway.admin import Check, Level, LimitsShown, Reloaded, make_app
from gateway.catalogue import Card, Catalogue, PriceTable
from gateway.config.snapshot import Account, AdminSettings, Listen, ProxySettings, Secret, Settings, Snapshot
from gateway.control import LimitReading, WorkerAway
from gateway.journal.format import Position
from gateway.journal.records import Entry
from gateway.ledger import Questions
from gateway.ledger.questions import SqliteQuestions
from gateway.ledger.sqlite import SqliteLedger
from gateway.teams import Key, Team
from gateway.units import Meter

TOKEN = "admin-token"
HASH = "a" * 64
NOON_US = 1_777_636_800_000_000  # 2026-05-01T12:00:00Z
Answer = TypeVar("Answer")


def entry(number: int, **changes: Any) -> Entry:
    values: dict[str, Any] = {
        "exchange_id": f"gx-{number}", "session_id": None, "team": "voice", "key": "dev", "account": "openai", "endpoint": "responses",
        "model_asked": "gpt-4o", "model_served": None, "service_tier": None, "usage": {Meter.OUTPUT_TEXT: 2**36}, "details": {},
        "usage_source": "reported", "cost_picousd": 2**62, "price_version": None, "status": 200, "error_code": None,
        "upstream_request_id": None, "client_request_id": None, "admitted_at_us": NOON_US + number, "ended_at_us": NOON_US + number,
        "timings_us": {}, "retry_count": None, "outcome": "ok", "ask_tokens": None,
    }  # fmt: skip
    return Entry(**(values | changes))


class View:
    """At the port: books with a real ledger, and everything else as the test sets it."""

    def __init__(self, folder: Path, token: str) -> None:
        listen = Listen("127.0.0.1", 0)
        settings = Settings(
            ProxySettings((listen,)), AdminSettings(listen, Secret(token)), (Account("openai", "http://h", Secret("sk-up")),)
        )
        price = PriceTable("gpt-4o@2024-10-02", 0, "here", {Meter.INPUT_TEXT: 2_500_000 * 60_000, Meter.DURATION_IN_MS: 20_000})
        team = Team("voice", "auto", keys=(Key("dev", HASH),))
        self.snapshot = Snapshot(settings, Catalogue((Card("gpt-4o", prices=(price,)),)), (), "tier-1", (team,), "abc", 1)
        self.registry = CollectorRegistry()
        Gauge("gateway_answer_ratio", "A gauge", registry=self.registry).set(42)
        self.checks = (Check("workers", Level.OK), Check("ledger", Level.DEGRADED, "unavailable", "/var/ledger.db is locked"))
        self.reloaded = Reloaded(True, "abc")
        self.broken = False
        self.limits_shown: LimitsShown | None = None
        self._questions: Questions = SqliteQuestions(folder / "ledger.db")
        ledger = SqliteLedger(folder / "ledger.db")
        ledger.fold("w0", Position(1, 1, 1, 3), [entry(1), entry(2), entry(3, team="search", cost_picousd=None)])
        ledger.close()

    def readiness(self) -> tuple[Check, ...]:
        return self.checks

    async def ask(self, question: Callable[[Questions], Answer]) -> Answer:
        if self.broken:
            raise RuntimeError("a fault with sk-up in it")
        return question(self._questions)

    async def limits(self, team: str | None) -> LimitsShown:
        if self.limits_shown is None:
            raise WorkerAway("none is connected")
        return self.limits_shown

    async def reload(self) -> Reloaded:
        return self.reloaded


@pytest.fixture
def serve(tmp_path: Path) -> Callable[..., None]:
    """Run a story against the port: `serve(story)`, or with a token that the client then sends."""

    def start(story: Callable[[TestClient[Any, Any], View], Awaitable[None]], token: str = "", send: bool = True) -> None:
        async def run() -> None:
            view = View(tmp_path, token)
            headers = {"Authorization": f"Bearer {token}"} if token and send else {}
            async with TestClient(TestServer(make_app(view)), headers=headers) as client:
                await story(client, view)

        asyncio.run(run())

    return start


def assert_error(body: dict[str, Any], code: str | None) -> str:
    """OpenAI's shape. The message, for what the test wants to know of it."""
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert body["error"]["code"] == code
    return str(body["error"]["message"])


def test_health_and_readiness_need_no_token_and_then_tell_no_details(serve: Any) -> None:
    async def story(client: Any, view: View) -> None:
        assert (await client.get("/healthz")).status == 200
        answer = await client.get("/readyz")
        assert (answer.status, await answer.text()) == (200, "ok workers ok\ndegraded ledger unavailable\n")
        view.checks = (Check("workers", Level.FAILED, "none_serving"),)
        answer = await client.get("/readyz", headers={"Accept": "application/json"})
        assert answer.status == 503
        failed = {"name": "workers", "level": "failed", "state": "none_serving", "detail": ""}
        assert await answer.json() == {"ready": False, "checks": [failed]}

    serve(story, TOKEN, send=False)


def test_readiness_tells_details_to_those_who_may_ask_everything(serve: Any) -> None:
    async def story(client: Any, view: View) -> None:
        assert "degraded ledger unavailable: /var/ledger.db is locked\n" in await (await client.get("/readyz")).text()

    serve(story, TOKEN)


@pytest.mark.parametrize("path", ["/metrics", "/admin/v1/usage", "/admin/v1/teams", "/nowhere"])
def test_everything_else_needs_the_token(serve: Any, path: str) -> None:
    async def story(client: Any, view: View) -> None:
        answer = await client.get(path)
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert_error(await answer.json(), "invalid_admin_token")

    serve(story, TOKEN, send=False)


def test_without_a_token_this_machine_is_served_and_a_rebound_name_is_not(serve: Any) -> None:
    async def story(client: Any, view: View) -> None:
        assert (await client.get("/admin/v1/teams")).status == 200
        answer = await client.get("/admin/v1/teams", headers={"Host": "evil.example"})
        assert answer.status == 403
        assert_error(await answer.json(), "forbidden")
        answer = await client.post("/admin/v1/reload", headers={"Origin": "https://evil.example"})
        assert answer.status == 403

    serve(story)


def test_metrics_speak_both_of_prometheus_formats(serve: Any) -> None:
    async def story(client: Any, view: View) -> None:
        plain = await client.get("/metrics")
        assert plain.headers["Content-Type"].startswith("text/plain; version=")
        assert "gateway_answer_ratio 42.0" in await plain.text()
        opened = await client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
        assert opened.headers["Content-Type"].startswith("application/openmetrics-text")
        assert [family.name for family in text_string_to_metric_families(await opened.text())] == ["gateway_answer_ratio"]

    serve(story)


def test_usage_is_exact_however_large(serve: Any) -> None:
    async def story(client: Any, view: View) -> None:
        shown = await (await client.get("/admin/v1/usage?by=team&since=2026-05-01&until=2026-05-01T13:00:00Z")).json()
        assert [(row["team"], row["calls"], row["cost_picousd"], row["cost_usd"]) for row in shown["rows"]] == [
            ("search", 1, 0, "0.00"),
            ("voice", 2, 2**63, "9223372.036854775808"),
        ]
        assert shown["rows"][0]["unpriced_calls"] == 1
        assert shown["total"] == {"calls": 3, "cost_picousd": 2**63, "cost_usd": "9223372.036854775808", "unpriced_calls": 1}
        assert (await (await client.get("/admin/v1/usage?since=2026-05-01T13:00:00Z")).json())["rows"] == []
        (row,) = (await (await client.get("/admin/v1/usage?team=search&by=day,endpoint")).json())["rows"]
        assert (row["day"], row["endpoint"]) == ("2026-05-01", "responses")

    serve(story)


def test_entries_are_filtered_and_bounded(serve: Any) -> None:
    async def story(client: Any, view: View) -> None:
        shown = await (await client.get("/admin/v1/entries?team=voice&limit=1")).json()
        assert ([found["exchange_id"] for found in shown["entries"]], shown["more"]) == (["gx-2"], True)
        shown = await (await client.get("/admin/v1/entries?team=voice&until=2026-05-01T12:00:00.000002Z")).json()
        assert ([found["exchange_id"] for found in shown["entries"]], shown["more"]) == (["gx-1"], False)

    serve(story)


BAD_QUESTIONS = [
    ("an unknown group", "/admin/v1/usage?by=team,moon", "by"),
    ("a group twice", "/admin/v1/usage?by=team,team", "by"),
    ("a misspelt filter", "/admin/v1/usage?taem=voice", "taem"),
    ("a time that is none", "/admin/v1/usage?since=yesterday", "since"),
    ("usage of part of an hour", "/admin/v1/usage?since=2026-05-01T12:30:00Z", "since"),
    ("no entries", "/admin/v1/entries?limit=0", "limit"),
    ("too many entries", "/admin/v1/entries?limit=10001", "limit"),
    ("a number that is none", "/admin/v1/entries?limit=-1", "limit"),
    ("a filter of another question", "/admin/v1/entries?by=team", "by"),
    ("a team that is not there", "/admin/v1/limits?team=nobody", "team"),
]


@pytest.mark.parametrize("path,parameter", [row[1:] for row in BAD_QUESTIONS], ids=[row[0] for row in BAD_QUESTIONS])
def test_a_question_that_means_nothing_is_told_so(serve: Any, path: str, parameter: str) -> None:
    async def story(client: Any, view: View) -> None:
        answer = await client.get(path)
        assert answer.status == 400
        body = await answer.json()
        assert_error(body, None)
        assert body["error"]["param"] == parameter

    serve(story)


FAILURES = [
    ("an unknown path", "GET", "/admin/v2/usage", 404, "unknown_url"),
    ("a wrong method", "POST", "/admin/v1/usage", 405, "method_not_supported"),
    ("no worker", "GET", "/admin/v1/limits", 503, "worker_away"),
]


@pytest.mark.parametrize("method,path,status,code", [row[1:] for row in FAILURES], ids=[row[0] for row in FAILURES])
def test_failures_have_openais_shape(serve: Any, method: str, path: str, status: int, code: str) -> None:
    async def story(client: Any, view: View) -> None:
        answer = await client.request(method, path)
        assert answer.status == status
        assert_error(await answer.json(), code)

    serve(story)


def test_a_ledger_that_is_away_and_a_fault_of_ours_are_told_without_their_insides(
    serve: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def story(client: Any, view: View) -> None:
        (tmp_path / "ledger.db").unlink()
        answer = await client.get("/admin/v1/usage")
        assert answer.status == 503
        assert_error(await answer.json(), "ledger_unavailable")
        view.broken = True
        answer = await client.get("/admin/v1/usage")
        assert answer.status == 500
        assert "sk-up" not in assert_error(await answer.json(), None)

    serve(story)
    assert "admin_failed" in capsys.readouterr().out


def test_limits_that_are_too_many_to_show_are_counted(serve: Any) -> None:
    async def story(client: TestClient[Any, Any], view: View) -> None:
        reading = LimitReading("voice", "team", "team", "rpm", 100, 3, 97, 1_800)
        view.limits_shown = LimitsShown((reading,), left_out=7)
        shown = await (await client.get("/admin/v1/limits?team=voice")).json()
        assert ([each["subject"] for each in shown["limits"]], shown["left_out"]) == (["team"], 7)

    serve(story)


def test_models_and_teams_show_no_secret(serve: Any) -> None:
    async def story(client: Any, view: View) -> None:
        models, teams = await client.get("/admin/v1/models"), await client.get("/admin/v1/teams")
        text = await models.text() + await teams.text()
        assert HASH not in text
        assert "sk-up" not in text
        (team,) = (await teams.json())["teams"]
        assert (team["team"], team["tier"], team["tier_held"], team["keys"][0]["id"]) == ("voice", "auto", "tier-1", "dev")
        (model,) = (await models.json())["models"]
        assert model["prices"][0]["picousd_each"]["standard"] == {"input_text": "2500000", "duration_in_ms": "1/3"}

    serve(story)


@pytest.mark.parametrize("ok,status", [(True, 200), (False, 409)], ids=["taken", "refused"])
def test_a_reload_says_what_became_of_it(serve: Any, ok: bool, status: int) -> None:
    async def story(client: Any, view: View) -> None:
        view.reloaded = Reloaded(ok, "abc", ("voice.yaml:2: tier: no such tier",))
        answer = await client.post("/admin/v1/reload")
        assert answer.status == status
        assert "voice.yaml:2: tier: no such tier" in await answer.text()
        if not ok:
            assert_error(await answer.json(), "config_refused")

    serve(story)
