"""A worker as the books see it: snapshots taken, daily buckets refilled, reports counted once, limits shown."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from gateway.admission.limits import ask_for
from gateway.catalogue import Card, Catalogue
from gateway.config.snapshot import Account, AdminSettings, Listen, ProxySettings, Secret, Settings, Snapshot, Tier, encode_snapshot
from gateway.control import Spent
from gateway.errors import invalid_request
from gateway.journal.writer import JournalWriter
from gateway.teams import Key, Team, key_hash
from gateway.teams.identify import NotIdentified
from gateway.units import Limits
from gateway.worker import Worker, WorkerOptions

ACCOUNT = Account(name="openai", base_url="http://127.0.0.1:9/v1", api_key=Secret("sk-up"))
CARD = Card(model="gpt-4o", limits={"tier-1": Limits(rpm=200, rpd=1_000, tpm=40_000)})
TEAM = Team(name="voice", tier="tier-1", keys=(Key(id="dev", hash=key_hash(b"gk-voice")),))


def snapshot(account: Account = ACCOUNT) -> Snapshot:
    nowhere = Listen("127.0.0.1", 0)
    return Snapshot(
        settings=Settings(proxy=ProxySettings((nowhere,)), admin=AdminSettings(nowhere, Secret("")), accounts=(account,)),
        catalogue=Catalogue((CARD,)),
        tiers=(Tier("tier-1"),),
        start_tier="tier-1",
        teams=(TEAM,),
        config_hash="0",
        loaded_at_us=0,
    )


def with_worker(folder: Path, act: Callable[[Worker], Awaitable[None]]) -> None:
    async def run() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        with JournalWriter(folder, "w0") as journal:
            worker = Worker(WorkerOptions("w0", str(folder), (listener.detach(),)), asyncio.get_running_loop(), journal)
            running = asyncio.create_task(worker.run())
            await act(worker)
            worker.drain()
            await running
            await worker.control.close()

    asyncio.run(run())


def test_daily_buckets_are_refilled_from_the_ledger_and_those_of_a_minute_are_not(tmp_path: Path) -> None:
    async def act(worker: Worker) -> None:
        await worker.take_snapshot(encode_snapshot(snapshot()))
        now_ms = time.time_ns() // 1_000_000
        worker.refill((Spent("voice", "dev", "gpt-4o", 600, 39_000, now_ms), Spent("gone", "dev", "gpt-4o", 5, 5, now_ms)))
        used = {reading.kind: reading.used_units for reading in await worker.limits("voice")}
        assert used["rpd"] in (599, 600)  # one leaks every 86.4 s
        assert not used.get("rpm")
        assert not used.get("tpm")

    with_worker(tmp_path, act)


def test_a_changed_account_has_new_connections_and_the_same_one_keeps_its_own(tmp_path: Path) -> None:
    async def act(worker: Worker) -> None:
        await worker.take_snapshot(encode_snapshot(snapshot()))
        first = worker.house.pools["openai"]
        await worker.take_snapshot(encode_snapshot(snapshot()))
        assert worker.house.pools["openai"] is first
        await worker.take_snapshot(encode_snapshot(snapshot(msgspec.structs.replace(ACCOUNT, api_key=Secret("sk-new")))))
        assert worker.house.pools["openai"] is not first
        assert b"sk-new" in worker.house.pools["openai"].account_lines

    with_worker(tmp_path, act)


def test_the_buckets_of_an_account_say_which(tmp_path: Path) -> None:
    async def act(worker: Worker) -> None:
        await worker.take_snapshot(encode_snapshot(snapshot(msgspec.structs.replace(ACCOUNT, tier="tier-1"))))
        facts = worker.house.facts
        assert facts is not None
        limits = facts.limits_of(TEAM, TEAM.keys[0], CARD)
        assert isinstance(limits, tuple)
        now_ms = time.time_ns() // 1_000_000
        await worker.house.counters.reserve(ask_for("gx-1", limits, 100, 100), now_ms)
        shown = {(reading.team, reading.subject) for reading in await worker.limits(None)}
        assert shown == {("voice", "group:gpt-4o"), (None, "account:openai:group:gpt-4o")}

    with_worker(tmp_path, act)


def test_what_was_counted_is_reported_once(tmp_path: Path) -> None:
    async def act(worker: Worker) -> None:
        worker.house.tally.refused("voice", "chat/completions", "gpt-4o", "rpm", 429)
        worker.house.tally.refused("voice", "chat/completions", "gpt-4o", "rpm", 429)
        worker.house.tally.turned_away(NotIdentified("expired", invalid_request("no", status=401)))
        report = worker.report()
        assert [(refusal.team, refusal.limit, refusal.count) for refusal in report.refusals] == [("voice", "rpm", 2)]
        assert report.auth_failures == {"expired": 1}
        assert report.journal_ready
        assert worker.report().refusals == ()

    with_worker(tmp_path, act)


@pytest.mark.parametrize("begins_first", [False, True], ids=["snapshot, begin", "begin, snapshot"])
def test_clients_wait_in_the_queue_until_there_are_facts_and_the_books_say_begin(tmp_path: Path, begins_first: bool) -> None:
    async def act(worker: Worker) -> None:
        steps = [lambda: worker.take_snapshot(encode_snapshot(snapshot())), worker.begin]
        first, second = reversed(steps) if begins_first else steps
        (fd,) = worker._options.listen_fds
        with socket.socket(fileno=os.dup(fd)) as listening:
            port = listening.getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n")
        await first()
        for _ in range(20):
            await asyncio.sleep(0)
        assert worker.report().connections == 0
        await second()
        assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
        writer.close()

    with_worker(tmp_path, act)


def test_a_drained_worker_does_not_begin_to_listen(tmp_path: Path) -> None:
    async def act(worker: Worker) -> None:
        worker.drain()
        await worker.take_snapshot(encode_snapshot(snapshot()))
        await worker.begin()
        assert worker.house.facts is not None

    with_worker(tmp_path, act)
