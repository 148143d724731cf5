"""A worker takes snapshots slice by slice, decodes what has changed, and shares the rest."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from gateway.catalogue import Catalogue
from gateway.config.snapshot import (
    SLICE_TEAMS_MAX,
    AdminSettings,
    Listen,
    ProxySettings,
    Secret,
    Settings,
    Snapshot,
    decode_snapshot,
    encode_snapshot,
)
from gateway.config.snapshot_reader import SnapshotReader
from gateway.teams import Key, Team

TEAMS = tuple(Team(f"team-{number:04}", "tier-1", keys=(Key(f"k{number}", f"{number:064x}"),)) for number in range(2_000))
ANYWHERE = Listen("127.0.0.1", 0)
SETTINGS = Settings(proxy=ProxySettings((ANYWHERE,)), admin=AdminSettings(ANYWHERE, Secret("")), accounts=())


def snapshot(teams: tuple[Team, ...] = TEAMS) -> Snapshot:
    return Snapshot(SETTINGS, Catalogue((), {}), (), "tier-1", teams, "hash", 0)


@pytest.mark.parametrize("teams", [(), TEAMS[:1], TEAMS], ids=["no team", "one team", "many teams"])
def test_what_is_read_is_what_was_encoded(teams: tuple[Team, ...]) -> None:
    encoded = encode_snapshot(snapshot(teams))
    facts = asyncio.run(SnapshotReader().read(encoded))
    assert facts.snapshot == decode_snapshot(encoded) == snapshot(teams)
    assert {found.key.id for found in facts.by_key_hash.values()} == {key.id for team in teams for key in team.keys}


CHANGED = msgspec.structs.replace(TEAMS[700], mode="shadow")
CHANGES = [
    pytest.param((*TEAMS[:700], CHANGED, *TEAMS[701:]), id="a team has changed"),
    pytest.param((*TEAMS[:700], *TEAMS[701:]), id="a team has gone"),
    pytest.param((Team("a-new-one", "tier-1"), *TEAMS), id="a team has come before all others"),
]


@pytest.mark.parametrize("teams", CHANGES)
def test_a_change_costs_its_slice_and_all_else_is_shared(teams: tuple[Team, ...]) -> None:
    async def read_both() -> tuple[Snapshot, Snapshot]:
        reader = SnapshotReader()
        before = await reader.read(encode_snapshot(snapshot()))
        after = await reader.read(encode_snapshot(snapshot(teams)))
        return before.snapshot, after.snapshot

    before, after = asyncio.run(read_both())
    assert after.teams == teams
    kept = {id(team) for team in before.teams}
    anew = sum(id(team) not in kept for team in after.teams)
    assert 0 < anew <= 2 * SLICE_TEAMS_MAX < len(TEAMS)


def test_the_loop_turns_while_a_snapshot_is_read() -> None:
    async def count_turns() -> int:
        turns, reading = 0, asyncio.create_task(SnapshotReader().read(encode_snapshot(snapshot())))
        while not reading.done():
            turns += 1
            await asyncio.sleep(0)
        return turns

    assert asyncio.run(count_turns()) >= len(TEAMS) // SLICE_TEAMS_MAX


def test_of_two_that_come_at_once_the_later_is_read_last() -> None:
    async def read_both() -> list[int]:
        reader, order = SnapshotReader(), list[int]()

        async def read(teams: tuple[Team, ...]) -> None:
            order.append(len((await reader.read(encode_snapshot(snapshot(teams)))).snapshot.teams))

        await asyncio.gather(read(TEAMS), read(TEAMS[:1]))
        return order

    assert asyncio.run(read_both()) == [2_000, 1]


@pytest.mark.parametrize("bad", [b"", b"\xc1", msgspec.msgpack.encode([1, 2])], ids=["nothing", "no MessagePack", "something else"])
def test_what_is_no_snapshot_changes_nothing(bad: bytes) -> None:
    async def read_both() -> bool:
        reader = SnapshotReader()
        before = await reader.read(encode_snapshot(snapshot()))
        with pytest.raises(msgspec.DecodeError):
            await reader.read(bad)
        after = await reader.read(encode_snapshot(snapshot()))
        return all(one is other for one, other in zip(before.snapshot.teams, after.snapshot.teams, strict=True))

    assert asyncio.run(read_both())
