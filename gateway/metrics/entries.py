"""What entries of the ledger tell Prometheus. Some twenty observations an entry: entries that are alike share the way to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from gateway.catalogue import Card
from gateway.config.snapshot import Snapshot
from gateway.journal.records import Entry
from gateway.metrics.costs import CostClasses
from gateway.metrics.distribution import Distribution
from gateway.metrics.families import OTHER, Families, Series
from gateway.pricing import cost_class
from gateway.units import PICOUSD_PER_USD, Meter

Name = TypeVar("Name", bound=str)

NONE = "none"  # the endpoint has no model

OUTCOMES = {
    "ok": "ok", "client_error": "client_error", "upstream_error": "upstream_error", "upstream_timeout": "upstream_timeout",
    "client_gone": "client_abort", "gateway_error": "gateway_error", "unknown": "unknown",
}  # fmt: skip
SOURCES = {"reported": "upstream_usage", "estimated": "estimate", "unknown": "none", "not_billed": "not_billed"}
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

KNOWN_OPERATIONS: tuple[str, ...] = ("chat/completions", "responses", "embeddings")
KNOWN_OUTCOMES = (("2xx", "ok"), ("429", "rejected"), ("5xx", "upstream_error"))
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

        Without that, increase() misses the first step of a series that is born with it. Teams with `*` are left out: too many.
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
                room -= self._make_known(team.name, cards[model], room)
                if room < 0:
                    return

    def _make_known(self, team: str, card: Card, room: int) -> int:
        """Show what the card has a price for as 0, if no family gets more than `room` series by it; how many one gets at most."""
        to, model = self._to, card.model
        operations = [operation for operation in KNOWN_OPERATIONS if operation in card.endpoints]
        priced = [meter for meter in (card.prices[-1].standard if card.prices else {}) if meter in TOKENS]
        requests = [(operation, *ended) for operation in operations for ended in KNOWN_OUTCOMES]
        tokens, classes = {TOKENS[meter] for meter in priced}, {cost_class(meter) for meter in priced}
        most = max(len(requests), len(tokens), len(classes))
        if most > room:
            return most
        for request in requests:
            to.requests.child(team, model, *request)
        for kind in sorted(tokens):
            to.tokens.child(team, model, *kind)
        for name in sorted(classes):
            to.cost.child(team, model, name.value)
        if CACHE_READ.intersection(priced):
            to.tokens_detail.child(team, model, "cache_read")
        if card.reasoning:
            to.tokens_detail.child(team, model, "reasoning")
        to.unpriced.child(model, "missing_price")
        return most

    def model_label(self, name: str | None) -> str:
        """The card's model for any of its names; `other` for what the catalogue does not know, `none` for no model."""
        return NONE if name is None else self._models.get(name, OTHER)

    def team_label(self, name: str) -> str:
        """The team, if it is configured."""
        return name if name in self._teams else OTHER

    def observe(self, entries: Iterable[Entry]) -> None:
        """Count entries that became effective, each the first of its exchange. Those that are alike are counted together.

        Tokens and cost of such a group are one sample each: beyond the cap of series it is counted as one that was folded.
        """
        alike: dict[tuple[Any, ...], list[Entry]] = {}
        for entry in entries:
            model = entry.model_served or entry.model_asked
            kind = (entry.team, model, entry.endpoint, entry.account, entry.status, entry.outcome, entry.usage_source, entry.streamed)
            alike.setdefault(kind, []).append(entry)
        for group in alike.values():
            first = group[0]
            team, model = self.team_label(first.team), self.model_label(first.model_served or first.model_asked)
            self._count_requests(team, model, group)
            if first.outcome != "unknown":  # of a dead worker: nobody knows when it ended
                self._observe_times(team, model, group)
            self._observe_usage(team, model, group)
            if first.usage_source == "reported":
                self._observe_sizes(model, group)

    def correct(self, new: Entry, old: Entry) -> None:
        """Count what an entry has more than the one that it supersedes."""
        team, model = self.team_label(new.team), self.model_label(new.model_served or new.model_asked)
        self._count_tokens(team, model, _more(new.usage, old.usage))
        self._count_details(team, model, _more(new.details, old.details))
        self._count_cost(team, model, _more(self._costs.of(new), self._costs.of(old)))

    def _account_label(self, name: str) -> str:
        return name if name in self._accounts else OTHER

    def _count_requests(self, team: str, model: str, group: list[Entry]) -> None:
        to, first, count = self._to, group[0], len(group)
        outcome = OUTCOMES.get(first.outcome, OTHER)
        code = outcome if first.status is None else str(first.status)
        to.requests.child(team, model, first.endpoint, status_class(first), outcome, samples=count).inc(count)
        to.upstream_requests.child(self._account_label(first.account), model, code, samples=count).inc(count)
        to.usage_source.child(SOURCES[first.usage_source]).inc(count)
        to.body.child(first.endpoint, samples=count).observe(*[entry.body_bytes for entry in group])
        unpriced = sum([entry.cost_picousd is None for entry in group])
        if unpriced and first.usage_source != "not_billed":
            reason = "unknown_model" if model in (OTHER, NONE) else "missing_price"
            to.unpriced.child(model, reason, samples=unpriced).inc(unpriced)

    def _observe_times(self, team: str, model: str, group: list[Entry]) -> None:
        to, first = self._to, group[0]
        seconds = [_seconds(entry) for entry in group]
        _observe(to.duration, (model, first.endpoint, "true" if first.streamed else "false"), seconds)
        _observe(to.team_duration, (team,), seconds)
        timings = [entry.timings_us for entry in group]
        _observe(to.overhead, (), [each["overhead"] / 1e6 for each in timings if "overhead" in each])
        upstream = [(each["last"] - each["sent"]) / 1e6 for each in timings if "last" in each and "sent" in each]
        _observe(to.upstream_duration, (self._account_label(first.account), model), upstream)
        if first.streamed:
            _observe(to.first_token, (model, first.endpoint), [each["first_token"] / 1e6 for each in timings if "first_token" in each])
            if first.usage_source == "reported":
                _observe(to.per_token, (model,), [each for each in map(_seconds_per_token, group) if each is not None])

    def _observe_usage(self, team: str, model: str, group: list[Entry]) -> None:
        tokens: dict[Meter, int] = {}
        details: dict[str, int] = {}
        picousd: dict[str, int] = {}
        for entry in group:
            _add(tokens, entry.usage)
            _add(details, entry.details)
            _add(picousd, self._costs.of(entry))
        self._count_tokens(team, model, tokens)
        self._count_details(team, model, details)
        self._count_cost(team, model, picousd)

    def _observe_sizes(self, model: str, group: list[Entry]) -> None:
        """Of calls whose usage was reported: how large they were, and by how much the estimate was off."""
        sizes = [(_tokens(entry, "input"), _tokens(entry, "output"), entry.ask_tokens) for entry in group]
        _observe(self._to.tokens_per_request, (model, "input"), [count for count, _, _ in sizes if count])
        _observe(self._to.tokens_per_request, (model, "output"), [count for _, count, _ in sizes if count])
        errors = [(ask - (i + o)) / (i + o) for i, o, ask in sizes if ask is not None and i + o]
        _observe(self._to.estimate_error, (model,), errors)

    def _count_tokens(self, team: str, model: str, tokens: Mapping[Meter, int]) -> None:
        to = self._to
        for meter, count in tokens.items():
            place = TOKENS.get(meter)
            if place is None:
                continue
            to.tokens.child(team, model, *place).inc(count)
            if meter in CACHE_READ:
                to.tokens_detail.child(team, model, "cache_read").inc(count)
            elif meter in CACHE_WRITE:
                to.tokens_detail.child(team, model, "cache_write").inc(count)

    def _count_details(self, team: str, model: str, details: Mapping[str, int]) -> None:
        for name, count in details.items():
            if name in DETAILS:
                self._to.tokens_detail.child(team, model, DETAILS[name]).inc(count)

    def _count_cost(self, team: str, model: str, picousd: Mapping[str, int]) -> None:
        for kind, cost_picousd in picousd.items():
            self._to.cost.child(team, model, kind).inc(cost_picousd / PICOUSD_PER_USD)


def _observe(series: Series[Distribution], labels: tuple[str, ...], values: list[float]) -> None:
    """Nothing seen makes no series."""
    if values:
        series.child(*labels, samples=len(values)).observe(*values)


def _add(total: dict[Name, int], more: Mapping[Name, int]) -> None:
    """Counters cannot go down, and a foreign number that is negative must not stop the books."""
    for name, count in more.items():
        if count >= 0:
            total[name] = total.get(name, 0) + count


def _more(new: Mapping[Name, int], old: Mapping[Name, int]) -> dict[Name, int]:
    """What counters can go up by."""
    return {name: max(0, count - old.get(name, 0)) for name, count in new.items()}


def _tokens(entry: Entry, direction: str) -> int:
    return sum([count for meter, count in entry.usage.items() if meter in TOKENS and TOKENS[meter][0] == direction])


def _seconds(entry: Entry) -> float:
    """Arrival to last byte, of the clock that the first token is told by, so that it never comes after the end. Else from admission."""
    last_us = entry.timings_us.get("last")
    return (entry.ended_at_us - entry.admitted_at_us if last_us is None else last_us) / 1e6


def _seconds_per_token(entry: Entry) -> float | None:
    """Mean time from the first token on, all moments of the worker's one clock; None: there is no such time.

    Not from `admitted_at_us`, which comes after the wait for a connection that the first token's time includes.
    """
    first_us, last_us = entry.timings_us.get("first_token"), entry.timings_us.get("last")
    tokens = _tokens(entry, "output")
    if first_us is None or last_us is None or last_us < first_us or tokens < 2:
        return None
    return (last_us - first_us) / 1e6 / (tokens - 1)


def status_class(entry: Entry) -> str:
    """2xx, 4xx, 429, 5xx, as OpenAI answered; without an answer 499 when the client left, none when nobody knows, else 5xx."""
    if entry.status is None:
        return {"client_gone": "499", "unknown": "none"}.get(entry.outcome, "5xx")
    if entry.status == 429:
        return "429"
    return f"{entry.status // 100}xx"
