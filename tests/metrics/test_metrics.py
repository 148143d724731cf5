"""Metrics as Prometheus reads them: the text is parsed back, nothing is asked of the objects."""

import re
from dataclasses import dataclass
from typing import Any

import msgspec
import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.admission import LimitKind, Scope
from gateway.catalogue import Card, Catalogue, PriceTable
from gateway.config.snapshot import Account, AdminSettings, Listen, ProxySettings, Secret, Settings, Snapshot
from gateway.control import Decided, LimitReading, Refusal, Report
from gateway.journal.records import Entry
from gateway.metrics import EntryMetrics, Families, LiveMetrics
from gateway.teams import Team
from gateway.units import Meter, UsageSource

USD = 60_000 * 10**12  # a rate of one dollar a unit
RATES = {Meter.INPUT_TEXT: USD, Meter.CACHED_TEXT: USD // 10, Meter.OUTPUT_TEXT: 2 * USD, Meter.OUTPUT_AUDIO: 8 * USD,
         Meter.WEB_SEARCH_CALLS: USD // 2}  # fmt: skip
CARDS = (
    Card("gpt-4o", aliases=("gpt-4o-latest",), snapshots=("gpt-4o-2024-08-06",), endpoints=("chat/completions", "responses"),
         prices=(PriceTable("gpt-4o@2024-10-02", 0, "here", RATES),)),
    Card("tts-1", endpoints=("audio/speech",)),
)  # fmt: skip
SOURCES: tuple[UsageSource, ...] = ("reported", "estimated", "unknown", "not_billed")
TEAMS = (Team("voice", "tier-1", models=("gpt-4o",)), Team("search", "tier-1"))
ENTRY = Entry(
    exchange_id="gx-1", session_id=None, team="voice", key="dev", account="openai", endpoint="chat/completions",
    model_asked="gpt-4o", model_served="gpt-4o-2024-08-06", service_tier=None,
    usage={Meter.INPUT_TEXT: 70, Meter.CACHED_TEXT: 30, Meter.OUTPUT_TEXT: 40, Meter.OUTPUT_AUDIO: 1, Meter.WEB_SEARCH_CALLS: 2},
    details={"reasoning_tokens": 25}, usage_source="reported", cost_picousd=162 * 10**12, price_version="gpt-4o@2024-10-02",
    status=200, error_code=None, upstream_request_id=None, client_request_id=None,
    admitted_at_us=1_000_000, ended_at_us=3_500_000,
    timings_us={"sent": 1_000, "head": 400_000, "first_token": 500_000, "last": 2_401_000, "overhead": 120},
    retry_count=0, outcome="ok", ask_tokens=282, streamed=True, answer_id="chatcmpl-1", body_bytes=300,
)  # fmt: skip


def snapshot(teams: tuple[Team, ...] = TEAMS, config_hash: str = "abc") -> Snapshot:
    listen = Listen("127.0.0.1", 0)
    settings = Settings(ProxySettings((listen,)), AdminSettings(listen, Secret("")), (Account("openai", "http://h", Secret("")),))
    return Snapshot(settings, Catalogue(CARDS), (), "tier-1", teams, config_hash, 1)


@dataclass
class Shown:
    """The exposition, by sample."""

    families: Families

    def all(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        text = prometheus_client.generate_latest(self.families.registry).decode()
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        shown = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}
        assert len(shown) == len(samples), "a series is shown twice"
        return shown

    def get(self, name: str, **labels: str) -> float | None:
        return self.all().get((name, frozenset(labels.items())))

    def of(self, name: str) -> dict[frozenset[tuple[str, str]], float]:
        return {labels: value for (found, labels), value in self.all().items() if found == name}


def house(series_max: int = 5_000) -> tuple[EntryMetrics, LiveMetrics, Shown]:
    families = Families(series_max)
    entries = EntryMetrics(families, series_max)
    live = LiveMetrics(families, entries)
    return entries, live, Shown(families)


def entry(**changes: Any) -> Entry:
    return msgspec.structs.replace(ENTRY, **changes)


def test_one_entry_is_counted_once_in_every_family_it_belongs_to() -> None:
    metrics, _, shown = house()
    metrics.configure(snapshot())
    metrics.observe([ENTRY])
    team, model, pair = {"team": "voice"}, {"model": "gpt-4o"}, {"team": "voice", "model": "gpt-4o"}
    operation = {"operation": "chat/completions"}
    assert shown.get("gateway_requests_total", **pair, **operation, status_class="2xx", outcome="ok") == 1
    assert shown.get("gateway_upstream_requests_total", account="openai", **model, code="200") == 1
    assert shown.get("gateway_tokens_total", **pair, direction="input", modality="text") == 100
    assert shown.get("gateway_tokens_total", **pair, direction="output", modality="text") == 40
    assert shown.get("gateway_tokens_total", **pair, direction="output", modality="audio") == 1
    assert shown.get("gateway_tokens_detail_total", **pair, detail="cache_read") == 30
    assert shown.get("gateway_tokens_detail_total", **pair, detail="reasoning") == 25
    assert shown.get("gateway_cost_usd_total", **pair, cost_class="input") == 70
    assert shown.get("gateway_cost_usd_total", **pair, cost_class="cached_input") == 3
    assert shown.get("gateway_cost_usd_total", **pair, cost_class="output") == 80
    assert shown.get("gateway_cost_usd_total", **pair, cost_class="audio") == 8
    assert shown.get("gateway_cost_usd_total", **pair, cost_class="tool") == 1
    assert shown.get("gateway_usage_source_total", source="upstream_usage") == 1
    assert shown.get("gateway_unpriced_requests_total", **model, reason="missing_price") == 0
    assert shown.get("gateway_request_duration_seconds_sum", **model, **operation, stream="true") == 2.401
    assert shown.get("gateway_request_duration_seconds_bucket", **model, **operation, stream="true", le="2.56") == 1
    assert shown.get("gateway_request_duration_seconds_bucket", **model, **operation, stream="true", le="1.28") == 0
    assert shown.get("gateway_team_request_duration_seconds_count", **team) == 1
    assert shown.get("gateway_time_to_first_token_seconds_sum", **model, **operation) == 0.5
    assert shown.get("gateway_time_per_output_token_seconds_sum", **model) == 1.901 / 40
    assert shown.get("gateway_upstream_duration_seconds_sum", account="openai", **model) == 2.4
    assert shown.get("gateway_overhead_seconds_sum") == 0.00012
    assert shown.get("gateway_request_body_bytes_sum", **operation) == 300
    assert shown.get("gateway_tokens_per_request_sum", **model, direction="input") == 100
    assert shown.get("gateway_token_estimate_error_ratio_bucket", **model, le="1.0") == 1
    assert shown.get("gateway_token_estimate_error_ratio_bucket", **model, le="0.5") == 0


DURATIONS = [
    ("a last byte before the entry was closed", {"first_token": 500_000, "last": 2_401_000}, 2.401),
    ("a wait for a connection before admission", {"first_token": 4_000_000, "last": 4_500_000}, 4.5),
    ("no byte at all", {}, 2.5),
]


@pytest.mark.parametrize("timings_us,seconds", [row[1:] for row in DURATIONS], ids=[row[0] for row in DURATIONS])
def test_a_call_lasts_from_its_arrival_to_its_last_byte_and_never_less_than_to_its_first_token(
    timings_us: dict[str, int], seconds: float
) -> None:
    metrics, _, shown = house()
    metrics.configure(snapshot())
    metrics.observe([entry(timings_us=timings_us)])
    place = {"model": "gpt-4o", "operation": "chat/completions"}
    assert shown.get("gateway_request_duration_seconds_sum", **place, stream="true") == seconds
    assert shown.get("gateway_team_request_duration_seconds_sum", team="voice") == seconds
    assert (shown.get("gateway_time_to_first_token_seconds_sum", **place) or 0) <= seconds


def test_what_nothing_feeds_is_not_shown_from_the_start() -> None:
    _, _, shown = house()
    assert shown.of("gateway_streams_active") == {frozenset({("kind", "sse")}): 0}
    assert {dict(labels)["reason"] for labels in shown.of("gateway_auth_failures_total")} == {"missing", "unknown", "revoked", "expired"}


OUTCOMES = [
    ("answered", {"status": 204}, "2xx", "ok"),
    ("refused by OpenAI", {"status": 400, "outcome": "client_error"}, "4xx", "client_error"),
    ("throttled by OpenAI", {"status": 429, "outcome": "client_error"}, "429", "client_error"),
    ("failed at OpenAI", {"status": 500, "outcome": "upstream_error"}, "5xx", "upstream_error"),
    ("no answer in time", {"status": None, "outcome": "upstream_timeout"}, "5xx", "upstream_timeout"),
    ("client gone before the answer", {"status": None, "outcome": "client_gone"}, "499", "client_abort"),
    ("client gone in mid-stream", {"status": 200, "outcome": "client_gone"}, "2xx", "client_abort"),
    ("worker died", {"status": None, "outcome": "unknown"}, "none", "unknown"),
    ("an outcome nobody knows", {"outcome": "no such outcome"}, "2xx", "other"),
]


@pytest.mark.parametrize("changes,status_class,outcome", [row[1:] for row in OUTCOMES], ids=[row[0] for row in OUTCOMES])
def test_outcomes_have_their_class(changes: dict[str, Any], status_class: str, outcome: str) -> None:
    metrics, _, shown = house()
    metrics.configure(snapshot(teams=TEAMS[1:]))
    metrics.observe([entry(team="search", **changes)])
    (labels,) = shown.of("gateway_requests_total")
    assert (dict(labels)["status_class"], dict(labels)["outcome"]) == (status_class, outcome)


PER_TOKEN: list[tuple[str, dict[str, Any], float | None]] = [
    ("all of it in one read", {"timings_us": {"sent": 1, "first_token": 7_000, "last": 7_000}}, 0.0),
    ("a read later", {"timings_us": {"sent": 1, "first_token": 7_000, "last": 7_400}}, 0.0004 / 40),
    ("a wait for a connection longer than the answer", {"ended_at_us": 1_000_100}, 1.901 / 40),
    ("no moment of its end", {"timings_us": {"sent": 1, "first_token": 7_000}}, None),
    ("no moment of its first token", {"timings_us": {"sent": 1, "last": 7_000}}, None),
    ("a first token after the end", {"timings_us": {"sent": 1, "first_token": 7_001, "last": 7_000}}, None),
    ("one token", {"usage": {Meter.OUTPUT_TEXT: 1}}, None),
    ("two tokens", {"usage": {Meter.OUTPUT_TEXT: 2}}, 1.901),
    ("not a stream", {"streamed": False}, None),
    ("estimated usage", {"usage_source": "estimated"}, None),
]


@pytest.mark.parametrize("changes,seconds", [row[1:] for row in PER_TOKEN], ids=[row[0] for row in PER_TOKEN])
def test_the_time_of_a_token_is_of_one_clock_and_never_negative(changes: dict[str, Any], seconds: float | None) -> None:
    metrics, _, shown = house()
    metrics.configure(snapshot())
    metrics.observe([entry(**changes)])
    assert shown.get("gateway_time_per_output_token_seconds_sum", model="gpt-4o") == seconds


def test_a_dead_workers_entry_has_usage_and_no_times() -> None:
    metrics, _, shown = house()
    metrics.configure(snapshot())
    metrics.observe([entry(status=None, outcome="unknown", usage_source="unknown", timings_us={})])
    assert shown.get("gateway_tokens_total", team="voice", model="gpt-4o", direction="input", modality="text") == 100
    assert shown.of("gateway_team_request_duration_seconds_count") == {}
    assert shown.of("gateway_tokens_per_request_count") == {}
    assert shown.of("gateway_token_estimate_error_ratio_bucket") == {}
    assert shown.get("gateway_usage_source_total", source="none") == 1


UNPRICED = [
    ("a priced call", {}, {}),
    ("free, which is a price", {"cost_picousd": 0}, {}),
    ("no price", {"cost_picousd": None}, {("gpt-4o", "missing_price"): 1}),
    ("a model nobody knows", {"cost_picousd": None, "model_served": None, "model_asked": "gpt-9"}, {("other", "unknown_model"): 1}),
    ("not billed at all", {"cost_picousd": None, "usage_source": "not_billed"}, {}),
]


@pytest.mark.parametrize("changes,unpriced", [row[1:] for row in UNPRICED], ids=[row[0] for row in UNPRICED])
def test_a_missing_price_is_loud(changes: dict[str, Any], unpriced: dict[tuple[str, str], int]) -> None:
    metrics, _, shown = house()
    metrics.configure(snapshot(teams=TEAMS[1:]))
    metrics.observe([entry(team="search", **changes)])
    found = {frozenset(labels): value for labels, value in shown.of("gateway_unpriced_requests_total").items()}
    assert found == {frozenset({("model", model), ("reason", reason)}): count for (model, reason), count in unpriced.items()}


CORRECTIONS = [
    ("upwards", {Meter.INPUT_TEXT: 105, Meter.OUTPUT_TEXT: 40}, 185, 135, 105, 80),
    ("downwards stays, as counters do", {Meter.INPUT_TEXT: 5}, 5, 100, 70, 80),
    ("the same", ENTRY.usage, 162, 100, 70, 80),
]


@pytest.mark.parametrize(
    "usage,cost,input_tokens,input_usd,output_usd", [row[1:] for row in CORRECTIONS], ids=[row[0] for row in CORRECTIONS]
)
def test_a_correction_counts_what_it_adds(
    usage: dict[Meter, int], cost: int, input_tokens: int, input_usd: float, output_usd: float
) -> None:
    metrics, _, shown = house()
    metrics.configure(snapshot())
    metrics.observe([ENTRY])
    metrics.correct(entry(usage=usage, cost_picousd=cost * 10**12), ENTRY)
    pair = {"team": "voice", "model": "gpt-4o"}
    assert shown.get("gateway_tokens_total", **pair, direction="input", modality="text") == input_tokens
    assert shown.get("gateway_cost_usd_total", **pair, cost_class="input") == input_usd
    assert shown.get("gateway_cost_usd_total", **pair, cost_class="output") == output_usd
    assert sum(shown.of("gateway_requests_total").values()) == 1
    assert sum(shown.of("gateway_usage_source_total").values()) == 1


def test_a_correction_from_unpriced_counts_its_whole_cost() -> None:
    metrics, _, shown = house()
    metrics.configure(snapshot())
    before = entry(cost_picousd=None)
    metrics.observe([before])
    metrics.correct(ENTRY, before)
    assert sum(shown.of("gateway_cost_usd_total").values()) == 162


COSTS = [
    ("priced by other prices than these", {"cost_picousd": 7 * 10**12}, {"other": 7}),
    ("a table nobody knows", {"price_version": "gone@2020-01-01"}, {"other": 162}),
    ("no table named", {"price_version": None}, {"other": 162}),
    ("another model's prices, as `price_as` says", {"model_served": "gpt-9", "usage": {Meter.INPUT_TEXT: 162}}, {"input": 162}),
    ("free", {"cost_picousd": 0, "usage": {}}, {}),
]


@pytest.mark.parametrize("changes,usd", [row[1:] for row in COSTS], ids=[row[0] for row in COSTS])
def test_cost_classes_sum_to_the_entrys_cost(changes: dict[str, Any], usd: dict[str, float]) -> None:
    metrics, _, shown = house()
    metrics.configure(snapshot(teams=TEAMS[1:]))
    metrics.observe([entry(team="search", **changes)])
    assert {dict(labels)["cost_class"]: value for labels, value in shown.of("gateway_cost_usd_total").items()} == usd


MODELS = [
    ("the card's own name", "gpt-4o", "gpt-4o"),
    ("an alias", "gpt-4o-latest", "gpt-4o"),
    ("a snapshot", "gpt-4o-2024-08-06", "gpt-4o"),
    ("a name that only begins like one", "gpt-4o-2024-08-07", "other"),
    ("free text", 'x"}\n', "other"),
    ("no model", None, "none"),
]


@pytest.mark.parametrize("name,label", [row[1:] for row in MODELS], ids=[row[0] for row in MODELS])
def test_models_are_labelled_by_their_card(name: str | None, label: str) -> None:
    metrics, _, shown = house()
    metrics.configure(snapshot(teams=TEAMS[1:]))
    metrics.observe([entry(team="search", model_asked=name, model_served=None)])
    (labels,) = shown.of("gateway_requests_total")
    assert dict(labels)["model"] == label


def test_teams_and_accounts_that_are_not_configured_are_other() -> None:
    metrics, _, shown = house()
    metrics.configure(snapshot(teams=TEAMS[1:]))
    metrics.observe([entry(team="left us", account="old")])
    assert {dict(labels)["team"] for labels in shown.of("gateway_requests_total")} == {"other"}
    assert {dict(labels)["account"] for labels in shown.of("gateway_upstream_requests_total")} == {"other"}


def test_likely_series_are_there_at_zero_from_the_start() -> None:
    metrics, live, shown = house()
    metrics.configure(snapshot())
    live.configure(snapshot(), "1", "r")
    pair = {"team": "voice", "model": "gpt-4o"}
    assert shown.get("gateway_requests_total", **pair, operation="responses", status_class="2xx", outcome="ok") == 0
    assert shown.get("gateway_requests_total", **pair, operation="chat/completions", status_class="429", outcome="rejected") == 0
    tokens = {(dict(labels)["direction"], dict(labels)["modality"]): value for labels, value in shown.of("gateway_tokens_total").items()}
    assert tokens == {("input", "text"): 0, ("output", "text"): 0, ("output", "audio"): 0}, "what the card has a price for"
    costs = {dict(labels)["cost_class"]: value for labels, value in shown.of("gateway_cost_usd_total").items()}
    assert costs == {"input": 0, "cached_input": 0, "output": 0, "audio": 0}
    assert shown.get("gateway_tokens_detail_total", **pair, detail="cache_read") == 0
    assert shown.get("gateway_tokens_detail_total", **pair, detail="reasoning") is None, "the card does not reason"
    assert shown.get("gateway_requests_in_flight", team="search") == 0
    assert shown.get("gateway_config_reloads_total", result="error") == 0
    assert shown.get("gateway_ledger_records_total", result="duplicate") == 0


@pytest.mark.parametrize(
    "teams,folded", [(9, 0), (10, 0), (11, 1), (25, 15)], ids=["one under the cap", "at the cap", "one over", "far over"]
)
def test_the_cap_folds_what_is_beyond_it_and_sums_stay_exact(teams: int, folded: int) -> None:
    metrics, _, shown = house(series_max=10)
    metrics.configure(snapshot(teams=tuple(Team(f"team-{number}", "tier-1") for number in range(teams))))
    for number in range(teams):
        metrics.observe([entry(team=f"team-{number}", usage={Meter.OUTPUT_TEXT: 7})])
    requests = shown.of("gateway_requests_total")
    assert len(requests) == min(teams, 10) + (folded > 0)
    assert sum(requests.values()) == teams
    assert sum(shown.of("gateway_tokens_total").values()) == 7 * teams
    other = [value for labels, value in requests.items() if ("team", "other") in labels]
    assert other == ([folded] if folded else [])
    assert shown.get("gateway_metrics_overflow_total", metric="gateway_requests_total") == folded


def test_entries_that_are_alike_are_counted_as_many_as_they_are() -> None:
    one, _, alone = house(series_max=200)
    many, _, together = house(series_max=200)
    teams = tuple(Team(f"team-{number}", "tier-1") for number in range(210))
    entries = [
        entry(team=f"team-{number % 210}", status=(200, 429, None)[number % 3], usage_source=SOURCES[number % 4]) for number in range(500)
    ]
    entries += [entry(streamed=False, model_served="gpt-9", cost_picousd=None, ended_at_us=1_000_000 + 1_000 * n) for n in range(20)]
    for metrics in (one, many):
        metrics.configure(snapshot(teams=teams))
    for each in entries:
        one.observe([each])
    many.observe(entries)
    by_one, at_once = ours(alone), ours(together)
    for metric in ("gateway_tokens_total", "gateway_cost_usd_total"):  # sums are one sample, of however many entries
        place = ("gateway_metrics_overflow_total", frozenset({("metric", metric)}))
        assert 0 < at_once.pop(place) <= by_one.pop(place)
    assert at_once == pytest.approx(by_one)
    assert at_once["gateway_metrics_overflow_total", frozenset({("metric", "gateway_requests_total")})] > 0


def ours(shown: Shown) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {place: value for place, value in shown.all().items() if place[0].startswith("gateway_")}


@pytest.mark.parametrize("count", [-1, 0])
def test_a_foreign_number_does_not_stop_the_counters(count: int) -> None:
    metrics, _, shown = house()
    metrics.configure(snapshot())
    metrics.observe([entry(usage={Meter.INPUT_TEXT: count}, details={"reasoning_tokens": count}), ENTRY])
    assert shown.get("gateway_tokens_detail_total", team="voice", model="gpt-4o", detail="reasoning") == 25
    assert sum(shown.of("gateway_requests_total").values()) == 2


def test_known_series_leave_room_for_those_that_are_used() -> None:
    metrics, _, shown = house(series_max=20)
    metrics.configure(snapshot(teams=tuple(Team(f"team-{number}", "tier-1", models=("gpt-4o",)) for number in range(50))))
    for family in ("gateway_requests_total", "gateway_tokens_total", "gateway_cost_usd_total"):
        assert 0 < len(shown.of(family)) <= 10


def test_reports_move_gauges_and_add_counts() -> None:
    metrics, live, shown = house()
    metrics.configure(snapshot())
    first = Report(
        in_flight={"voice": 3, "gone": 1}, streams_active={"sse": 2}, connections=9,
        refusals=(Refusal("voice", "gpt-4o-latest", "chat/completions", "rpm", 429, 4), Refusal("voice", None, "files", None, 404, 1)),
        decisions=(Decided("voice", "rpm", "allow", 10), Decided("search", "tpm", "degraded", 2)),
        auth_failures={"unknown": 3}, loop_lags_us=(900, 40_000),
        journal_free_bytes=1_000, upstream_idle=4, upstream_busy=1,
    )  # fmt: skip
    live.report("w0", first)
    live.report("w1", Report(in_flight={"voice": 5}))
    live.report("w0", Report(in_flight={"voice": 1}, streams_active={"sse": 1}, auth_failures={"unknown": 1}))
    assert shown.get("gateway_requests_in_flight", team="voice") == 6
    assert shown.get("gateway_requests_in_flight", team="other") == 0
    assert shown.get("gateway_streams_active", kind="sse") == 1
    assert shown.get("gateway_auth_failures_total", reason="unknown") == 4
    assert shown.get("gateway_limit_decisions_total", team="voice", limit="rpm", decision="reject") == 4
    assert shown.get("gateway_limit_decisions_total", team="voice", limit="rpm", decision="allow") == 10
    assert shown.get("gateway_limit_decisions_total", team="search", limit="tpm", decision="degraded") == 2
    rejected = {"team": "voice", "outcome": "rejected"}
    assert shown.get("gateway_requests_total", model="gpt-4o", operation="chat/completions", status_class="429", **rejected) == 4
    assert shown.get("gateway_requests_total", model="none", operation="files", status_class="4xx", **rejected) == 1
    assert shown.get("gateway_event_loop_lag_seconds_bucket", le="0.001") == 1
    assert shown.get("gateway_event_loop_lag_seconds_count") == 2
    live.worker_gone("w1")
    live.worker_gone("never seen")
    assert shown.get("gateway_requests_in_flight", team="voice") == 1
    assert shown.get("gateway_connections_active", worker="w1") is None
    assert shown.get("gateway_journal_free_bytes", worker="w0") == 1_000


def test_gauges_follow_a_team_that_a_reload_takes_away() -> None:
    metrics, live, shown = house()
    metrics.configure(snapshot())
    live.report("w0", Report(in_flight={"voice": 3}))
    metrics.configure(snapshot(teams=TEAMS[1:]))
    live.report("w0", Report(in_flight={"voice": 2}))
    assert shown.get("gateway_requests_in_flight", team="voice") == 0
    assert shown.get("gateway_requests_in_flight", team="other") == 2


def reading(team: str | None, scope: Scope, subject: str, kind: LimitKind, capacity: int, used: int) -> LimitReading:
    return LimitReading(team, scope, subject, kind, capacity, used, capacity - used, 0)


def test_limits_show_the_fullest_bucket_of_a_label_and_no_key() -> None:
    metrics, live, shown = house()
    metrics.configure(snapshot())
    live.limits([reading("voice", "group", "group:gpt-4o", "tpm", 1_000, 250), reading("voice", "team", "team", "tpm", 9, 9)])
    live.limits(
        [
            reading("voice", "group", "group:gpt-4o", "tpm", 1_000, 500),
            reading("voice", "group", "group:gpt-4o", "tpm", 1_000, 400),
            reading("voice", "key", "key:a", "rpm", 10, 1),
            reading("voice", "key", "key:b", "rpm", 20, 10),
            reading(None, "account", "account:openai", "rpm", 100, 0),
        ]
    )
    assert shown.get("gateway_limit_used_ratio", team="voice", limit="tpm", scope="group:gpt-4o") == 0.5
    assert shown.get("gateway_limit_value", team="voice", limit="rpm", scope="key") == 20
    assert shown.get("gateway_limit_used_ratio", team="(all)", limit="rpm", scope="account:openai") == 0
    assert len(shown.of("gateway_limit_used_ratio")) == 3


def test_of_more_limits_than_series_the_fullest_are_shown() -> None:
    metrics, live, shown = house(series_max=10)
    teams = tuple(Team(f"team-{number}", "tier-1") for number in range(25))
    metrics.configure(snapshot(teams=teams))
    readings = [reading(team.name, "team", "team", "rpm", 100, number) for number, team in enumerate(teams)]
    for order in readings, list(reversed(readings)), [*readings[:-1], reading("team-24", "team", "team", "rpm", 100, 0)]:
        live.limits(order)
        fullest = sorted((each.used_units / 100 for each in order), reverse=True)[:10]
        assert sorted(shown.of("gateway_limit_used_ratio").values(), reverse=True) == fullest
        assert shown.of("gateway_limit_value").keys() == shown.of("gateway_limit_used_ratio").keys()
    assert shown.get("gateway_metrics_overflow_total", metric="gateway_limit_used_ratio") == 0


def test_zeros_of_teams_that_never_call_leave_room_for_the_refused() -> None:
    metrics, live, shown = house(series_max=30)
    teams = tuple(Team(f"team-{number}", "tier-1") for number in range(100))
    metrics.configure(snapshot(teams=teams))
    live.configure(snapshot(teams=teams), "1", "r")
    live.report("w0", Report(in_flight={"team-99": 2}, refusals=(Refusal("team-99", None, "files", "rpd", 429, 4),)))
    assert shown.get("gateway_limit_decisions_total", team="team-99", limit="rpd", decision="reject") == 4
    assert shown.get("gateway_requests_in_flight", team="team-99") == 2
    assert shown.get("gateway_limit_decisions_total", team="team-0", limit="rpd", decision="reject") == 0


def test_a_degraded_state_has_a_name_until_it_ends() -> None:
    _, live, shown = house()
    live.readiness({"ledger": "ledger_locked"}, ready=True)
    assert shown.get("gateway_degraded", check="ledger", state="ledger_locked") == 1
    live.readiness({}, ready=True)
    assert shown.of("gateway_degraded") == {}


def test_not_ready_is_told_apart_from_degraded() -> None:
    _, live, shown = house()
    assert shown.get("gateway_ready") == 0, "until the books have looked"
    for degraded, ready in ({"ledger": "locked"}, True), ({"workers": "none_serving"}, False), ({}, True):
        live.readiness(degraded, ready=ready)
        assert shown.get("gateway_ready") == ready


def test_the_build_is_shown_once_with_the_configuration_that_rules() -> None:
    _, live, shown = house()
    live.configure(snapshot(), "1.2", "deadbeef")
    live.configure(snapshot(config_hash="def"), "1.2", "deadbeef")
    ((labels, value),) = shown.of("gateway_build_info").items()
    assert (dict(labels)["config_hash"], value) == ("def", 1)


UNITS = ("seconds", "bytes", "usd", "ratio", "tokens", "info")
COUNTED_THINGS = (  # gauges and distributions of things, which have no unit
    "in_flight", "active", "open", "tokens_per_request", "series", "value", "ready", "degraded", "timestamp_seconds",
)  # fmt: skip


def test_names_follow_prometheus() -> None:
    metrics, live, shown = house()
    metrics.configure(snapshot())
    live.configure(snapshot(), "1", "r")
    metrics.observe([ENTRY])
    text = prometheus_client.generate_latest(shown.families.registry).decode()
    families = [family for family in text_string_to_metric_families(text) if family.name.startswith("gateway_")]
    names = [family.name for family in families]
    assert len(names) == len(set(names)) > 35
    for family in families:
        assert re.fullmatch(r"[a-z][a-z0-9_]+", family.name)
        assert family.documentation
        assert "_ms" not in family.name
        assert not family.name.endswith("_created")
        if family.type == "counter":
            assert f"# TYPE {family.name}_total counter" in text or f"# TYPE {family.name} counter" in text
            assert all(sample.name.endswith("_total") for sample in family.samples)
        else:
            assert not family.name.endswith("_total")
            assert family.name.endswith(UNITS + COUNTED_THINGS), family.name
        forbidden = {"user", "key", "ip", "request_id", "path", "exchange_id"}
        assert not any(forbidden & sample.labels.keys() for sample in family.samples)


def test_the_number_of_series_is_known() -> None:
    metrics, _, shown = house()
    metrics.configure(snapshot())
    metrics.observe([ENTRY])
    text = prometheus_client.generate_latest(shown.families.registry).decode()
    ours = [line for line in text.splitlines() if line.startswith("gateway_") and not line.startswith("gateway_metrics_")]
    assert shown.get("gateway_metrics_series") == len(ours)
