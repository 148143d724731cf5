"""What is true now: gauges and counts from workers' reports, limits, states and the configuration."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping

from gateway.admission.limits import KINDS
from gateway.config.snapshot import Snapshot
from gateway.control import LimitReading, Report
from gateway.metrics.entries import KNOWN_AT_START_SHARE, EntryMetrics
from gateway.metrics.families import Families

ALL_TEAMS = "(all)"  # of a limit that all teams share: an upstream account's
AUTH_REASONS = ("missing", "unknown", "revoked", "expired")


class LiveMetrics:
    """Gauges summed over workers, counts added up from their reports. A worker that is gone takes its gauges with it."""

    def __init__(self, families: Families, entries: EntryMetrics) -> None:
        self._to, self._entries = families, entries
        self._shown: dict[str, tuple[dict[str, int], dict[str, int]]] = {}  # by worker: what its gauges add
        self._config_hash: str | None = None
        for reason in AUTH_REASONS:
            families.auth_failures.child(reason)
        for result in ("ok", "error"):
            families.reloads.child(result)
        families.streams_active.child("sse")

    def configure(self, snapshot: Snapshot, version: str, revision: str) -> None:
        """A configuration rules from now on."""
        to, python = self._to, platform.python_version()
        if self._config_hash is not None:
            to.build_info.forget(version, revision, python, self._config_hash)
        self._config_hash = snapshot.config_hash
        to.build_info.child(version, revision, python, snapshot.config_hash).set(1)
        room = to.series_max // KNOWN_AT_START_SHARE  # the rest is for teams that call: zeros of others must not take their place
        for team in snapshot.teams[:room]:
            to.in_flight.child(team.name)
        for team in snapshot.teams[: room // len(KINDS)]:
            for limit in KINDS:
                to.limit_decisions.child(team.name, limit, "reject")

    def reloaded(self, result: str, at_s: float | None = None) -> None:
        """A reload ended: `ok` or `error`."""
        self._to.reloads.child(result).inc()
        if at_s is not None:
            self._to.reloaded_at.child().set(at_s)

    def report(self, worker: str, report: Report) -> None:
        """One second of one worker."""
        to, team = self._to, self._entries.team_label
        self._shift(worker, report)
        to.connections.child(worker).set(report.connections)
        to.upstream_connections.child(worker, "idle").set(report.upstream_idle)
        to.upstream_connections.child(worker, "busy").set(report.upstream_busy)
        if report.journal_free_bytes is not None:
            to.journal_free.child(worker).set(report.journal_free_bytes)
        for refused in report.refusals:
            label = team(refused.team)
            code = "429" if refused.status == 429 else f"{refused.status // 100}xx"
            model = self._entries.model_label(refused.model)
            to.requests.child(label, model, refused.operation, code, "rejected").inc(max(0, refused.count))
            if refused.limit is not None:
                to.limit_decisions.child(label, refused.limit, "reject").inc(max(0, refused.count))
        for decided in report.decisions:
            to.limit_decisions.child(team(decided.team), decided.limit, decided.decision).inc(max(0, decided.count))
        for reason, count in report.auth_failures.items():
            to.auth_failures.child(reason).inc(max(0, count))
        lag = to.loop_lag.child()
        for lag_us in report.loop_lags_us:
            lag.observe(lag_us / 1e6)

    def worker_gone(self, worker: str) -> None:
        """Nothing is known of this worker any more."""
        if worker not in self._shown:
            return
        self._shift(worker, Report())
        del self._shown[worker]
        to = self._to
        to.connections.forget(worker)
        to.journal_free.forget(worker)
        for state in ("idle", "busy"):
            to.upstream_connections.forget(worker, state)

    def limits(self, readings: Iterable[LimitReading]) -> None:
        """The buckets of all workers as they are. Of several with one label (keys; workers) the fullest is shown.

        Of more than the cap of series the fullest are shown: a share of one limit cannot be folded into another's.
        """
        used: dict[tuple[str, ...], float] = {}
        value: dict[tuple[str, ...], float] = {}
        for reading in readings:
            if reading.capacity_units <= 0:
                continue
            scope = "key" if reading.scope == "key" else reading.subject
            labels = (ALL_TEAMS if reading.team is None else self._entries.team_label(reading.team), reading.kind, scope)
            ratio = reading.used_units / reading.capacity_units
            if ratio >= used.get(labels, -1.0):
                used[labels], value[labels] = ratio, reading.capacity_units
        fullest = sorted(used, key=lambda labels: used[labels], reverse=True)[: self._to.series_max]
        self._to.limit_used.replace({labels: used[labels] for labels in fullest})
        self._to.limit_value.replace({labels: value[labels] for labels in fullest})

    def readiness(self, degraded: Mapping[str, str], *, ready: bool) -> None:
        """What /readyz says: every check that is not ok with the name of its state, and whether calls are carried."""
        self._to.ready.child().set(ready)
        self._to.degraded.replace(dict.fromkeys(degraded.items(), 1.0))

    def _shift(self, worker: str, report: Report) -> None:
        """Move the gauges by what changed since this worker's last report, under the labels they had then."""
        to, team = self._to, self._entries.team_label
        now = (
            (to.in_flight, _by_label(report.in_flight, team)),
            (to.streams_active, _by_label(report.streams_active, str)),
        )
        before = self._shown.get(worker, ({}, {}))
        self._shown[worker] = (now[0][1], now[1][1])
        for (series, values), old in zip(now, before, strict=True):
            for label in values.keys() | old.keys():
                change = values.get(label, 0) - old.get(label, 0)
                if change:
                    series.child(label).inc(change)


def _by_label(values: Mapping[str, int], label: Callable[[str], str]) -> dict[str, int]:
    summed: dict[str, int] = {}
    for name, value in values.items():
        summed[label(name)] = summed.get(label(name), 0) + value
    return summed
