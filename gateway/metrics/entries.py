"""What entries of the ledger tell Prometheus. Some twenty observations an entry, each through a cached child."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.config.snapshot import Snapshot
from gateway.journal.records import Entry
from gateway.metrics.costs import CostClasses
from gateway.metrics.families import OTHER, Families
from gateway.units import PICOUSD_PER_USD, Meter

NONE = "none"  # the endpoint has no model

OUTCOMES = {
    "ok": "ok", "client_error": "client_error", "upstream_error": "upstream_error", "upstream_timeout": "upstream_timeout",
    "client_gone": "client_abort", "gateway_error": "gateway_error", "unknown": "unknown",
}  # fmt: skip
SOURCES = {"reported": "upstream_usage", "estimated": "estimate", "unknown": "none", "not_billed": "not_billed"}
PHASES = {
    "overhead": "total", "overhead_auth": "auth", "overhead_limit": "limit", "overhead_parse": "parse",
    "overhead_connect_wait": "connect_wait", "overhead_relay": "relay",
}  # fmt: skip
DETAILS = {
    "reasoning_tokens": "reasoning",
    "accepted_prediction_tokens": "prediction_accepted",
    "rejected_prediction_tokens": "prediction_rejected",
}
TOKENS = {
    Meter.INPUT_TEXT: ("input", "text"), Meter.INPUT_AUDIO: ("input", "audio"), Meter.INPUT_IMAGE: ("input", "image"),
    Meter.CACHED_TEXT: ("input", "text"), Meter.CACHED_AUDIO: ("input", "audio"), Meter.CACHED_IMAGE: ("input", "image"),
    Meter.CACHE_WRITE_TEXT: ("input", "text"), Meter.CACHE_WRITE_12H_TEXT: ("input", "text"),
    Meter.OUTPUT_TEXT: ("output", "text"), Meter.OUTPUT_AUDIO: ("output", "audio"), Meter.OUTPUT_IMAGE: ("output", "image"),
}  # fmt: skip
CACHE_READ = {Meter.CACHED_TEXT, Meter.CACHED_AUDIO, Meter.CACHED_IMAGE}
CACHE_WRITE = {Meter.CACHE_WRITE_TEXT, Meter.CACHE_WRITE_12H_TEXT}

KNOWN_OPERATIONS: tuple[str, ...] = ("chat/completions", "responses")
KNOWN_AT_START_SHARE = 2  # at most 1/2 of a family's series are made before they are needed


class EntryMetrics:
    """Counts and times from entries that became effective.

    A correction that supersedes an entry is not a second request: only tokens and cost are counted, and of them only what the
    new one has more. Counters cannot go down, so an entry that is corrected downwards stays too high here: the ledger is the truth.
    """

    def __init__(self, families: Families, series_max: int) -> None:
        self._to = families
        self._costs = CostClasses()
        self._known_max = series_max // KNOWN_AT_START_SHARE
        self._teams: frozenset[str] = frozenset()
        self._accounts: frozenset[str] = frozenset()
        self._models: dict[str, str] = {}
        for source in SOURCES.values():
            families.usage_source.child(source)
        for result in ("written", "duplicate", "failed"):
            families.ledger_records.child(result)

    def configure(self, snapshot: Snapshot) -> None:
        """Take the label values of a configuration, and show the series it makes likely as 0.

        Without that, increase() misses the first step of a series that is born at 1. Teams with `*` are left out: too many.
        """
        self._teams = frozenset(team.name for team in snapshot.teams)
        self._accounts = frozenset(account.name for account in snapshot.settings.accounts)
        self._costs = CostClasses(snapshot)
        cards = snapshot.catalogue.by_name()
        self._models = {name: card.model for name, card in cards.items()}
        room = self._known_max
        for team in snapshot.teams:
            models = {self._models[name] for name in team.models if name in self._models}
            for model in sorted(models):
                operations = [operation for operation in KNOWN_OPERATIONS if operation in cards[model].endpoints]
                room -= 3 * len(operations)
                if room < 0:
                    return
                self._make_known(team.name, model, operations)

    def _make_known(self, team: str, model: str, operations: list[str]) -> None:
        to = self._to
        for operation in operations:
            to.requests.child(team, model, operation, "2xx", "ok")
            to.requests.child(team, model, operation, "429", "rejected")
            to.requests.child(team, model, operation, "5xx", "upstream_error")
        for direction in ("input", "output"):
            to.tokens.child(team, model, direction, "text")
            to.cost.child(team, model, direction)
        to.unpriced.child(model, "missing_price")

    def model_label(self, name: str | None) -> str:
        """The card's model for any of its names; `other` for what the catalogue does not know, `none` for no model."""
        return NONE if name is None else self._models.get(name, OTHER)

    def team_label(self, name: str) -> str:
        """The team, if it is configured."""
        return name if name in self._teams else OTHER

    def observe(self, entry: Entry, supersedes: Entry | None = None) -> None:
        """Count one entry that became effective. `supersedes`: the entry that was effective until now for the same exchange."""
        team, model = self.team_label(entry.team), self.model_label(entry.model_served or entry.model_asked)
        self._observe_usage(team, model, entry, supersedes)
        if supersedes is not None:
            return
        self._observe_request(team, model, entry)
        if entry.outcome != "unknown":  # of a dead worker: nobody knows when it ended
            self._observe_times(team, model, entry)

    def _observe_request(self, team: str, model: str, entry: Entry) -> None:
        to, account = self._to, entry.account if entry.account in self._accounts else OTHER
        outcome = OUTCOMES.get(entry.outcome, OTHER)
        to.requests.child(team, model, entry.endpoint, status_class(entry), outcome).inc()
        to.upstream_requests.child(account, model, outcome if entry.status is None else str(entry.status)).inc()
        to.usage_source.child(SOURCES[entry.usage_source]).inc()
        to.body.child(entry.endpoint).observe(entry.body_bytes)
        if entry.cost_picousd is None and entry.usage_source != "not_billed":
            to.unpriced.child(model, "unknown_model" if model in (OTHER, NONE) else "missing_price").inc()

    def _observe_times(self, team: str, model: str, entry: Entry) -> None:
        to, timings = self._to, entry.timings_us
        duration_us = entry.ended_at_us - entry.admitted_at_us
        to.duration.child(model, entry.endpoint, "true" if entry.streamed else "false").observe(duration_us / 1e6)
        to.team_duration.child(team).observe(duration_us / 1e6)
        for name, spent_us in timings.items():
            phase = PHASES.get(name)
            if phase is not None:
                to.overhead.child(phase).observe(spent_us / 1e6)
        sent_us, last_us, first_us = timings.get("sent"), timings.get("last"), timings.get("first_token")
        if sent_us is not None and last_us is not None:
            account = entry.account if entry.account in self._accounts else OTHER
            to.upstream_duration.child(account, model).observe((last_us - sent_us) / 1e6)
        if entry.streamed and first_us is not None:
            to.first_token.child(model, entry.endpoint).observe(first_us / 1e6)
            tokens = sum(count for meter, count in entry.usage.items() if meter in TOKENS and TOKENS[meter][0] == "output")
            if entry.usage_source == "reported" and tokens > 1:
                to.per_token.child(model).observe((duration_us - first_us) / 1e6 / (tokens - 1))

    def _observe_usage(self, team: str, model: str, entry: Entry, before: Entry | None) -> None:
        to = self._to
        input_tokens = output_tokens = 0
        old_usage: Mapping[Meter, int] = {} if before is None else before.usage
        for meter, count in entry.usage.items():
            place = TOKENS.get(meter)
            if place is None:
                continue
            if place[0] == "input":
                input_tokens += count
            else:
                output_tokens += count
            more = max(0, count - old_usage.get(meter, 0))
            to.tokens.child(team, model, *place).inc(more)
            if meter in CACHE_READ:
                to.tokens_detail.child(team, model, "cache_read").inc(more)
            elif meter in CACHE_WRITE:
                to.tokens_detail.child(team, model, "cache_write").inc(more)
        for name, count in entry.details.items():
            detail = DETAILS.get(name)
            if detail is not None:
                to.tokens_detail.child(team, model, detail).inc(max(0, count - (before.details.get(name, 0) if before else 0)))
        self._observe_cost(team, model, entry, before)
        if entry.usage_source != "reported":
            return
        for direction, count in (("input", input_tokens), ("output", output_tokens)):
            if count:
                to.tokens_per_request.child(model, direction).observe(count)
        settled = input_tokens + output_tokens
        if entry.ask_tokens is not None and settled:
            to.estimate_error.child(model).observe((entry.ask_tokens - settled) / settled)

    def _observe_cost(self, team: str, model: str, entry: Entry, before: Entry | None) -> None:
        if not entry.cost_picousd:
            return
        old: Mapping[str, int] = {} if before is None else self._costs.of(before)
        for cost_class, picousd in self._costs.of(entry).items():
            self._to.cost.child(team, model, cost_class).inc(max(0, picousd - old.get(cost_class, 0)) / PICOUSD_PER_USD)


def status_class(entry: Entry) -> str:
    """2xx, 4xx, 429, 5xx, as OpenAI answered; without an answer 499 when the client left, none when nobody knows, else 5xx."""
    if entry.status is None:
        return {"client_gone": "499", "unknown": "none"}.get(entry.outcome, "5xx")
    if entry.status == 429:
        return "429"
    return f"{entry.status // 100}xx"
