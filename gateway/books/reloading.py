"""The ruling configuration: watched, loaded, and given to all connected workers or to none.

A configuration rules once a worker has taken it and none has refused it. What may be:

    first      no worker has taken anything yet: the newest that was loaded is the only one there is, and is what workers are given
    settled    what rules is what the files say                                        /readyz: config ok
    waiting    the files say something new, and nobody is there to take or refuse it   /readyz: config waiting_for_worker
    refused    the files have problems, or a worker refused what they say              /readyz: config last_reload_refused

`waiting` and `refused` are series of gateway_degraded too, and what ruled rules on in both. Waiting ends when a worker
connects: it is given the candidate first, and what rules when it refuses that. Refused ends when a file changes; SIGHUP and
the admin port may ask again, but only of workers: what was refused does not begin to wait because they are gone. So a worker
that starts is always given something that a worker has taken, but for `first`: what ruled before the books started is not
kept, and workers that refuse what they are given after that keep what they had (worker:<name> configuration_refused).
Settings that are read once rule from the next start on: /readyz says settings need_restart while they are not as they were read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog

from gateway.admin import Reloaded
from gateway.config.load import Loaded, load
from gateway.config.problems import Problem
from gateway.config.settings import Purpose
from gateway.config.snapshot import Settings, Snapshot, encode_snapshot
from gateway.config.watch import LOOK_EVERY_S, Stamps, changed_since, pause_after_s, settled, stamps_of
from gateway.control import Hello, NotTaken, Taken, WorkerAway, WorkerLink
from gateway.metrics import LiveMetrics

PUSH_TIMEOUT_MS = 10_000
WORKERS_LOST_MAX = 2  # that were being given a candidate: one may be a coincidence, the second is the candidate's fault
NEEDS_RESTART = ("journal_folder", "journal_segment_bytes", "ledger_url", "store_url", "workers")  # besides the listeners: read once
PROXY_NEEDS_RESTART = ("listen", "socket_mode", "drain_timeout_ms")  # `serve` reads these; all else rules for new connections
RESTART_ADVICE = "send SIGUSR2 to `gateway serve`, which refuses no connection, or restart it"

_WAITING = ("no worker is there to take it: the next one is given it, and what ruled rules on until then",)
_log = structlog.get_logger("gateway.books")


class _Given(NamedTuple):
    """What became of a snapshot that workers were given."""

    taken: bool  # by at least one, and refused by none: it rules
    refusals: tuple[str, ...]
    lost: int  # workers that went away while they were given it


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
        self._at_start = self.snapshot.settings
        self.version = 1  # of what rules, as the workers know it
        self.refusal: tuple[str, ...] = ()  # why the last reload was refused; empty: it was not
        self._encoded = encode_snapshot(self.snapshot)
        self._proven = False  # whether a worker has taken anything
        self._candidate: Loaded | None = None  # good as far as the books can tell, and taken by nobody yet
        self._candidate_lost = 0  # workers that went away while they were given it
        self._refused_stamps: Stamps | None = None  # of the files that were refused
        self._folder, self._env, self._purpose = folder, env, purpose
        self._links, self._on_ruling, self._live = links, on_ruling, live
        self._last_loaded = loaded  # what did not change since is not read again
        self._stamps, self._named_files = loaded.stamps, loaded.named_files
        self._pause_s = LOOK_EVERY_S
        self._versions = 1  # given out
        self._greeted: dict[str, Hello] = {}  # by worker: the connection that was given what rules
        self._turn = asyncio.Lock()  # one change at a time
        _tell_warnings(loaded.warnings)

    @property
    def waiting(self) -> bool:
        """Whether the files say something that no worker was there to take."""
        return self._candidate is not None

    @property
    def needs_restart(self) -> tuple[str, ...]:
        """Settings that are read once and are not as they were then: said loudly, so that nobody waits for them to take effect."""
        return _changed_for_restart(self._at_start, self.snapshot.settings)

    async def watch(self, reload_now: asyncio.Event) -> None:
        """Look again and again, less often the longer a look takes, and load whenever `reload_now` is set, for ever."""
        while True:
            try:
                async with asyncio.timeout(self._pause_s):
                    await reload_now.wait()
            except TimeoutError:
                if not await self.changed():
                    continue
            reload_now.clear()
            try:
                await self.reload()
            except Exception:  # the watch must outlive whatever a file can do to it; the old configuration rules on
                _log.exception("reload_failed")
                self._stamps = await asyncio.to_thread(settled, await self._look())  # tried again when they change, not at each look
                self._refuse(self._stamps, ("the reload failed, see the log",))

    async def changed(self) -> list[str]:
        """Files that are not as they were when they were last loaded, or failed to load."""
        changed, look_s = await asyncio.to_thread(_changed, self._stamps, self._folder, self._named_files)
        self._pause_s = pause_after_s(look_s)
        return changed

    async def reload(self) -> Reloaded:
        """Load the files again and let them rule. What has problems, or what a worker does not take, changes nothing."""
        async with self._turn:
            found = await asyncio.to_thread(load, self._folder, self._env, self._last_loaded, purpose=self._purpose)
            self._stamps, self._named_files = found.stamps, found.named_files
            if not isinstance(found, Loaded):
                return self._refuse(found.stamps, tuple(problem.text() for problem in found))
            self._last_loaded = found
            if _same(self._snapshot_of(found), self.snapshot):
                return self._settle(found)
            if self.refusal and found.stamps == self._refused_stamps and not self._asked():
                return self._refuse(found.stamps, self.refusal)
            self._candidate, self._candidate_lost = found, 0
            return await self._propose(found)

    async def teach(self, output_tokens: dict[str, int], input_tokens: dict[str, int]) -> None:
        """Send what was learned, if it is new, to those that are there: what rules must be what they have taken."""
        async with self._turn:
            taught = msgspec.structs.replace(self.snapshot, learned_output_tokens=output_tokens, learned_input_tokens=input_tokens)
            if taught != self.snapshot and self._asked():
                given = await self._give(taught)
                if given.refusals:
                    _log.error("estimates_not_taken", reasons=given.refusals)

    async def greet(self, link: WorkerLink) -> Taken | NotTaken:
        """Give a worker that has just connected the candidate, if there is one, or else what rules. Raises WorkerAway."""
        async with self._turn:
            if link.hello is not None:
                self._greeted[link.worker] = link.hello
            if self._candidate is not None:
                await self._propose(self._candidate)
            if link.connected and link.taken_version == self.version:
                return Taken(self.version)
            answer = await link.push(self.version, self._encoded, PUSH_TIMEOUT_MS)
            self._proven |= isinstance(answer, Taken)
            return answer

    # inside: all of it in one turn

    async def _look(self) -> Stamps:
        return await asyncio.to_thread(stamps_of, self._folder, self._named_files)

    def _asked(self) -> list[WorkerLink]:
        """Workers that are there and were greeted: before that, one would serve while its buckets are being looked up."""
        return [link for link in self._links() if link.connected and self._greeted.get(link.worker) is link.hello]

    def _snapshot_of(self, loaded: Loaded) -> Snapshot:
        return loaded.snapshot(
            _now_us(),
            learned_output_tokens=self.snapshot.learned_output_tokens,
            learned_input_tokens=self.snapshot.learned_input_tokens,
            team_tiers=self.snapshot.team_tiers,
        )

    async def _propose(self, candidate: Loaded) -> Reloaded:
        """Ask for the candidate: it rules, it is refused, or it waits."""
        snapshot = self._snapshot_of(candidate)
        given = await self._give(snapshot)
        self._candidate_lost += given.lost
        refusals = given.refusals
        if not refusals and not given.taken and self._candidate_lost >= WORKERS_LOST_MAX:
            refusals = (f"{self._candidate_lost} workers went away while they were given it",)
        if refusals:
            return self._refuse(candidate.stamps, refusals)
        if not given.taken:
            if self._proven:
                return self._wait()
            self._rule(snapshot, await asyncio.to_thread(encode_snapshot, snapshot), self._next_version())
        if self.needs_restart:
            _log.warning("configuration_needs_restart", settings=self.needs_restart, advice=RESTART_ADVICE)
        return self._settle(candidate)

    async def _give(self, snapshot: Snapshot) -> _Given:
        """Give a snapshot to every worker that is there. If one refuses, all get back what rules; if one takes it, it rules."""
        encoded = await asyncio.to_thread(encode_snapshot, snapshot)
        version = self._next_version()
        links = self._asked()
        answers = await asyncio.gather(*(_push(link, version, encoded) for link in links))
        refusals = tuple(
            f"worker {link.worker}: {answer.reason}" for link, answer in zip(links, answers, strict=True) if isinstance(answer, NotTaken)
        )
        taken = not refusals and any(isinstance(answer, Taken) for answer in answers)
        if taken:
            self._proven = True
            self._rule(snapshot, encoded, version)
        elif refusals:
            self.version = self._next_version()
            again = await asyncio.gather(*(_push(link, self.version, self._encoded) for link in links))
            self._proven |= any(isinstance(answer, Taken) for answer in again)
        return _Given(taken, refusals, answers.count(None))

    def _next_version(self) -> int:
        self._versions += 1
        return self._versions

    def _rule(self, snapshot: Snapshot, encoded: bytes, version: int) -> None:
        self.snapshot, self._encoded, self.version = snapshot, encoded, version
        self._on_ruling(snapshot)

    def _settle(self, loaded: Loaded) -> Reloaded:
        """What rules is what the files say."""
        self._candidate, self.refusal, self._refused_stamps = None, (), None
        self._live.reloaded("ok", time.time())
        _tell_warnings(loaded.warnings)
        _log.info("configuration_taken", config_hash=loaded.config_hash, version=self.version)
        return Reloaded(True, loaded.config_hash, tuple(problem.text() for problem in loaded.warnings))

    def _wait(self) -> Reloaded:
        """Nobody is there to take the candidate."""
        self.refusal, self._refused_stamps = (), None
        _log.warning("configuration_waiting", ruling=self.snapshot.config_hash)
        return Reloaded(False, self.snapshot.config_hash, _WAITING)

    def _refuse(self, stamps: Stamps, reasons: tuple[str, ...]) -> Reloaded:
        """What the files say is not to rule."""
        self._candidate, self.refusal, self._refused_stamps = None, reasons, stamps
        self._live.reloaded("error")
        _log.error("configuration_refused", problems=reasons, ruling=self.snapshot.config_hash)
        return Reloaded(False, self.snapshot.config_hash, reasons)


def _changed(before: Stamps, folder: Path, named_files: tuple[Path, ...]) -> tuple[list[str], float]:
    """What changed, and the CPU seconds this took: of a thread, since 10,000 files take tens of milliseconds."""
    began_s = time.thread_time()
    return changed_since(before, stamps_of(folder, named_files)), time.thread_time() - began_s


async def _push(link: WorkerLink, version: int, encoded: bytes) -> Taken | NotTaken | None:
    """A worker's word; one that is there and silent has refused. None: it is gone, and will be greeted when it comes back."""
    try:
        return await link.push(version, encoded, PUSH_TIMEOUT_MS)
    except WorkerAway as error:
        return NotTaken(version, str(error)) if link.connected else None


def _same(one: Snapshot, other: Snapshot) -> bool:
    return msgspec.structs.replace(one, loaded_at_us=0) == msgspec.structs.replace(other, loaded_at_us=0)


def _tell_warnings(warnings: tuple[Problem, ...]) -> None:
    for warning in warnings:
        _log.warning("configuration_warning", problem=warning.text())


def _changed_for_restart(before: Settings, now: Settings) -> tuple[str, ...]:
    changed = [name for name in NEEDS_RESTART if getattr(before, name) != getattr(now, name)]
    changed += [f"proxy.{name}" for name in PROXY_NEEDS_RESTART if getattr(before.proxy, name) != getattr(now.proxy, name)]
    changed += ["proxy.tls"] if (before.proxy.tls is None) != (now.proxy.tls is None) else []  # another certificate is taken at once
    changed += ["admin.listen"] if before.admin.listen != now.admin.listen else []
    return tuple(changed)


def _now_us() -> int:
    return time.time_ns() // 1000
