"""Every state of /readyz has its name and its level."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.admin import Check
from gateway.books.readiness import (
    LEDGER_LAG_MAX_S,
    buckets_checks,
    config_check,
    journal_checks,
    ledger_check,
    settings_check,
    workers_checks,
)
from gateway.control import Report, WorkerLink
from gateway.journal.reader import Gap


class Link(WorkerLink):
    """A link as it would be after what it was told."""

    def __init__(self, worker: str, *, connected: bool = True, **known: Any) -> None:
        super().__init__(worker, Path("nowhere"), None)  # type: ignore[arg-type]
        self.is_connected = connected
        self.taken_version = 3
        for name, value in known.items():
            setattr(self, name, value)

    @property
    def connected(self) -> bool:
        return self.is_connected


def shown(checks: tuple[Check, ...]) -> dict[str, str]:
    return {check.name: f"{check.level} {check.state}" for check in checks}


WELL = {"workers": "ok ok", "worker:w0": "ok ok"}
ONE_WORKER = [
    ("serving", {}, WELL),
    ("serving, and has reported", {"report": Report()}, WELL),
    ("not connected", {"connected": False}, {"workers": "failed none_serving", "worker:w0": "failed not_connected"}),
    ("connected a moment ago", {"taken_version": None}, {"workers": "failed none_serving", "worker:w0": "failed without_configuration"}),
    (
        "will not take the configuration",
        {"taken_version": None, "problem": "no"},
        {"workers": "failed none_serving", "worker:w0": "failed configuration_refused"},
    ),
    ("has the configuration before", {"taken_version": 2}, {"workers": "ok ok", "worker:w0": "degraded other_configuration"}),
    (
        "has no room in its journal",
        {"report": Report(journal_ready=False, journal_state="full")},
        {"workers": "failed none_serving", "worker:w0": "failed journal_full"},
    ),
    (
        "has a journal whose disk failed",
        {"report": Report(journal_ready=False, journal_state="failed", journal_free_bytes=0)},
        {"workers": "failed none_serving", "worker:w0": "failed journal_failed"},
    ),
    ("is draining", {"report": Report(draining=True)}, {"workers": "failed none_serving", "worker:w0": "failed draining"}),
]


@pytest.mark.parametrize("known,states", [row[1:] for row in ONE_WORKER], ids=[row[0] for row in ONE_WORKER])
def test_a_worker_that_does_not_serve_is_named(known: dict[str, Any], states: dict[str, str]) -> None:
    assert shown(workers_checks([Link("w0", **known)], version=3, wanted=1)) == states


def test_one_worker_that_serves_keeps_the_gateway_ready() -> None:
    checks = workers_checks([Link("w0"), Link("w1", connected=False)], version=3, wanted=2)
    assert shown(checks) == {"workers": "degraded some_missing", "worker:w0": "ok ok", "worker:w1": "degraded not_connected"}


def test_without_workers_nothing_is_carried() -> None:
    assert shown(workers_checks([], version=1, wanted=1)) == {"workers": "failed none_serving"}


LEDGER = [
    ("well", "ok", LEDGER_LAG_MAX_S, "ok ok"),
    ("behind", "ok", LEDGER_LAG_MAX_S + 1, "degraded lagging"),
    ("away", "unavailable", 0.0, "degraded unavailable"),
]


@pytest.mark.parametrize("state,lag_s,said", [row[1:] for row in LEDGER], ids=[row[0] for row in LEDGER])
def test_the_ledger_only_degrades(state: str, lag_s: float, said: str) -> None:
    assert shown((ledger_check(state, "", lag_s),)) == {"ledger": said}


def test_journals_with_holes_and_journals_that_cannot_be_read_are_told() -> None:
    gap = Gap("w0", 1, 1, 0, 1, "records are missing before this one")
    assert shown(journal_checks({}, {})) == {"journal": "ok ok"}
    assert shown(journal_checks({"w0": gap}, {})) == {"journal:w0": "degraded gap_found"}
    assert shown(journal_checks({"w0": gap}, {"w0": "denied"})) == {"journal:w0": "degraded unreadable"}


def test_a_journal_that_failed_is_not_told_as_one_without_room() -> None:
    report = Report(journal_ready=False, journal_state="failed", journal_free_bytes=0)
    (_, check) = workers_checks([Link("w0", report=report)], version=3, wanted=1)
    assert check.detail == "its disk failed: start the worker again"


def test_buckets_that_began_empty_are_told_for_each_worker() -> None:
    assert shown(buckets_checks({})) == {"buckets": "ok ok"}
    assert shown(buckets_checks({"w1": "locked", "w0": "locked"})) == {
        "buckets:w0": "degraded not_refilled",
        "buckets:w1": "degraded not_refilled",
    }


def test_settings_that_wait_for_a_restart_are_named() -> None:
    assert shown((settings_check(()),)) == {"settings": "ok ok"}
    check = settings_check(("workers", "proxy.listen"))
    assert shown((check,)) == {"settings": "degraded need_restart"}
    assert check.detail == "changed since they were read: workers, proxy.listen"


def test_a_refused_reload_is_told_until_one_is_taken() -> None:
    assert shown((config_check(()),)) == {"config": "ok ok"}
    assert shown((config_check(("voice.yaml:2: tier: no such tier",)),)) == {"config": "degraded last_reload_refused"}
