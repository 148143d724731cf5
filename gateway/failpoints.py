"""Named places where a test makes a process fail: killed, out of disk, or with a clock that jumps. They cost nothing when off.

A seam is a function that is there anyway. Arming puts a wrapper in its place when the process starts, so that the path itself
never asks. Each seam gives two failpoints, `<seam>.before` and `<seam>.after`; after means that the function has returned, and
not that it raised. Armed by the environment of `gateway serve`, which passes it on as it is:

    GATEWAY_FAILPOINTS=journal.entry.after=kill@17              the 17th time it is reached in a process
    GATEWAY_FAILPOINTS=make_segment.before=enospc@3-8;...       from the 3rd to the 8th time; without a number, each time
    GATEWAY_FAILPOINTS=*=kill%0.01:7                            each seam, each time with this probability; 7 seeds the chance
    GATEWAY_FAILPOINTS=file:/path                               what the file says when a process starts

Each failpoint that acts says so in the log before it does. Only the seams of a process's own role are armed in it.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import inspect
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from random import Random
from typing import Any, Literal, NamedTuple

import structlog

VARIABLE = "GATEWAY_FAILPOINTS"
EXIT_STATUS = 70  # of the action `exit`: sysexits.h EX_SOFTWARE

Role = Literal["worker", "books", "serve"]
_log = structlog.get_logger("gateway.failpoints")


class Seam(NamedTuple):
    """A function that may be made to fail before or after."""

    name: str
    role: Role
    where: str  # module:qualified name, as its callers look it up


SEAMS = (
    # the path of a call, in its order
    Seam("admit", "worker", "gateway.admission.shares:AccountShares.reserve"),
    Seam("connect", "worker", "gateway.relay.pool:Pool.acquire"),
    Seam("journal.intent", "worker", "gateway.journal.writer:JournalWriter.intend"),
    Seam("request", "worker", "gateway.relay.upstream:Upstream.send"),  # after: it is in the socket
    Seam("head", "worker", "gateway.exchange:_begin"),  # OpenAI's head is read, the client has none yet
    Seam("chunk", "worker", "gateway.relay.carry:Carry.take"),
    Seam("close", "worker", "gateway.exchange:close_exchange"),  # from what was seen to an entry
    Seam("journal.entry", "worker", "gateway.journal.writer:JournalWriter.append"),
    Seam("settle", "worker", "gateway.admission.shares:AccountShares.settle"),
    Seam("last_bytes", "worker", "gateway.relay.carry:Carry.release"),
    Seam("release_connection", "worker", "gateway.relay.pool:Pool.release"),
    # beside the path
    Seam("body", "worker", "gateway.relay.call:Call.add"),  # each piece of a request's
    Seam("make_segment", "worker", "gateway.journal.allocate:make_segment"),
    Seam("next_segment", "worker", "gateway.journal.writer:JournalWriter._roll"),
    Seam("journal.sync", "worker", "gateway.journal.commit:sync_segments"),  # armed, the worker syncs in a thread and not beside itself
    Seam("journal.close", "worker", "gateway.journal.writer:JournalWriter.close"),
    Seam("take_snapshot", "worker", "gateway.control.worker_end:WorkerControl._take"),
    Seam("listen_control", "worker", "gateway.control.worker_end:WorkerControl.start"),
    # from the journals to the ledger
    Seam("ledger.open", "books", "gateway.books.bookkeeper:Bookkeeper.prepare"),
    Seam("read", "books", "gateway.journal.reader:JournalReader.read"),
    Seam("ledger.fold", "books", "gateway.ledger.sqlite:SqliteLedger.fold"),
    Seam("ledger.watermark", "books", "gateway.ledger.sqlite:SqliteLedger._move_watermark"),  # inside the transaction, last
    Seam("ledger.commit", "books", "gateway.ledger.sqlite:SqliteLedger._commit"),
    Seam("ledger.orphans", "books", "gateway.ledger.sqlite:SqliteLedger.fold_orphans"),
    Seam("ledger.supersede", "books", "gateway.ledger.sqlite:SqliteLedger.supersede"),
    Seam("ledger.events", "books", "gateway.ledger.sqlite:SqliteLedger.add_events"),
    Seam("delete_segments", "books", "gateway.books.bookkeeper:delete_covered"),
    # between books and workers
    Seam("greet", "books", "gateway.books.reloading:Configuration.greet"),
    Seam("refill", "books", "gateway.control.books_end:WorkerLink.refill"),
    Seam("reload", "books", "gateway.books.reloading:Configuration.reload"),
    Seam("push", "books", "gateway.control.books_end:WorkerLink.push"),  # after: the worker has taken it, and nobody knows
    Seam("rule", "books", "gateway.books.reloading:Configuration._rule"),
    Seam("drain", "books", "gateway.books.follow:Follower.drain"),
    # over both
    Seam("keep_role", "serve", "gateway.serve:Role.keep_running"),
    Seam("stop_role", "serve", "gateway.serve:Role.stop"),
)
NAMES = tuple(f"{seam.name}.{moment}" for seam in SEAMS for moment in ("before", "after"))
ACTIONS = ("kill", "exit", "enospc", "eio", "error", "jump:<seconds>", "tell")

_ORDER = re.compile(r"([\w.*]+)=(kill|exit|enospc|eio|error|tell|jump:-?\d{1,9})(?:@(\d+)(?:-(\d+))?|%(0?\.\d+|1):(\d+))?")


class BadFailpoint(ValueError):
    """An order that cannot be read, or names a failpoint that is none. A sentence that names those there are."""


class FailpointError(RuntimeError):
    """What the action `error` raises: stands for a fault of our own."""


@dataclass(frozen=True, slots=True)
class Order:
    """When a failpoint acts, and what it does."""

    name: str
    action: str
    first: int = 1  # counted from 1, in each process
    last: int | None = None  # None: for ever
    probability: float = 1.0
    seed: int = 0


def parse(text: str) -> tuple[Order, ...]:
    """Orders out of `name=action[@first[-last] | %probability:seed]`, parted by semicolons. `*` is every name. Raises BadFailpoint."""
    found: list[Order] = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        match = _ORDER.fullmatch(part)
        if match is None:
            shape = "<failpoint>=<action>, with @<n>, @<n>-<m> or %<probability>:<seed> behind it"
            raise BadFailpoint(f"{VARIABLE}: {part!r} is not {shape}; actions are {', '.join(ACTIONS)}")
        name, action, first, last, probability, seed = match.groups()
        if name != "*" and name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, 1)
            hint = f"; did you mean {near[0]}?" if near else ";"
            raise BadFailpoint(f"{VARIABLE}: there is no failpoint {name!r}{hint} There are {', '.join(NAMES)}")
        begins, ends = int(first or 1), int(last or first) if first else None
        if begins < 1 or (ends is not None and ends < begins):
            raise BadFailpoint(f"{VARIABLE}: {part!r} never acts: times are counted from 1, and the last is not before the first")
        names = NAMES if name == "*" else (name,)
        found += [Order(each, action, begins, ends, float(probability or 1), int(seed or 0)) for each in names]
    return tuple(found)


def arm(role: Role, text: str) -> tuple[Order, ...]:
    """Put the orders for this role in place; gives them back. Nothing at all happens for an empty text. Raises BadFailpoint."""
    if text.startswith("file:"):
        file = text.removeprefix("file:")
        try:
            text = Path(file).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise BadFailpoint(f"{VARIABLE}: the file {file!r} cannot be read: {reason}") from error
    orders = parse(text)
    own = [(seam, orders_of) for seam in SEAMS if seam.role == role and (orders_of := [o for o in orders if _seam_of(o.name) == seam.name])]
    for seam, orders_of in own:
        owner, name = owner_of(seam)
        before = [_Failpoint(order) for order in orders_of if order.name.endswith(".before")]
        after = [_Failpoint(order) for order in orders_of if order.name.endswith(".after")]
        setattr(owner, name, _wrapped(getattr(owner, name), before, after))
    armed = tuple(order for _, orders_of in own for order in orders_of)
    if armed:
        _log.warning("failpoints_armed", role=role, count=len(armed))
    return armed


def owner_of(seam: Seam) -> tuple[Any, str]:
    """The module or class that holds a seam's function, and its name there. ImportError or AttributeError when there is none."""
    module, _, path = seam.where.partition(":")
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for each in owners:
        owner = getattr(owner, each)
    if name not in vars(owner):
        raise AttributeError(f"{seam.where} is not there: rename the seam {seam.name!r} with the function, or drop it")
    return owner, name


def _seam_of(name: str) -> str:
    return name.rpartition(".")[0]


class _Failpoint:
    """Counts how often its place is reached, and acts when it is time."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._chance = Random(f"{order.seed} {order.name}")
        self._reached = 0
        self._turn = threading.Lock()

    def reached(self) -> None:
        order = self._order
        with self._turn:
            self._reached += 1
            count = self._reached
            acts = count >= order.first and (order.last is None or count <= order.last)
            acts = acts and (order.probability >= 1 or self._chance.random() < order.probability)
        if acts:
            _act(order, count)


def _act(order: Order, count: int) -> None:
    _log.warning("failpoint", name=order.name, action=order.action, reached=count)
    action, _, seconds = order.action.partition(":")
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "exit":
        os._exit(EXIT_STATUS)
    elif action == "enospc":
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} (failpoint {order.name})")
    elif action == "eio":
        raise OSError(errno.EIO, f"{os.strerror(errno.EIO)} (failpoint {order.name})")
    elif action == "error":
        raise FailpointError(f"failpoint {order.name}")
    elif action == "jump":
        _jump(int(seconds))


def _jump(seconds: int) -> None:
    """Set this process's clock, as an operator or a time server may; the monotonic clock goes on."""
    time_ns = time.time_ns
    time.time_ns = lambda: time_ns() + seconds * 1_000_000_000
    time.time = lambda: time.time_ns() / 1e9


def _wrapped(function: Callable[..., Any], before: list[_Failpoint], after: list[_Failpoint]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(function):

        @wraps(function)
        async def through_async(*args: Any, **options: Any) -> Any:
            for failpoint in before:
                failpoint.reached()
            result = await function(*args, **options)
            for failpoint in after:
                failpoint.reached()
            return result

        return through_async

    @wraps(function)
    def through(*args: Any, **options: Any) -> Any:
        for failpoint in before:
            failpoint.reached()
        result = function(*args, **options)
        for failpoint in after:
            failpoint.reached()
        return result

    return through
