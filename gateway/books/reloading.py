"""The ruling configuration: watched, loaded, and given to all connected workers or to none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import structlog

from gateway.admin import Reloaded
from gateway.config.load import Loaded, load
from gateway.config.problems import Problem
from gateway.config.settings import Purpose
from gateway.config.snapshot import Settings, Snapshot, encode_snapshot
from gateway.config.watch import Stamps, changed_since, stamps_of
from gateway.control import NotTaken, Taken, WorkerAway, WorkerLink
from gateway.metrics import LiveMetrics

WATCH_EVERY_S = 1.0
PUSH_TIMEOUT_MS = 10_000
NEEDS_RESTART = ("journal_folder", "ledger_url", "store_url", "workers")  # besides the listeners: read once, at the start

_log = structlog.get_logger("gateway.books")


class Configuration:
    """One snapshot that rules, and how another takes its place."""

    def __init__(
        self,
        folder: Path,
        env: Mapping[str, str],
        purpose: Purpose,
        loaded: Loaded,
        links: Callable[[], list[WorkerLink]],
        on_ruling: Callable[[Snapshot], None],
        live: LiveMetrics,
    ) -> None:
        self.snapshot = loaded.snapshot(_now_us())
        self.version = 1
        self.encoded = encode_snapshot(self.snapshot)
        self.problems: tuple[str, ...] = ()  # why the last reload was refused; empty: it was not
        self._folder, self._env, self._purpose = folder, env, purpose
        self._loaded = loaded
        self._links, self._on_ruling, self._live = links, on_ruling, live
        self._stamps = loaded.stamps
        self._turn = asyncio.Lock()  # one change at a time
        _tell_warnings(loaded.warnings)

    async def watch(self, reload_now: asyncio.Event) -> None:
        """Look once a second, and whenever `reload_now` is set, for ever."""
        while True:
            try:
                async with asyncio.timeout(WATCH_EVERY_S):
                    await reload_now.wait()
            except TimeoutError:
                if not changed_since(self._stamps, await self._look()):
                    continue
            reload_now.clear()
            try:
                await self.reload()
            except Exception:  # the watch must outlive whatever a file can do to it; the old configuration rules on
                _log.exception("reload_failed")
                self.problems = ("the reload failed, see the log",)

    async def reload(self) -> Reloaded:
        """Load the files again and let them rule. What has problems, or what a worker does not take, changes nothing."""
        async with self._turn:
            stamps = await self._look()
            found = await asyncio.to_thread(load, self._folder, self._env, self._loaded, purpose=self._purpose)
            if not isinstance(found, Loaded):
                self._stamps = stamps
                return self._refused(tuple(problem.text() for problem in found))
            snapshot = found.snapshot(
                _now_us(),
                learned_output_tokens=self.snapshot.learned_output_tokens,
                learned_input_tokens=self.snapshot.learned_input_tokens,
                team_tiers=self.snapshot.team_tiers,
            )
            self._stamps = found.stamps
            if not _same(snapshot, self.snapshot):
                _tell_restart(self.snapshot.settings, snapshot.settings)
                refused = await self._give(snapshot)
                if refused:
                    return self._refused(refused)
            self._loaded = found
            self.problems = ()
            self._live.reloaded("ok", time.time())
            _tell_warnings(found.warnings)
            _log.info("configuration_taken", config_hash=snapshot.config_hash, version=self.version)
            return Reloaded(True, snapshot.config_hash, tuple(problem.text() for problem in found.warnings))

    async def teach(self, output_tokens: dict[str, int], input_tokens: dict[str, int]) -> None:
        """Send what was learned, if it is new."""
        async with self._turn:
            taught = msgspec.structs.replace(self.snapshot, learned_output_tokens=output_tokens, learned_input_tokens=input_tokens)
            if taught != self.snapshot:
                refused = await self._give(taught)
                if refused:
                    _log.error("estimates_not_taken", reasons=refused)

    async def greet(self, link: WorkerLink) -> Taken | NotTaken:
        """Give a worker that has just connected what rules. Raises WorkerAway."""
        async with self._turn:
            return await link.push(self.version, self.encoded, PUSH_TIMEOUT_MS)

    async def _look(self) -> Stamps:
        return await asyncio.to_thread(stamps_of, self._folder, self._loaded.named_files)

    async def _give(self, snapshot: Snapshot) -> tuple[str, ...]:
        """All connected workers take it, and it rules; or those that did get the old one back, and the reasons are returned."""
        encoded = await asyncio.to_thread(encode_snapshot, snapshot)
        self.version += 1
        links = [link for link in self._links() if link.connected]
        answers = await asyncio.gather(*(_push(link, self.version, encoded) for link in links))
        reasons = tuple(f"worker {link.worker}: {answer}" for link, answer in zip(links, answers, strict=True) if answer is not None)
        if reasons:
            self.version += 1
            await asyncio.gather(*(_push(link, self.version, self.encoded) for link in links))
            return reasons
        self.snapshot, self.encoded = snapshot, encoded
        self._on_ruling(snapshot)
        return ()

    def _refused(self, reasons: tuple[str, ...]) -> Reloaded:
        self.problems = reasons
        self._live.reloaded("error")
        _log.error("configuration_refused", problems=reasons, ruling=self.snapshot.config_hash)
        return Reloaded(False, self.snapshot.config_hash, reasons)


async def _push(link: WorkerLink, version: int, encoded: bytes) -> str | None:
    """Why a worker did not take it; None: it did, or it is gone and will be given what rules when it comes back."""
    try:
        answer = await link.push(version, encoded, PUSH_TIMEOUT_MS)
    except WorkerAway as error:
        return str(error) if link.connected else None
    return answer.reason if isinstance(answer, NotTaken) else None


def _same(one: Snapshot, other: Snapshot) -> bool:
    return msgspec.structs.replace(one, loaded_at_us=0) == msgspec.structs.replace(other, loaded_at_us=0)


def _tell_warnings(warnings: tuple[Problem, ...]) -> None:
    for warning in warnings:
        _log.warning("configuration_warning", problem=warning.text())


def _tell_restart(before: Settings, now: Settings) -> None:
    """Settings that are read once: said loudly, so that nobody waits for them to take effect."""
    changed = [name for name in NEEDS_RESTART if getattr(before, name) != getattr(now, name)]
    changed += ["proxy.listen"] if before.proxy.listen != now.proxy.listen else []
    changed += ["admin.listen"] if before.admin.listen != now.admin.listen else []
    if changed:
        _log.warning("configuration_needs_restart", settings=changed)


def _now_us() -> int:
    return time.time_ns() // 1000
