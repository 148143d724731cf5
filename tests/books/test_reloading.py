"""What rules, what waits and what is refused, over real control sockets: every state, and the ways between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.books.readiness import config_check
from gateway.books.reloading import Configuration
from gateway.config.load import Loaded, load
from gateway.config.snapshot import Snapshot
from gateway.control import WorkerLink, control_path
from gateway.metrics import EntryMetrics, Families, LiveMetrics

Run = Callable[[Awaitable[None]], None]
Refuses = Callable[[Snapshot], bool]
SEARCH = "team: search\ntier: tier-1\nmodels: ['*']\n"


def teams(snapshot: Snapshot) -> list[str]:
    return [team.name for team in snapshot.teams]


def is_new(snapshot: Snapshot) -> bool:
    return "search" in teams(snapshot)


class House:
    """A configuration and the workers it is given to. Implements `LinkHandlers`."""

    def __init__(self, place: Any, until: Callable[[Callable[[], bool]], Awaitable[None]]) -> None:
        self.place, self.until = place, until
        loaded = load(place.root / "config", {})
        assert isinstance(loaded, Loaded)
        families = Families(100)
        self.registry = families.registry
        self.ruled: list[Snapshot] = []  # each that came to rule
        self.links: list[WorkerLink] = []
        self.met: set[WorkerLink] = set()
        live = LiveMetrics(families, EntryMetrics(families, 100))
        self.configuration = Configuration(place.root / "config", {}, "check", loaded, lambda: self.links, self.ruled.append, live)

    async def on_connected(self, link: WorkerLink) -> None:
        try:
            await self.configuration.greet(link)
        finally:
            self.met.add(link)

    def on_report(self, link: WorkerLink, report: Any) -> None:
        pass

    async def owner_of(self, answer_id: str) -> tuple[str | None, bool]:
        return None, False

    @asynccontextmanager
    async def worker(self, name: str = "w0", refuses: Refuses = lambda _: False) -> AsyncIterator[Any]:
        """A worker that was greeted; at the end it is gone."""
        async with self.place.worker(name, refuses) as worker, self.linked(name) as link:
            await self.until(lambda: link in self.met)
            yield worker

    @asynccontextmanager
    async def linked(self, name: str) -> AsyncIterator[WorkerLink]:
        link = WorkerLink(name, control_path(self.place.journal, name), self)
        self.links.append(link)
        task = asyncio.create_task(link.run())
        try:
            yield link
        finally:
            self.links.remove(link)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    @property
    def state(self) -> str:
        """As /readyz says it."""
        return config_check(self.configuration.refusal, waiting=self.configuration.waiting).state

    async def changes(self) -> bool:
        """Write a good change and load it."""
        self.place.write("teams/search.yaml", SEARCH)
        return (await self.configuration.reload()).ok

    def reloads(self) -> tuple[int, int]:
        """How many were taken, and how many refused."""
        counts = [self.registry.get_sample_value("gateway_config_reloads_total", {"result": result}) for result in ("ok", "error")]
        return int(counts[0] or 0), int(counts[1] or 0)


@pytest.fixture
def house(place: Any, loopback: Any) -> House:
    return House(place, loopback.until)


def test_what_a_worker_takes_rules(house: House, run: Run) -> None:
    async def story() -> None:
        async with house.worker() as worker:
            assert await house.changes()
            assert [teams(snapshot) for snapshot in worker.snapshots] == [["voice"], ["search", "voice"]]
        assert [teams(snapshot) for snapshot in house.ruled] == [["search", "voice"]]
        assert (house.state, house.reloads()) == ("ok", (1, 0))

    run(story())


def test_what_a_worker_refused_does_not_rule_when_the_worker_is_gone(house: House, run: Run) -> None:
    async def story() -> None:
        async with house.worker(refuses=is_new):
            assert not await house.changes()
        for _ in range(2):  # asked by hand: there is nobody to ask
            again = await house.configuration.reload()
            assert "this worker does not take it" in again.problems[0]
        async with house.worker() as worker:
            assert [teams(snapshot) for snapshot in worker.snapshots] == [["voice"]]
        assert (house.state, house.ruled) == ("last_reload_refused", [])
        assert house.reloads() == (0, 3)

    run(story())


def test_what_was_refused_may_be_asked_of_a_worker_again(house: House, run: Run) -> None:
    async def story() -> None:
        async with house.worker(refuses=is_new) as worker:
            assert not await house.changes()
            worker.refuses = lambda _: False
            assert (await house.configuration.reload()).ok
            assert [is_new(snapshot) for snapshot in worker.snapshots] == [False, False, True]
        assert house.state == "ok"

    run(story())


def test_what_was_refused_waits_for_a_worker_once_a_file_changes(house: House, run: Run) -> None:
    async def story() -> None:
        async with house.worker(refuses=is_new):
            assert not await house.changes()
        house.place.write("teams/search.yaml", SEARCH + "mode: shadow\n")
        assert not (await house.configuration.reload()).ok
        assert house.state == "waiting_for_worker"
        async with house.worker() as worker:
            assert worker.snapshots[0].teams[0].mode == "shadow"
        assert house.state == "ok"

    run(story())


def test_a_candidate_rules_when_the_next_worker_takes_it(house: House, run: Run) -> None:
    async def story() -> None:
        async with house.worker():
            pass
        assert not await house.changes()
        assert (house.state, house.ruled, house.reloads()) == ("waiting_for_worker", [], (0, 0))
        async with house.worker() as worker:
            assert [is_new(snapshot) for snapshot in worker.snapshots] == [True]
        assert (house.state, house.reloads()) == ("ok", (1, 0))
        assert [is_new(snapshot) for snapshot in house.ruled] == [True]

    run(story())


def test_a_candidate_that_the_next_worker_refuses_leaves_it_with_what_ruled(house: House, run: Run) -> None:
    async def story() -> None:
        async with house.worker():
            pass
        assert not await house.changes()
        async with house.worker(refuses=is_new) as worker:
            assert [is_new(snapshot) for snapshot in worker.snapshots] == [False]
            assert house.links[0].taken_version == house.configuration.version
        assert (house.state, house.reloads()) == ("last_reload_refused", (0, 1))
        async with house.worker() as worker:
            assert [is_new(snapshot) for snapshot in worker.snapshots] == [False]

    run(story())


def test_a_candidate_that_is_taken_back_before_a_worker_comes_is_forgotten(house: House, run: Run) -> None:
    async def story() -> None:
        async with house.worker():
            pass
        assert not await house.changes()
        (house.place.root / "config/teams/search.yaml").unlink()
        assert (await house.configuration.reload()).ok
        assert house.state == "ok"
        house.place.write("teams/search.yaml", "team: search\ntier: tier-9\n")
        assert not (await house.configuration.reload()).ok
        async with house.worker() as worker:
            assert [is_new(snapshot) for snapshot in worker.snapshots] == [False]
        assert house.state == "last_reload_refused"

    run(story())


@pytest.mark.parametrize("deaths, state, first_is_new", [(1, "ok", True), (2, "last_reload_refused", False)], ids=["one", "two"])
def test_one_worker_may_die_of_a_candidate_and_not_a_second(house: House, run: Run, deaths: int, state: str, first_is_new: bool) -> None:
    async def dies() -> None:
        async with house.place.worker() as worker:
            worker.dies_of = is_new
            async with house.linked("w0") as link:
                await worker.stuck.wait()
                await worker.control.close()
                await house.until(lambda: link in house.met)

    async def story() -> None:
        async with house.worker():
            pass
        assert not await house.changes()
        for _ in range(deaths):
            await dies()
        async with house.worker() as worker:
            assert [is_new(snapshot) for snapshot in worker.snapshots] == [first_is_new]
        assert house.state == state

    run(story())


def test_before_any_worker_has_taken_anything_the_newest_rules(house: House, run: Run) -> None:
    async def story() -> None:
        assert await house.changes()
        assert (house.state, len(house.ruled)) == ("ok", 1)
        async with house.worker() as worker:
            assert [is_new(snapshot) for snapshot in worker.snapshots] == [True]

    run(story())


def test_what_no_worker_ever_took_gives_way_to_what_one_takes(house: House, run: Run) -> None:
    async def story() -> None:
        async with house.worker(refuses=lambda snapshot: not is_new(snapshot)) as worker:
            assert worker.snapshots == []
            assert await house.changes()
            assert len(worker.snapshots) == 1
        async with house.worker() as worker:
            assert [is_new(snapshot) for snapshot in worker.snapshots] == [True]

    run(story())


def test_a_refused_load_is_not_repeated_until_a_file_changes(house: House, run: Run) -> None:
    """The files it names are other files than those that ruled."""

    async def story() -> None:
        config = house.place.root / "config"
        text = (config / "gateway.yaml").read_text()
        key = config / "key"
        house.place.write("key", "sk-1\n")
        for problem in ("", "metrics: {series_max: 0}\n"):
            async with house.worker(refuses=lambda _: True):
                house.place.write("gateway.yaml", text.replace("sk-upstream", f"file:{key}") + problem)
                assert not (await house.configuration.reload()).ok
                assert await house.configuration.changed() == []
        house.place.write("gateway.yaml", text.replace("sk-upstream", f"file:{key}, ca_file: {key}"))
        assert not (await house.configuration.reload()).ok
        assert await house.configuration.changed() == []
        house.place.write("key", "sk-other\n")
        assert await house.configuration.changed() == [str(key)]

    run(story())


def test_what_was_learned_reaches_the_workers_and_stays_through_a_reload(house: House, run: Run) -> None:
    async def story() -> None:
        learned = {"voice\0gpt-4o\0responses": 640}
        async with house.worker() as worker:
            await house.configuration.teach(learned, {})
            await house.configuration.teach(learned, {})
            assert [snapshot.learned_output_tokens for snapshot in worker.snapshots] == [{}, learned]
            assert (await house.configuration.reload()).ok
            assert len(worker.snapshots) == 2
        await house.configuration.teach({}, {})
        assert house.configuration.snapshot.learned_output_tokens == learned  # nobody was there to take what is new
        assert not await house.changes()
        async with house.worker() as worker:
            assert worker.snapshots[0].learned_output_tokens == learned

    run(story())
