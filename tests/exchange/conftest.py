"""One worker's rooms around the path: real limits, journal and connections; a client in memory, OpenAI by script."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.admission.shares import AccountShares
from gateway.catalogue import Card, Catalogue
from gateway.catalogue.parse import parse_card
from gateway.config.snapshot import Account, AdminSettings, Facts, Listen, ProxySettings, Secret, Settings, Snapshot, Tier
from gateway.control import BooksAway
from gateway.exchange import exchange
from gateway.house import House
from gateway.journal.reader import JournalReader
from gateway.journal.records import Entry, Intent
from gateway.journal.writer import JournalWriter
from gateway.relay.call import Call
from gateway.relay.deadlines import Deadlines
from gateway.relay.gate import Gate, Steps
from gateway.relay.pool import Pool
from gateway.stores.memory import MemoryStore
from gateway.teams import Key, Team, key_hash
from gateway.units import Limits

CARDS = Path(__file__).parents[2] / "config" / "models"
NOW_US = 1_790_000_000_000_000
KEYS = {"voice": b"gk-voice-0123456789abcdefghijklmnopqrst", "search": b"gk-search-0123456789abcdefghijklmnopqrs"}


def shipped(model: str) -> Card:
    return parse_card(yaml.safe_load((CARDS / f"{model}.yaml").read_text()))


def a_team(name: str, **changes: Any) -> Team:
    return Team(name, changes.pop("tier", "tier-1"), keys=(Key("k1", key_hash(KEYS[name])),), **changes)


class Worker:
    """A house whose clock stands still, so that buckets show exactly what was taken."""

    def __init__(self, base_url: str, folder: Path, *, journal: JournalWriter | None = None, account: Any = None, **team: Any) -> None:
        settings = Settings(
            proxy=ProxySettings((Listen("127.0.0.1", 0),)),
            admin=AdminSettings(Listen("127.0.0.1", 0), Secret("")),
            accounts=(Account("openai", base_url, Secret("sk-account"), **(account or {})),),
        )
        default_limits = {"tier-1": Limits(rpm=500, tpm=200_000)}
        snapshot = Snapshot(
            settings=settings,
            catalogue=Catalogue((shipped("gpt-4o"), shipped("o3-mini"), shipped("gpt-4o-realtime-preview")), default_limits),
            tiers=(Tier("free"), Tier("tier-1")),
            start_tier="tier-1",
            teams=(a_team("voice", **team), a_team("search")),
            config_hash="",
            loaded_at_us=NOW_US,
        )
        self.folder = folder
        self.store = MemoryStore()
        self.journal = journal or JournalWriter(folder, "w0", segment_bytes=1 << 20)
        self.owners: dict[str, str] = {}
        self.books_away = False
        self.clock_fails_once = False
        self._now_ns = 0
        self.house = House(
            counters=AccountShares(self.store, workers=1),
            journal=self.journal,
            ask_owner=self._ask_owner,
            now_us=self._now_us,
            clock_ns=self._clock_ns,
        )
        self.house.facts = self.facts = Facts(snapshot)
        self.pool = Pool(settings.accounts[0], asyncio.get_running_loop(), Deadlines())
        self.house.pools["openai"] = self.pool

    async def __aenter__(self) -> Worker:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.pool.retire()
        self.journal.close()
        await asyncio.get_running_loop().run_in_executor(None, lambda: None)

    def _now_us(self) -> int:
        if self.clock_fails_once:
            self.clock_fails_once = False
            raise RuntimeError("a fault of ours")
        return NOW_US

    def _clock_ns(self) -> int:
        self._now_ns += 1_000_000
        return self._now_ns

    def _ask_owner(self, answer_id: str) -> Gate[str | None]:
        gate: Gate[str | None] = Gate()
        if self.books_away:
            gate.fail(BooksAway("the books are away"))
        else:
            gate.open(self.owners.get(answer_id))
        return gate

    # what was written and taken

    def records(self) -> tuple[list[Intent], list[Entry]]:
        reader = JournalReader(self.folder, "w0")
        records = reader.read().records
        reader.close()
        return [one for one in records if isinstance(one, Intent)], [one for one in records if isinstance(one, Entry)]

    def taken(self, model: str | None = "gpt-4o", team: str = "voice") -> dict[str, int]:
        """Units in the team's buckets, by kind."""
        identity = next(one for one in self.facts.by_key_hash.values() if one.team.name == team)
        limits = self.facts.limits_of(identity.team, identity.key, self.facts.cards.get(model or ""))
        assert isinstance(limits, tuple)
        readings = self.store.readings_now(limits, NOW_US // 1000)
        return {f"{one.limit.scope} {one.limit.kind}": one.limit.capacity_units - one.remaining_units for one in readings}


def a_call(
    method: str = "POST",
    path: str = "/v1/chat/completions",
    body: object = None,
    *,
    team: str = "voice",
    query: bytes = b"",
    arrived: bool = True,
    **headers: str,
) -> Call:
    """A call as a client's SDK sends it. `body`: bytes as they are, else as JSON."""
    lines = [(b"authorization", b"Bearer " + KEYS[team]), (b"host", b"gateway"), (b"content-type", b"application/json")]
    lines += [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    call = Call(method, path.encode(), query, lines, http_10=False, keep_alive=True)
    if body is not None:
        call.add(body if isinstance(body, bytes) else json.dumps(body).encode())
    if arrived:
        call.received.open(None)
    return call


class Ran:
    """An exchange that runs, as a connection steps it."""

    def __init__(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.over = False
        self.error: BaseException | None = None
        Steps(coroutine, self._ended).step()

    def _ended(self, error: BaseException | None) -> None:
        self.over, self.error = True, error


@pytest.fixture(scope="session")
def rooms() -> Any:
    """The names of this file: test modules do not import each other."""

    class Names:
        worker = Worker
        call = staticmethod(a_call)
        keys = KEYS
        now_us = NOW_US

        @staticmethod
        def run(call: Call, client: Any, worker: Worker) -> Ran:
            return Ran(exchange(call, client, worker.house))

        @staticmethod
        async def through(call: Call, client: Any, worker: Worker, until: Callable[..., Any]) -> Ran:
            """To the end of the exchange and of its answer."""
            ran = Ran(exchange(call, client, worker.house))
            await until(lambda: ran.over and (client.over or client.gone))
            if ran.error is not None:
                raise ran.error
            return ran

    return Names
