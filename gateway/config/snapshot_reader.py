"""How a worker takes a snapshot: so that 10,000 teams hold up no stream when they arrive."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from itertools import chain

import msgspec

from gateway.config.snapshot import Facts, Sliced, decode_teams, identities_of
from gateway.teams import Identity, Team

_SLICED = msgspec.msgpack.Decoder(Sliced)


class _Slice(msgspec.Struct, frozen=True):
    teams: tuple[Team, ...]
    identities: dict[str, Identity]


class SnapshotReader:
    """Reads one snapshot after another, a slice at a time, and the loop turns in between.

    To decode 10,000 teams takes a tenth of a second, which no thread can take from a loop of the same interpreter. A slice that is
    as it was is not decoded again but taken over: a team that changes costs its slice, and snapshots that long streams keep
    alive share what did not change.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, _Slice] = {}  # of the last snapshot, by the digest of what it was decoded from
        self._turn = asyncio.Lock()  # what came last must be what is used last

    async def read(self, encoded: bytes) -> Facts:
        """The facts of a snapshot. msgspec.DecodeError (ValidationError included) on what is none; then nothing has changed."""
        async with self._turn:
            sliced = _SLICED.decode(encoded)
            slices: dict[bytes, _Slice] = {}
            for raw in sliced.slices:
                digest = sha256(raw).digest()
                known = self._known.get(digest)
                if known is None:
                    teams = decode_teams(raw)
                    known = _Slice(teams, identities_of(teams))
                slices[digest] = known
                await asyncio.sleep(0)
            identities: dict[str, Identity] = {}
            for part in slices.values():
                identities.update(part.identities)
            teams = tuple(chain.from_iterable(part.teams for part in slices.values()))
            facts = Facts(msgspec.structs.replace(sliced.snapshot, teams=teams), identities)
            self._known = slices
            return facts
