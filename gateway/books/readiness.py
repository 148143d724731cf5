"""Every check of /readyz and the name of its state. Pure: looks at what the books know, asks nobody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.admin import Check, Level
from gateway.control import WorkerLink
from gateway.journal.reader import Gap

LEDGER_LAG_MAX_S = 60.0  # the alert GatewayLedgerLag says the same


def worker_check(link: WorkerLink, version: int) -> Check:
    """Whether one worker carries calls with the configuration that rules."""
    name, report = f"worker:{link.worker}", link.report
    if not link.connected:
        return Check(name, Level.FAILED, "not_connected", link.problem or "")
    if link.taken_version is None:
        state = "without_configuration" if link.problem is None else "configuration_refused"
        return Check(name, Level.FAILED, state, link.problem or "")
    if report is not None and report.draining:
        return Check(name, Level.FAILED, "draining")
    if report is not None and not report.journal_ready:
        why = "its disk failed: start the worker again" if report.journal_state == "failed" else f"free bytes: {report.journal_free_bytes}"
        return Check(name, Level.FAILED, f"journal_{report.journal_state}", why)
    if link.taken_version != version:
        return Check(name, Level.DEGRADED, "other_configuration", link.problem or "")
    return Check(name, Level.OK)


def workers_checks(links: Sequence[WorkerLink], version: int, wanted: int) -> tuple[Check, ...]:
    """One line for each living worker and one for all: while one carries calls, the lack of another only degrades."""
    each = [worker_check(link, version) for link in links]
    serving = sum(check.level is not Level.FAILED for check in each)
    if not serving:
        return (Check("workers", Level.FAILED, "none_serving", f"{wanted} wanted"), *each)
    eased = tuple(Check(check.name, Level.DEGRADED, check.state, check.detail) if check.level is Level.FAILED else check for check in each)
    if serving < wanted:
        return (Check("workers", Level.DEGRADED, "some_missing", f"{serving} of {wanted} serve"), *eased)
    return (Check("workers", Level.OK), *eased)


def ledger_check(state: str, detail: str, lag_s: float) -> Check:
    """The journals keep what the ledger cannot take: calls are carried meanwhile, as long as the journals have room."""
    if state != "ok":
        return Check("ledger", Level.DEGRADED, state, detail)
    if lag_s > LEDGER_LAG_MAX_S:
        return Check("ledger", Level.DEGRADED, "lagging", f"{lag_s:.0f} s behind")
    return Check("ledger", Level.OK)


def journal_checks(gaps: Mapping[str, Gap], unreadable: Mapping[str, str]) -> tuple[Check, ...]:
    """Journals with holes, until the books are started again: somebody must have looked. Otherwise one line that all are whole."""
    checks = [Check(f"journal:{worker}", Level.DEGRADED, "unreadable", why) for worker, why in sorted(unreadable.items())]
    checks += [
        Check(f"journal:{worker}", Level.DEGRADED, "gap_found", gap.reason)
        for worker, gap in sorted(gaps.items())
        if worker not in unreadable
    ]
    return tuple(checks) or (Check("journal", Level.OK),)


def buckets_checks(not_refilled: Mapping[str, str]) -> tuple[Check, ...]:
    """Workers whose daily buckets began empty: a team may have more than its day until they are as full as they would be."""
    checks = [Check(f"buckets:{worker}", Level.DEGRADED, "not_refilled", why) for worker, why in sorted(not_refilled.items())]
    return tuple(checks) or (Check("buckets", Level.OK),)


def settings_check(needs_restart: Sequence[str]) -> Check:
    """What was taken and does not rule: settings that are read once, at the start."""
    if needs_restart:
        return Check("settings", Level.DEGRADED, "need_restart", f"changed since they were read: {', '.join(needs_restart)}")
    return Check("settings", Level.OK)


def config_check(problems: Sequence[str], *, waiting: bool = False) -> Check:
    """The last reload: refused, or not decided since no worker is there. In both the configuration before it rules."""
    if problems:
        return Check("config", Level.DEGRADED, "last_reload_refused", "; ".join(problems))
    if waiting:
        return Check("config", Level.DEGRADED, "waiting_for_worker", "no worker is there to take the configuration that was loaded last")
    return Check("config", Level.OK)
