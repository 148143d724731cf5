"""Waiting on the hot path without futures and tasks.

An exchange is a plain coroutine. The connection that owns it steps it by hand: it runs until it awaits a `Gate`, and goes
on, in the same stack, when the gate opens. That saves a task, its context and one turn of the loop for every wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Gate(Generic[T]):
    """One thing to wait for, once, by one coroutine that `Steps` runs."""

    __slots__ = ("_error", "_opened", "_value", "waiter")

    def __init__(self) -> None:
        self._opened = False
        self._value: T | None = None
        self._error: BaseException | None = None
        self.waiter: Callable[[], None] | None = None

    @property
    def opened(self) -> bool:
        """Whether a wait would return at once."""
        return self._opened

    def open(self, value: T) -> None:
        """Let the waiter through with a value. Later calls change nothing."""
        if not self._opened:
            self._opened, self._value = True, value
            self._wake()

    def fail(self, error: BaseException) -> None:
        """Let the waiter through with an exception. Later calls change nothing."""
        if not self._opened:
            self._opened, self._error = True, error
            self._wake()

    def _wake(self) -> None:
        waiter, self.waiter = self.waiter, None
        if waiter is not None:
            waiter()

    def __await__(self) -> Generator[Gate[T], None, T]:
        if not self._opened:
            yield self
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]  # open() set it


def gate_of(coroutine: Coroutine[Any, Any, T], tasks: set[asyncio.Task[T]]) -> Gate[T]:
    """Run an ordinary asyncio coroutine as a task of its own (kept in `tasks`) and wait for it at a gate."""
    gate: Gate[T] = Gate()
    task = asyncio.get_running_loop().create_task(coroutine)
    tasks.add(task)

    def done(task: asyncio.Task[T]) -> None:
        tasks.discard(task)
        if task.cancelled():
            gate.fail(ConnectionAbortedError("cancelled"))
        elif (error := task.exception()) is not None:
            gate.fail(error)
        else:
            gate.open(task.result())

    task.add_done_callback(done)
    return gate


class Steps:
    """Runs one coroutine from gate to gate. `ended` is called once, with the exception that left it, if any."""

    __slots__ = ("_coroutine", "_ended")

    def __init__(self, coroutine: Coroutine[Gate[Any], None, None], ended: Callable[[BaseException | None], None]) -> None:
        self._coroutine = coroutine
        self._ended = ended

    def step(self) -> None:
        """Run to the next gate that is not open."""
        try:
            gate = self._coroutine.send(None)
        except StopIteration:
            self._ended(None)
        except Exception as error:
            self._ended(error)
        else:
            gate.waiter = self.step
