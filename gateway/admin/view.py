"""What the admin port needs of the books: a port, and the values that pass it."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Protocol, TypeVar

import msgspec
from prometheus_client import CollectorRegistry

from gateway.config.snapshot import Snapshot
from gateway.control import LimitReading
from gateway.ledger import Questions

Answer = TypeVar("Answer")


class Level(StrEnum):
    """How bad a state is."""

    OK = "ok"
    DEGRADED = "degraded"  # calls are carried, something needs a look: /readyz stays 200
    FAILED = "failed"  # calls are not carried: /readyz is 503


class Check(msgspec.Struct, frozen=True):
    """One line of /readyz. Every state that is not ok has a name, which is also the label of `gateway_degraded`."""

    name: str
    level: Level
    state: str = "ok"
    detail: str = ""  # words for operators: no secrets, only shown to those who may ask everything


class Reloaded(msgspec.Struct, frozen=True):
    """What became of a reload: taken by all connected workers, or refused with the reasons and nothing changed."""

    ok: bool
    config_hash: str | None  # that rules now
    problems: tuple[str, ...] = ()  # each with file, line and key; warnings too


class LimitsShown(msgspec.Struct, frozen=True):
    """Live buckets of the workers that answered, and how many more there are than a worker tells of at once: the emptiest."""

    limits: tuple[LimitReading, ...]
    left_out: int = 0


class BooksView(Protocol):
    """The books as the admin port sees them."""

    @property
    def registry(self) -> CollectorRegistry:
        """Every metric."""

    @property
    def snapshot(self) -> Snapshot:
        """The configuration that rules."""

    def readiness(self) -> tuple[Check, ...]:
        """Every check, good and bad, in a fixed order."""

    async def ask(self, question: Callable[[Questions], Answer]) -> Answer:
        """Put a question to the ledger, off the event loop. Raises LedgerError."""

    async def limits(self, team: str | None) -> LimitsShown:
        """The buckets of all connected workers. Raises WorkerAway when none of them answers."""

    async def reload(self) -> Reloaded:
        """Read the configuration again, now."""
