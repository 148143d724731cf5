"""Every query of the dashboards, asked of a real Prometheus that has scraped a gateway, beside what the ledger says.

Prometheus is Debian's. It runs with the shipped `prometheus.yml`, but for the address and a scrape each half second, and so with
the admin token. What a panel shows is asked at the moment of the last scrape, over a range that holds every scrape: then
`increase` has nothing to extrapolate, and figures are exact.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import openai
import pytest

from gateway.dashboards import ALL, DASHBOARDS, filled

SHIPPED = Path(__file__).parents[2] / "grafana"
ADMIN_TOKEN = "admin-8f2c41d07b9e4a63"
CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "What is on my bill?"}]}
SPOKEN = {"model": "gpt-4o-audio-preview", "modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "pcm16"}}
TEAMS: dict[str, dict[str, Any]] = {
    "voice": {"models": ["gpt-4o", "gpt-4o-audio-preview", "o3"]},
    "search": {"models": ["gpt-4o", "text-embedding-3-small"], "limits": {"gpt-4o": {"rpd": 3}}},
    "watched": {"models": ["gpt-4o"], "limits": {"gpt-4o": {"rpd": 1}}, "mode": "shadow"},
    "hasty": {"models": ["gpt-4o"], "account": "impatient"},
    "lost": {"models": ["gpt-4o"], "account": "nowhere"},
    "curious": {"models": ["gpt-4o"], "unknown_model": "allow_unpriced"},
}
SMALL_TEAM = {"models": ["gpt-4o"], "account": "small"}
SMALL_ACCOUNT = '  small: {{base_url: "{}", api_key: "${{UPSTREAM_KEY}}", tier: tier-1}}\n'  # 30,000 tokens a minute of gpt-4o
FORESEEN = tuple(team for team in TEAMS if team != "curious")  # whose series begin at 0: no card lists the model that curious is served
RANGE, RANGE_S = "1h", 3600
SERIES_MAX = 50  # more lines than this nobody reads
ROUNDS = 2  # a histogram's first values are not in any rate: Prometheus sees them as the beginning
Result = dict[tuple[tuple[str, str], ...], float]


class Prometheus:
    """A Prometheus of the tests' own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.at_s = 0.0  # when everything below had been scraped

    def ask(self, query: str, at_s: float | None = None) -> Result:
        """An instant query's answer by labels, at the last scrape unless a time is given."""
        found = self._get("query", {"query": query, "time": f"{at_s or self.at_s:.3f}"})
        return {tuple(sorted(each["metric"].items())): float(each["value"][1]) for each in found["result"]}

    def ask_over_time(self, query: str, since_s: float, step_s: float) -> list[float]:
        """A range query's values, of all series."""
        asked = {"query": query, "start": f"{since_s:.3f}", "end": f"{self.at_s:.3f}", "step": f"{step_s}"}
        return [float(value) for each in self._get("query_range", asked)["result"] for _, value in each["values"]]

    def scraped_at_s(self) -> float:
        """When the gateway was last scraped with success; 0: not yet."""
        return max(self.ask("timestamp(gateway_ready)", time.time()).values(), default=0.0)

    def see(self, until: Any) -> float:
        """Wait until what is shown now has been scraped twice: of one sample there is no rate. When the last scrape was."""
        at_s = time.time()
        for _ in range(2):
            at_s = until(self.scraped_at_s, lambda found_s, at_s=at_s: found_s > at_s, "another scrape")
        return at_s

    def _get(self, path: str, fields: dict[str, str]) -> Any:
        with urlopen(Request(f"{self.url}/api/v1/{path}", urlencode(fields).encode()), timeout=30) as answer:
            return json.load(answer)["data"]


class Scraped:
    """A gateway after known traffic, and the Prometheus that saw it."""

    def __init__(self, prometheus: Prometheus, place: Any, entries: list[dict[str, Any]], metrics: bytes, since_s: float) -> None:
        self.prometheus, self.place, self.entries, self.metrics, self.since_s = prometheus, place, entries, metrics, since_s

    def entries_of(self, teams: tuple[str, ...]) -> list[dict[str, Any]]:
        return [entry for entry in self.entries if entry["team"] in teams]

    def ask(self, query: str, **chosen: tuple[str, ...]) -> Result:
        """A dashboard's query with what was chosen; everything where nothing was."""
        return self.prometheus.ask(filled(query, chosen, rate_interval=RANGE, time_range=RANGE))


def tool(name: str) -> str:
    """A program of Debian's package `prometheus`. On a bare machine the test is skipped; in CI it must be there."""
    found = shutil.which(name)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"there is no `{name}`: apt-get install prometheus")
        pytest.skip(f"there is no `{name}`")
    return found


@contextmanager
def started_prometheus(folder: Path, admin_url: str, until: Any) -> Iterator[Prometheus]:
    """Prometheus over the shipped configuration, on a port the kernel picks."""
    settings = (SHIPPED / "prometheus.yml").read_text()
    for shipped, ours in ("127.0.0.1:9091", admin_url.removeprefix("http://")), ("scrape_interval: 15s", "scrape_interval: 500ms"):
        assert settings.count(shipped) == 1
        settings = settings.replace(shipped, ours)
    (folder / "prometheus.yml").write_text(settings)
    (folder / "admin-token").write_text(ADMIN_TOKEN)
    subprocess.run([tool("promtool"), "check", "config", folder / "prometheus.yml"], check=True, capture_output=True, timeout=60)
    argv = [tool("prometheus"), f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    argv += ["--web.listen-address=127.0.0.1:0", "--log.format=json"]
    log = folder / "prometheus.log"
    with log.open("wb") as out:
        process = subprocess.Popen(argv, stdout=out, stderr=out)
    try:
        told = "Server is ready to receive web requests"
        said = until(log.read_text, lambda text: told in text or process.poll() is not None, "Prometheus is ready")
        found = re.search(r'"address":"(127\.0\.0\.1:\d+)".*"msg":"Listening on"', said)
        assert found, said
        yield Prometheus(f"http://{found[1]}")
    finally:
        process.terminate()
        process.wait(30)


def admin(place: Any, path: str, method: str = "GET") -> tuple[int, bytes]:
    """The admin port's answer to the bearer of the token."""
    asked = Request(place.admin_url + path, method=method, headers={"Authorization": f"Bearer {ADMIN_TOKEN}"})
    try:
        with urlopen(asked, timeout=30) as answer:
            return answer.status, answer.read()
    except OSError as error:  # also HTTPError
        return getattr(error, "code", 0), b""


def make_traffic(journey: Any) -> None:
    """A round of calls of every kind that the overview tells apart."""
    voice, search, watched = journey.client(), journey.client("search"), journey.client("watched")
    for _ in range(3):
        voice.chat.completions.create(**CHAT)
    voice.chat.completions.create(**CHAT, extra_headers={"X-Simulator-Usage": "input_text=86;cached_text=1920;output_text=300"})
    voice.chat.completions.create(**CHAT | SPOKEN)
    for model in "gpt-4o", "o3":
        with voice.chat.completions.create(**CHAT | {"model": model}, stream=True) as stream:
            assert list(stream)
    voice.responses.create(model="gpt-4o", input="bill")
    search.embeddings.create(model="text-embedding-3-small", input="bill")
    for _ in range(4):
        try:
            search.chat.completions.create(**CHAT)
        except openai.RateLimitError:
            continue
    for _ in range(2):
        watched.chat.completions.create(**CHAT)
    journey.client("curious").chat.completions.create(**CHAT, extra_headers={"X-Simulator-Fault": "model=ft:gpt-4o:ours"})
    with pytest.raises(openai.NotFoundError):
        search.chat.completions.create(**CHAT | {"model": "o3"})
    with pytest.raises(openai.InternalServerError):
        voice.chat.completions.create(**CHAT, extra_headers={"X-Simulator-Fault": "status=500"})
    with pytest.raises(openai.BadRequestError):
        voice.chat.completions.create(**CHAT, extra_headers={"X-Simulator-Fault": "status=400"})
    for team in "hasty", "lost":
        with pytest.raises(openai.InternalServerError):
            journey.client(team).chat.completions.create(**CHAT, extra_headers={"X-Simulator-Fault": "hang_before_head"})
    with pytest.raises(openai.AuthenticationError):
        journey.client(api_key="gk-nobody").models.list()
    cut = journey.send("POST", "/chat/completions", CHAT | {"stream": True}, {"X-Simulator-Fault": "cut_after_events=5"})
    assert cut.status == 200


@pytest.fixture(scope="module")
def scraped(start_gateway_for_all: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory, until: Any) -> Iterator[Scraped]:
    tool("prometheus")
    journey = start_gateway_for_all(**TEAMS)
    place = journey.place
    settings = (place.config / "gateway.yaml").read_text()
    small = SMALL_ACCOUNT.format(place.upstream_url)  # after the others: the first is the default
    for before, after in ('admin: {listen: "127.0.0.1:0"', f", token: {ADMIN_TOKEN}"), ("refused at once\n", small):
        assert settings.count(before) == 1
        settings = settings.replace(before, before + after)
    place.write("gateway.yaml", settings)
    place.team("small", **SMALL_TEAM)
    until(lambda: admin(place, "/admin/v1/reload", "POST")[0], lambda status: status == 200, "the token is asked for")
    with started_prometheus(tmp_path_factory.mktemp("prometheus"), place.admin_url, until) as prometheus:
        since_s = until(prometheus.scraped_at_s, bool, "a first scrape")
        for _ in range(ROUNDS):
            make_traffic(journey)
            journey.entries()
            prometheus.see(until)
        place.write("teams/broken.yaml", "team: [")
        assert admin(place, "/admin/v1/reload", "POST")[0] == 409
        of_half_a_minute = {"X-Simulator-Usage": "input_text=15000;output_text=3"}
        journey.client("small").chat.completions.create(**CHAT, extra_headers=of_half_a_minute)
        entries = journey.entries()
        shown = [
            f'gateway_ledger_records_total{{result="written"}} {float(len(entries))}',
            f'gateway_auth_failures_total{{reason="unknown"}} {float(ROUNDS)}',
            'gateway_limit_used_ratio{limit="rpd",scope="group:gpt-4o",team="search"} 1.0',
            'gateway_limit_used_ratio{limit="tpm",scope="account:small:group:gpt-4o",team="(all)"} 0.',
            'gateway_degraded{check="config",state="last_reload_refused"} 1.0',
        ]
        until(lambda: admin(place, "/metrics")[1].decode(), lambda text: all(line in text for line in shown), f"all of {shown}")
        prometheus.at_s = prometheus.see(until)
        yield Scraped(prometheus, place, entries, admin(place, "/metrics")[1], since_s)


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in dashboard["panels"]:
        yield from panel.get("panels", ()) if panel["type"] == "row" else (panel,)


QUERIES = {
    f"{panel['title']}, {target['legendFormat']}": target
    for build in DASHBOARDS.values()
    for panel in panels(build())
    for target in panel["targets"]
}


def query_of(title: str) -> str:
    """The first query of the overview's panel."""
    (found,) = [panel for panel in panels(DASHBOARDS["overview.json"]()) if panel["title"] == title]
    return str(found["targets"][0]["expr"])


@pytest.mark.parametrize("name", QUERIES)
def test_every_query_has_an_answer_with_the_labels_of_its_legend(scraped: Scraped, name: str) -> None:
    target = QUERIES[name]
    found = scraped.ask(target["expr"])
    assert found, "no series"
    assert len(found) <= SERIES_MAX
    assert all(math.isfinite(value) and value >= 0 for value in found.values()), found
    legend = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
    assert all(legend <= dict(labels).keys() for labels in found), found
    if target["range"]:
        expr = filled(target["expr"], {}, rate_interval="2s", time_range=RANGE)
        assert any(math.isfinite(value) for value in scraped.prometheus.ask_over_time(expr, scraped.since_s, 0.5)), "nothing to draw"


@pytest.mark.parametrize("variable", ["job", "team", "model", "account"])
def test_a_variable_offers_what_the_panels_can_show(scraped: Scraped, variable: str) -> None:
    (found,) = [each for each in DASHBOARDS["overview.json"]()["templating"]["list"] if each["name"] == variable]
    selector = re.fullmatch(r"label_values\((.+), (\w+)\)", found["query"]["query"])
    assert selector
    assert (selector[2], found["allValue"]) == (variable, ALL)
    offered = {dict(labels)[variable] for labels in scraped.ask(f"count by ({variable}) ({selector[1]})")}
    wanted = {
        "job": {"gateway"},
        "team": {*TEAMS, "small"},
        "model": {"gpt-4o", "gpt-4o-audio-preview", "o3", "text-embedding-3-small", "none", "other"},
        "account": {"openai", "impatient", "small"},
    }
    assert offered == wanted[variable]


def spent_usd(entries: list[dict[str, Any]], by: str | None = None) -> dict[str, float]:
    total: Counter[str] = Counter()
    for entry in entries:
        total[entry[by] if by else "all"] += entry["cost_picousd"] or 0  # None: unpriced, and so no cost to show
    return {name: picousd / 1e12 for name, picousd in total.items() if picousd}


def by_label(found: Result, label: str) -> dict[str, float]:
    return {dict(labels)[label]: value for labels, value in found.items()}


def test_cost_is_the_ledgers(scraped: Scraped) -> None:
    (cost,) = scraped.ask(query_of("Cost in this range")).values()
    assert cost == pytest.approx(spent_usd(scraped.entries)["all"], rel=1e-9)
    assert cost > 0
    assert by_label(scraped.ask(query_of("Cost by team")), "team") == pytest.approx(spent_usd(scraped.entries, "team"), rel=1e-9)
    an_hour = scraped.ask(query_of("Cost an hour by kind"))
    assert {"input", "cached_input", "output", "audio"} == set(by_label(an_hour, "cost_class"))
    assert sum(an_hour.values()) == pytest.approx(cost, rel=1e-9)  # of a range of one hour


def test_tokens_are_the_ledgers(scraped: Scraped) -> None:
    used: Counter[str] = Counter()
    for entry in scraped.entries_of(FORESEEN):
        for meter, count in entry["usage"].items():
            kind, _, modality = meter.rpartition("_")
            used[f"{'input' if kind == 'cached' else kind} {modality}"] += count
    found = scraped.ask(query_of("Tokens a minute by kind"), team=FORESEEN)
    shown = {f"{dict(labels)['direction']} {dict(labels)['modality']}": value * RANGE_S / 60 for labels, value in found.items()}
    assert {kind: value for kind, value in shown.items() if value} == pytest.approx(dict(used), rel=1e-9)
    assert {"input text", "output text", "output audio"} <= set(used)
    parts = by_label(scraped.ask(query_of("Of these: cached, reasoning, predicted")), "detail")
    assert parts["cache_read"] * RANGE_S / 60 == pytest.approx(1920 * ROUNDS, rel=1e-9)
    assert parts["reasoning"] > 0


def test_calls_and_refusals_are_those_that_were_made(scraped: Scraped) -> None:
    outcomes = Counter(entry["outcome"] for entry in scraped.entries_of(FORESEEN))
    found = scraped.ask(query_of("Calls by outcome"), team=FORESEEN)
    shown = {name: value * RANGE_S for name, value in by_label(found, "outcome").items()}
    assert shown["ok"] == pytest.approx(outcomes["ok"], rel=1e-9)
    assert {name for name, value in shown.items() if value} >= {"ok", "rejected", "client_error", "upstream_error", "upstream_timeout"}
    held = scraped.ask(query_of("Teams held by a limit"))
    assert held == {(("limit", "rpd"), ("team", "search")): pytest.approx(4 * ROUNDS - 3)}
    refused = scraped.ask(query_of("Refused by limit"))
    assert refused[("decision", "reject"), ("limit", "rpd")] * RANGE_S == pytest.approx(4 * ROUNDS - 3)
    assert {dict(labels)["decision"] for labels in refused} == {"reject", "degraded"}
    assert by_label(scraped.ask(query_of("Refused by answer")), "status_class").keys() == {"429", "4xx", "5xx"}


def test_limits_in_use_say_which_is_full(scraped: Scraped) -> None:
    full = scraped.ask(query_of("Fullest limits now"))
    assert [dict(labels) for labels, value in full.items() if value == 1 and dict(labels)["team"] == "search"] == [
        {"team": "search", "limit": "rpd", "scope": "group:gpt-4o"}
    ]
    assert by_label(scraped.ask(query_of("Fullest limit by kind")), "limit")["rpd"] == 1
    tokens = (("limit", "tpm"), ("scope", "account:small:group:gpt-4o"))
    accounts = scraped.ask(query_of("Accounts' limits now"))
    assert 0 < accounts[tokens] <= 0.51
    assert scraped.ask(query_of("Accounts' limits now"), account=("small",)).keys() >= {tokens}
    assert scraped.ask(query_of("Accounts' limits now"), account=("smal",)) == {}


@pytest.mark.parametrize("title", ["Failed", "Refused", "Usage not reported"])
def test_a_share_is_of_something(scraped: Scraped, title: str) -> None:
    (share,) = scraped.ask(query_of(title)).values()
    assert 0 < share < 1


def test_what_has_no_price_is_shown_and_what_has_one_is_not(scraped: Scraped) -> None:
    ((labels, calls),) = scraped.ask(query_of("Unpriced calls")).items()
    assert dict(labels) == {"model": "other", "reason": "unknown_model"}
    assert round(calls) == ROUNDS - 1, "a series nobody foresaw begins with its first call"


def test_quantiles_come_in_their_order(scraped: Scraped) -> None:
    for title in "Whole call", "Upstream", "Gateway's own overhead", "First token":
        p50, p95, p99 = (sum(scraped.ask(QUERIES[f"{title}, {name}"]["expr"]).values()) for name in ("p50", "p95", "p99"))
        assert 0 < p50 <= p95 <= p99, title


CHOICES = [
    ("one team", {"team": ("search",)}, {"search"}),
    ("two teams", {"team": ("search", "voice")}, {"search", "voice"}),
    ("a team and a model", {"team": ("search", "voice"), "model": ("o3",)}, {"voice"}),
    ("a name that is no pattern", {"team": ("se.rch",)}, set()),
    ("no team's name", {"team": ("nobody",)}, set()),
    ("another job", {"job": ("node",)}, set()),
]


@pytest.mark.parametrize("chosen,teams", [row[1:] for row in CHOICES], ids=[row[0] for row in CHOICES])
def test_what_is_chosen_is_what_is_shown(scraped: Scraped, chosen: dict[str, tuple[str, ...]], teams: set[str]) -> None:
    assert by_label(scraped.ask(query_of("Cost by team"), **chosen), "team").keys() == teams


def test_a_degraded_state_is_named_and_a_reload_is_marked(scraped: Scraped) -> None:
    assert scraped.ask(query_of("Degraded")) == {(("check", "config"), ("state", "last_reload_refused")): 1}
    assert scraped.ask(query_of("Ready")) == {(): 1}
    (mark,) = DASHBOARDS["overview.json"]()["annotations"]["list"]
    (at_ms,) = scraped.ask(mark["expr"]).values()
    assert time.time() - 3600 < at_ms / 1000 < scraped.since_s


def test_promtool_finds_nothing_to_say_about_the_metrics(scraped: Scraped) -> None:
    done = subprocess.run([tool("promtool"), "check", "metrics"], input=scraped.metrics, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_gateway_that_is_away_is_not_ready(scraped: Scraped, until: Any) -> None:
    prometheus = scraped.prometheus
    ready = filled(query_of("Ready"), {}, rate_interval=RANGE, time_range=RANGE)
    assert scraped.place.process.stop() == 0
    until(lambda: prometheus.ask(ready, time.time()), lambda found: found == {(): 0}, "Prometheus finds nobody")
