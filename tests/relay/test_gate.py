"""Waiting without tasks: gates, and the steps between them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.relay.gate import Gate, Steps, gate_of


class Run:
    """One coroutine on its steps; notes how it ended."""

    def __init__(self, coroutine: Any) -> None:
        self.ended: list[BaseException | None] = []
        self.steps = Steps(coroutine, self.ended.append)
        self.steps.step()


def test_a_gate_that_is_open_lets_through_at_once() -> None:
    gate: Gate[int] = Gate()
    gate.open(3)
    seen: list[int] = []

    async def walk() -> None:
        seen.append(await gate)
        seen.append(await gate)

    assert Run(walk()).ended == [None]
    assert seen == [3, 3]


def test_a_coroutine_goes_on_inside_the_call_that_opens_its_gate() -> None:
    gate: Gate[str] = Gate()
    seen: list[str] = []

    async def walk() -> None:
        seen.append("before")
        seen.append(await gate)

    run = Run(walk())
    assert (seen, run.ended, gate.opened) == (["before"], [], False)
    gate.open("behind")
    assert (seen, run.ended, gate.opened) == (["before", "behind"], [None], True)


def test_only_the_first_opening_counts() -> None:
    gate: Gate[int] = Gate()
    gate.open(1)
    gate.open(2)
    gate.fail(ValueError("late"))
    seen: list[int] = []

    async def walk() -> None:
        seen.append(await gate)

    assert Run(walk()).ended == [None]
    assert seen == [1]


@pytest.mark.parametrize("failed_first", [True, False], ids=["failed before the wait", "failed behind it"])
def test_a_gate_that_fails_raises_where_it_is_awaited(failed_first: bool) -> None:
    gate: Gate[int] = Gate()
    seen: list[str] = []

    async def walk() -> None:
        try:
            await gate
        except ValueError as error:
            seen.append(str(error))

    if failed_first:
        gate.fail(ValueError("no"))
    run = Run(walk())
    gate.fail(ValueError("no"))
    gate.open(1)
    assert (seen, run.ended) == (["no"], [None])


def test_what_leaves_the_coroutine_is_told_once() -> None:
    gate: Gate[None] = Gate()

    async def walk() -> None:
        await gate
        raise KeyError("gone")

    run = Run(walk())
    gate.open(None)
    assert [repr(error) for error in run.ended] == ["KeyError('gone')"]


def test_gates_in_coroutines_inside_are_waited_for_in_turn() -> None:
    gates: list[Gate[int]] = [Gate(), Gate(), Gate()]

    async def inner(number: int) -> int:
        return await gates[number]

    seen: list[int] = []

    async def walk() -> None:
        seen.append(await inner(0) + await inner(1))
        seen.append(await inner(2))

    run = Run(walk())
    gates[1].open(10)  # out of turn: nothing moves, and nothing is lost
    assert seen == []
    gates[0].open(1)
    assert seen == [11]
    gates[2].open(5)
    assert (seen, run.ended) == ([11, 5], [None])


def test_one_coroutine_may_open_the_gate_of_another() -> None:
    first, second = Gate[int](), Gate[int]()
    seen: list[str] = []

    async def walk(name: str, mine: Gate[int], others: Gate[int]) -> None:
        await mine
        seen.append(name)
        others.open(0)
        seen.append(f"{name} behind")

    runs = [Run(walk("a", first, second)), Run(walk("b", second, first))]
    first.open(0)
    assert seen == ["a", "b", "b behind", "a behind"]
    assert [run.ended for run in runs] == [[None], [None]]


ENDS = [("returns", 7), ("raises", "ValueError('no')"), ("is cancelled", "ConnectionAbortedError('cancelled')")]


@pytest.mark.parametrize(("how", "expected"), ENDS)
def test_an_asyncio_coroutine_is_waited_for_at_a_gate(how: str, expected: object) -> None:
    async def work() -> int:
        await asyncio.get_running_loop().run_in_executor(None, lambda: None)
        if how == "raises":
            raise ValueError("no")
        return 7

    async def test() -> tuple[object, int]:
        tasks: set[asyncio.Task[int]] = set()
        seen: list[object] = []

        async def walk() -> None:
            try:
                seen.append(await gate_of(work(), tasks))
            except Exception as error:
                seen.append(repr(error))

        run = Run(walk())
        (task,) = tasks
        if how == "is cancelled":
            task.cancel()
        await asyncio.wait([task])
        await asyncio.get_running_loop().run_in_executor(None, lambda: None)
        assert run.ended == [None]
        return seen[0], len(tasks)

    assert asyncio.run(test()) == (expected, 0)
