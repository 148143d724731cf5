"""The first dashboard: is the gateway well, what goes through it, what does it cost, how fast is it, and who is at a limit?"""

from __future__ import annotations

from gateway.dashboards.panels import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    YELLOW,
    Json,
    Panel,
    Query,
    Row,
    bar_gauge,
    dashboard,
    event,
    stat,
    table,
    timeseries,
)
from gateway.dashboards.variables import Variable

UID = "gateway-overview"  # in links and bookmarks: never another
VARIABLES = (
    Variable("job", "gateway_build_info", "The scrape job of Prometheus."),
    Variable(
        "team",
        "gateway_requests_total",
        "Teams that called, or may. `other`: beyond the cap of series, or no longer configured.",
    ),
    Variable("model", "gateway_requests_total", "Models by their card. `other`: on no card; `none`: the endpoint has no model."),
    Variable("account", "gateway_upstream_requests_total", "Upstream accounts; narrows what is said of the upstream."),
)
RELOADS = event(
    "Configuration reloaded", 'gateway_config_last_reload_success_timestamp_seconds{job=~"$job"} * 1000', "on {{instance}}", BLUE
)
OUTCOMES = {
    "ok": GREEN, "rejected": YELLOW, "client_error": PURPLE, "client_abort": GREY, "upstream_error": ORANGE, "upstream_timeout": ORANGE,
    "gateway_error": RED, "unknown": RED,
}  # fmt: skip
QUANTILES = {"p50": "0.5", "p95": "0.95", "p99": "0.99"}
QUANTILE_COLORS = {"p50": GREEN, "p95": YELLOW, "p99": RED}
NEARLY_FULL = ((0.7, YELLOW), (0.9, RED))
OF_JOB = 'job=~"$job"'
OF_TEAM = f'{OF_JOB},team=~"$team"'
OF_CALL = f'{OF_TEAM},model=~"$model"'
REJECTED = f'{OF_CALL},outcome="rejected"'
FAILED = f'{OF_CALL},outcome=~"gateway_error|upstream_error|upstream_timeout|unknown"'


def rate(metric: str, selector: str) -> str:
    """Events a second, of each series."""
    return f"rate({metric}{{{selector}}}[$__rate_interval])"


def share(part: str, whole: str) -> str:
    """A part of a whole, 0 where there is neither."""
    return f"(sum({part}) or vector(0)) / clamp_min(sum({whole}), 1e-9)"


def quantile(metric: str, selector: str, name: str) -> str:
    """A quantile of a histogram over everything that is selected."""
    return f"histogram_quantile({QUANTILES[name]}, sum by (le) ({rate(f'{metric}_bucket', selector)}))"


def latency(title: str, description: str, metric: str, selector: str, width: int = 6) -> Panel:
    """p50, p95 and p99 of a histogram of seconds."""
    queries = [Query(quantile(metric, selector, name), name) for name in QUANTILES]
    return timeseries(title, description, "s", *queries, width=width, colors=QUANTILE_COLORS)


def at_a_glance() -> Row:
    """One line of numbers that tells whether to read on."""
    calls, refused = rate("gateway_requests_total", OF_CALL), rate("gateway_requests_total", REJECTED)
    ready = stat(
        "Ready", "Whether /readyz of every scraped gateway says yes. No also when Prometheus cannot scrape one.", "bool_yes_no",
        Query(f"min(gateway_ready{{{OF_JOB}}} or up{{{OF_JOB}}})", "ready", instant=True), width=3, base=RED, steps=((1, GREEN),),
    )  # fmt: skip
    degraded = stat(
        "Degraded", "Every check of /readyz that is not ok, and the name of its state; /readyz itself says the details.", "short",
        Query(f"max by (check, state) (gateway_degraded{{{OF_JOB}}})", "{{check}}: {{state}}", instant=True), width=5,
        steps=((1, ORANGE),), text="name", none="nothing",
    )  # fmt: skip
    return Row("", (
        ready, degraded,
        stat("Calls", "Finished calls a second, refused ones too.", "reqps", Query(f"sum({calls})", "calls"), width=3),
        stat("Failed", "Share of calls that ended by a fault of the upstream or of the gateway, or nobody knows how.", "percentunit",
             Query(share(rate("gateway_requests_total", FAILED), calls), "failed"), width=3, steps=((0.01, YELLOW), (0.05, RED))),
        stat("Refused", "Share of calls that the gateway refused: limits, and models, paths or bodies that may not pass.", "percentunit",
             Query(share(refused, calls), "refused"), width=3, steps=((0.01, YELLOW), (0.1, ORANGE))),
        stat("Own overhead, p99", "What the gateway itself adds to a call, without waits for client, connection or upstream.", "s",
             Query(quantile("gateway_overhead_seconds", OF_JOB, "p99"), "p99"), width=3, steps=((0.005, YELLOW), (0.025, RED))),
        stat("Cost in this range", "List price of the calls in the dashboard's time range, estimated from samples: the ledger (`gateway "
             "usage`) is exact.", "currencyUSD",
             Query(f"sum(increase(gateway_cost_usd_total{{{OF_CALL}}}[$__range]))", "cost", instant=True), width=4),
    ))  # fmt: skip


def calls() -> Row:
    """How many, how they ended, of which models."""
    finished = rate("gateway_requests_total", OF_CALL)
    return Row("Calls", (
        timeseries("Calls by outcome", "Finished calls a second by how they ended. `rejected`: by the gateway; `client_error`: by OpenAI.",
                   "reqps", Query(f"sum by (outcome) ({finished})", "{{outcome}}"), width=9, stacked=True, colors=OUTCOMES),
        timeseries("Calls by model", "Finished calls a second by the model's card.", "reqps",
                   Query(f"sum by (model) ({finished})", "{{model}}"), width=9, stacked=True),
        timeseries("In flight", "Calls inside the gateway and open streams, as workers report each second. Streams and connections are of "
                   "all teams.", "short",
                   Query(f"sum(gateway_requests_in_flight{{{OF_TEAM}}})", "calls"),
                   Query(f"sum by (kind) (gateway_streams_active{{{OF_JOB}}})", "{{kind}} streams"),
                   Query(f"sum(gateway_connections_active{{{OF_JOB}}})", "client connections"), width=6),
    ))  # fmt: skip


def tokens_and_cost() -> Row:
    """What was used, of which kind, and for how much."""
    spent = f"increase(gateway_cost_usd_total{{{OF_CALL}}}[$__range])"
    return Row("Tokens and cost", (
        timeseries("Tokens a minute by kind", "Billed tokens by direction and modality; the kinds are disjoint, their sum is all.", "short",
                   Query(f"60 * sum by (direction, modality) ({rate('gateway_tokens_total', OF_CALL)})", "{{direction}} {{modality}}"),
                   width=8, stacked=True, axis="tokens / min"),
        timeseries("Of these: cached, reasoning, predicted", "Parts of the tokens beside, never to be added to them.", "short",
                   Query(f"60 * sum by (detail) ({rate('gateway_tokens_detail_total', OF_CALL)})", "{{detail}}"),
                   width=8, axis="tokens / min"),
        timeseries("Cost an hour by kind", "What an hour at this pace costs at list price.", "currencyUSD",
                   Query(f"3600 * sum by (cost_class) ({rate('gateway_cost_usd_total', OF_CALL)})", "{{cost_class}}"),
                   width=8, stacked=True, axis="USD / hour"),
        table("Cost by team", "The teams that spent most in the dashboard's time range. A team's name selects it.", "currencyUSD",
              Query(f"topk(20, sum by (team) ({spent}) > 0)", instant=True), width=12, height=8, shown="cost", link="team", uid=UID),
        table("Cost by model", "The models that cost most in the dashboard's time range. A model's name selects it.", "currencyUSD",
              Query(f"topk(20, sum by (model) ({spent}) > 0)", instant=True), width=12, height=8, shown="cost", link="model", uid=UID),
    ))  # fmt: skip


def latencies() -> Row:
    """Where the time goes: the whole, OpenAI's part, the gateway's part."""
    of_model = f'{OF_JOB},model=~"$model"'
    return Row("Latency (of all teams)", (
        latency("Whole call", "From the call's arrival to its last byte written.", "gateway_request_duration_seconds", of_model),
        latency("Upstream", "From the request sent to the last byte of OpenAI's answer.", "gateway_upstream_duration_seconds",
                f'{of_model},account=~"$account"'),
        latency("Gateway's own overhead", "What the gateway itself adds, of all models; waits for the client, a connection or the upstream "
                "are not in it.", "gateway_overhead_seconds", OF_JOB),
        latency("First token", "From the call's arrival to the first chunk with content; streams only.",
                "gateway_time_to_first_token_seconds", of_model),
    ))  # fmt: skip


def refusals() -> Row:
    """Who was not let in, and why."""
    refused = rate("gateway_limit_decisions_total", f'{OF_TEAM},decision!="allow"')
    return Row("Refusals", (
        timeseries("Refused by limit", "Calls a second that a limit refused (`reject`), or would have without shadow mode (`degraded`).",
                   "reqps", Query(f"sum by (limit, decision) ({refused})", "{{limit}} {{decision}}"), width=8, stacked=True),
        timeseries("Refused by answer", "Calls a second by what the gateway answered: 429 is a limit or budget, 4xx a call that may not "
                   "pass, 5xx an upstream or journal that is not there.", "reqps",
                   Query(f"sum by (status_class) ({rate('gateway_requests_total', REJECTED)})", "{{status_class}}"),
                   width=8, stacked=True, colors={"429": YELLOW, "4xx": PURPLE, "5xx": RED}),
        timeseries("Callers without a valid key", "Calls a second of nobody's: they belong to no team.", "reqps",
                   Query(f"sum by (reason) ({rate('gateway_auth_failures_total', OF_JOB)})", "{{reason}}"), width=8, stacked=True),
    ))  # fmt: skip


def limits() -> Row:
    """Who is near a limit, and who was held by one."""
    used = "gateway_limit_used_ratio"
    refused = f'increase(gateway_limit_decisions_total{{{OF_TEAM},decision="reject"}}[$__range])'
    return Row("Limits in use", (
        bar_gauge("Fullest limits now", "Used share of the limits nearest to full: team, limit, and what it is of. `(all)`: an upstream "
                  "account's, which all teams share.", "percentunit",
                  Query(f"topk(12, max by (team, limit, scope) ({used}{{{OF_TEAM}}}))", "{{team}} {{limit}} {{scope}}", instant=True),
                  width=12, height=9, steps=NEARLY_FULL),
        timeseries("Fullest limit by kind", "Used share of the fullest limit of each kind: requests a minute and a day, tokens a minute.",
                   "percentunit", Query(f"max by (limit) ({used}{{{OF_TEAM}}})", "{{limit}}"), width=12, height=9, top=1),
        table("Teams held by a limit", "Calls refused by a limit in the dashboard's time range. A team's name selects it.", "short",
              Query(f"topk(20, sum by (team, limit) ({refused}) > 0)", instant=True),
              width=12, height=7, shown="refused", link="team", uid=UID),
        bar_gauge("Accounts' limits now", "Used share of what OpenAI grants each account, which all teams share.", "percentunit",
                  Query(f'topk(12, max by (limit, scope) ({used}{{{OF_JOB},team="(all)",scope=~"account:$account:.+"}}))',
                        "{{scope}} {{limit}}", instant=True), width=12, height=7, steps=NEARLY_FULL),
    ))  # fmt: skip


def books() -> Row:
    """Whether what passes is written down and priced. Closed: the degraded states at the top tell when to open it."""
    sources = rate("gateway_usage_source_total", OF_JOB)
    not_told = rate("gateway_usage_source_total", f'{OF_JOB},source=~"estimate|none"')
    return Row("Books", (
        timeseries("Ledger behind", "Age of the oldest record that is not in the ledger yet, at most.", "s",
                   Query(f"max by (instance) (gateway_ledger_lag_seconds{{{OF_JOB}}})", "{{instance}}"), width=5),
        timeseries("Usage not reported", "Share of calls whose usage was estimated or is unknown: OpenAI never told it.", "percentunit",
                   Query(share(not_told, sources), "estimated or unknown"), width=5),
        timeseries("Unpriced calls", "Calls with usage and no price: their cost is missing above.", "short",
                   Query("sum by (model, reason) (increase(gateway_unpriced_requests_total"
                         f'{{{OF_JOB},model=~"$model"}}[$__rate_interval])) > 0', "{{model}} {{reason}}"), width=5, stacked=True),
        latency("Event loop lag", "How late the workers' loops are: above some milliseconds a core is full.",
                "gateway_event_loop_lag_seconds", OF_JOB, width=5),
        timeseries("Beyond the cap of series", "Samples counted under `other` because a metric has `metrics.series_max` series.", "short",
                   Query(f"sum(increase(gateway_metrics_overflow_total{{{OF_JOB}}}[$__rate_interval]))", "samples"), width=4),
    ), collapsed=True)  # fmt: skip


def overview() -> Json:
    """The dashboard `gateway-overview`."""
    return dashboard(
        UID,
        "Gateway: overview",
        "Is the gateway well, what goes through it, what does it cost, how fast is it, and who is at a limit?",
        VARIABLES,
        (RELOADS,),
        (at_a_glance(), calls(), tokens_and_cost(), latencies(), refusals(), limits(), books()),
    )
