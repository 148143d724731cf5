"""The whole gateway as users start it, between a client and an OpenAI that are raw sockets and say what a case makes them say.

The client's bytes are written by hand and its answers read by h11. OpenAI's end reads requests with h11, strictly: what that
does not take for one request is a fault of the gateway's, and fails whatever test is running. What it answers, a case plants
under a name; the request carries the name in `x-attack`, so that all cases share one gateway. Requests that name nothing
get a good answer.

`attack` is one test's view. When the test ends, the same worker (by pid) must serve a good call, the ledger must hold one
entry for each request that reached OpenAI and no other, and the log no error.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from .place import BODY_BYTES_MAX, CHAT, HEAD_BYTES_MAX, Attack, Place, until
from .upstream import ANSWER, USAGE, EvilUpstream, counted


@contextmanager
def _started(root: Path, tls: ssl.SSLContext | None = None, **options: Any) -> Iterator[Place]:
    upstream = EvilUpstream(tls)
    place = Place(root, upstream, **options)
    try:
        yield place
        place.stop()
    finally:
        place.kill()
        upstream.close()


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The gateway that most cases share."""
    teams = {"draining": {"on_client_gone": "drain", "drain_seconds_max": 10}, "open": {"unknown_model": "allow_unpriced"}}
    with _started(tmp_path_factory.mktemp("attacks"), teams=teams) as started:
        yield started
        assert started.ledger.recount().differences == ()


@pytest.fixture(scope="session")
def hasty_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One that waits for nobody."""
    proxy = ", head_timeout_ms: 700, body_timeout_ms: 700, idle_timeout_ms: 700, write_timeout_ms: 1500"
    with _started(tmp_path_factory.mktemp("hasty"), proxy=proxy, account=", first_byte_timeout_ms: 700, stall_timeout_ms: 700") as started:
        yield started


def _attack_on(place: Place, request: pytest.FixtureRequest) -> Iterator[Attack]:
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[-80:].strip("-")
    started = Attack(place, name)
    yield started
    started.check()


@pytest.fixture
def attack(place: Place, request: pytest.FixtureRequest) -> Iterator[Attack]:
    yield from _attack_on(place, request)


@pytest.fixture
def hasty_attack(hasty_place: Place, request: pytest.FixtureRequest) -> Iterator[Attack]:
    yield from _attack_on(hasty_place, request)


@pytest.fixture
def start_place(tmp_path: Path) -> Callable[..., Any]:
    """A gateway of its own: a context manager."""
    return lambda **options: _started(tmp_path, **options)


@pytest.fixture(name="until")
def _until() -> Callable[..., Any]:
    return until


@pytest.fixture(scope="session")
def words() -> Any:
    """The names of this file: test modules do not import each other."""

    class Names:
        chat, usage, answer = CHAT, USAGE, ANSWER
        body_bytes_max, head_bytes_max = BODY_BYTES_MAX, HEAD_BYTES_MAX
        counted = staticmethod(counted)

    return Names
