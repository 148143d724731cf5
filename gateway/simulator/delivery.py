"""How an answer reaches the client: at its pace, with its faults, and never before its line is in the account."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto

from aiohttp import web

from gateway.simulator.call import Answer, Call, Step
from gateway.simulator.desk import Desk, Pace
from gateway.simulator.faults import Faults

SLOW_BYTES_MAX = 64  # of a body that go one by one; enough to split any head, event or number
STEPS_PER_TURN = 16  # of an instant stream, before the loop may see that the client has left
GARBAGE = b"\x16\x03\x01\x00\xa5 this is no HTTP \xff\xfe\r\n\r\n"
NO_CHUNK = b"zz\r\nthis is no chunk\r\n"


class Ending(Enum):
    """How the bytes of an answer end."""

    WHOLE = auto()
    CUT = auto()
    BAD_CHUNK = auto()
    GARBAGE = auto()  # instead of a head
    SILENT = auto()  # closed without a byte
    HANG = auto()


@dataclass(frozen=True, slots=True)
class Plan:
    """An answer with its faults worked in. `failed`: it ends early, by an error event."""

    steps: tuple[Step, ...]
    ending: Ending = Ending.WHOLE
    failed: bool = False


def plan_of(answer: Answer, faults: Faults) -> Plan:
    """What will be sent, and how it ends. Pure."""
    steps = tuple(answer.steps)
    if faults.hang_before_head:
        return Plan((), Ending.HANG)
    if faults.close_without_answer:
        return Plan((), Ending.SILENT)
    if faults.garbage_head:
        return Plan((), Ending.GARBAGE)
    if faults.cut_after_events is not None:
        return Plan(steps[: faults.cut_after_events], Ending.CUT)
    if faults.cut_after_bytes is not None:
        return Plan(_first_bytes(steps, faults.cut_after_bytes), Ending.CUT)
    if len(steps) == 1 and (faults.bad_chunk or faults.stall_mid_stream):
        (whole,) = steps
        half = len(whole.data) // 2
        steps = (replace(whole, data=whole.data[:half], final=False), replace(whole, data=whole.data[half:]))
    middle = len(steps) // 2
    if faults.bad_chunk:
        return Plan(steps[:middle], Ending.BAD_CHUNK)
    if faults.error_mid_stream and answer.failure:
        last = steps[middle - 1]
        return Plan((*steps[:middle], replace(last, data=answer.failure(faults.error_mid_stream, middle, last), final=True)), failed=True)
    if faults.stall_mid_stream:
        steps = (*steps[:middle], replace(steps[middle], pause_ms=faults.stall_mid_stream), *steps[middle + 1 :])
    if faults.stall_before_end:
        first = next(index for index, step in enumerate(steps) if step.final)
        steps = (*steps[:first], replace(steps[first], pause_ms=faults.stall_before_end), *steps[first + 1 :])
    return Plan(steps)


def _first_bytes(steps: tuple[Step, ...], room: int) -> tuple[Step, ...]:
    """The steps that begin within the first `room` bytes, the last of them cut there."""
    kept: list[Step] = []
    for step in steps:
        if room <= 0:
            break
        kept.append(replace(step, data=step.data[:room]))
        room -= len(step.data)
    return tuple(kept)


class Progress:
    """How far an answer has come. Writes its line, once."""

    def __init__(self, call: Call, desk: Desk, answer: Answer) -> None:
        self._call, self._desk, self._answer = call, desk, answer
        self._at = Step(b"")
        self._ended = False
        self.status: int | None = None  # none until the head has gone

    @property
    def tokens(self) -> int:
        """Output tokens that have been generated."""
        return self._at.text + self._at.audio

    def reached(self, step: Step) -> None:
        """All that this step holds has been generated."""
        self._at = step

    def generating(self, towards: Step, tokens: int) -> None:
        """So many tokens have been generated on the way to a step; text comes before sound."""
        text = min(max(tokens - self._at.audio, self._at.text), towards.text)
        self._at = replace(self._at, text=text, audio=min(max(tokens - text, self._at.audio), towards.audio))

    def all_generated(self) -> None:
        """The answer was made to its end, whatever becomes of its bytes."""
        self._at = max(self._answer.steps, key=lambda step: step.text + step.audio + sum(step.fees.values()))

    def done(self, *, complete: bool) -> None:
        """The last bytes are about to go, or never will: write all of it, or what had been generated."""
        if self._ended:
            return
        self._ended = True
        answer, drawn = self._answer, self._answer.draw
        if complete or drawn is None or answer.later:
            if answer.generated:
                answer.generated()
        else:
            drawn = drawn.cut(self._at.text, self._at.audio, self._at.fees)
        if not answer.later:
            self._desk.write(self._call, answer, drawn, self.status, complete=complete)

    def never_began(self) -> None:
        """The call was left hanging: nothing was generated."""
        if not self._ended:
            self._ended = True
            self._desk.write_refused(self._call, None)


class Clock:
    """When a step is due: tokens come at the pace from the start on, so that waiting does not add up."""

    def __init__(self, pace: Pace, start_s: float) -> None:
        self._rate, self._start_s = pace.tokens_per_second, start_s + pace.first_token_ms / 1000

    async def wait(self, step: Step, progress: Progress) -> None:
        """Wait until this step has been generated. If cancelled, leaves in `progress` what had been by then."""
        loop = asyncio.get_running_loop()
        tokens = step.text + step.audio
        if tokens <= progress.tokens:
            return
        due_s = self._start_s + (tokens / self._rate if self._rate else 0)
        try:
            if (wait_s := due_s - loop.time()) > 0:
                await asyncio.sleep(wait_s)
        except asyncio.CancelledError:
            progress.generating(step, int((loop.time() - self._start_s) * self._rate))
            raise


class Sender:
    """Writes one answer to one connection. The head goes with `open`, or with the first bytes."""

    def __init__(self, request: web.Request, headers: Mapping[str, str], length: int | None, slow_ms: int) -> None:
        self._request = request
        self.response = web.StreamResponse(headers=headers)
        if length is not None:
            self.response.content_length = length
        self._slow_ms, self._slow_left = slow_ms, SLOW_BYTES_MAX if slow_ms else 0

    async def open(self) -> None:
        """Send the head."""
        if not self.response.prepared:
            await self.response.prepare(self._request)

    async def send(self, data: bytes) -> None:
        """Send bytes of the body; the first of them one by one if it is to be slow."""
        await self.open()
        slow, rest = data[: self._slow_left], data[self._slow_left :]
        for index in range(len(slow)):
            await self.response.write(slow[index : index + 1])
            self._slow_left -= 1
            await asyncio.sleep(self._slow_ms / 1000)
        if rest:
            await self.response.write(rest)

    def close(self, last: bytes = b"") -> None:
        """End the connection, after bytes that go out as they are, unframed."""
        transport = self._request.transport
        if transport is not None:
            if last:
                transport.write(last)
            transport.close()


def is_open(request: web.Request) -> bool:
    """Whether the client is still there, as far as the socket knows."""
    return request.transport is not None and not request.transport.is_closing()


async def deliver(request: web.Request, call: Call, desk: Desk, answer: Answer, headers: dict[str, str]) -> web.StreamResponse:
    """Send an answer. Its line is in the account before its last bytes are sent, and when this returns or is cancelled."""
    faults, progress = call.faults, Progress(call, desk, answer)
    headers["Content-Type"] = "text/event-stream; charset=utf-8" if answer.streamed else "application/json"
    if not answer.streamed and desk.pace.instant and not faults.on_the_way:
        progress.status = 200
        progress.all_generated()
        progress.done(complete=is_open(request))
        return web.Response(body=answer.steps[0].data, headers=headers)
    plan = plan_of(answer, faults)
    length = None if answer.streamed or faults.bad_chunk else len(answer.steps[0].data)
    sender = Sender(request, headers, length, faults.slow_bytes)
    try:
        await _play(plan, sender, progress, answer, faults, desk.pace)
    except ConnectionError:  # the client has left: aiohttp noticed while writing
        progress.done(complete=False)
    except asyncio.CancelledError:  # the client has left while we waited, or the simulator is stopping
        if plan.ending is Ending.HANG:
            progress.never_began()
        else:
            progress.done(complete=False)
        raise
    return sender.response


async def _play(plan: Plan, sender: Sender, progress: Progress, answer: Answer, faults: Faults, pace: Pace) -> None:
    """Send what was planned, step by step."""
    if plan.ending is Ending.HANG:
        await asyncio.get_running_loop().create_future()
    await asyncio.sleep(faults.stall_before_head / 1000)
    if plan.ending in (Ending.SILENT, Ending.GARBAGE):
        progress.all_generated()
        progress.done(complete=False)
        sender.close(GARBAGE if plan.ending is Ending.GARBAGE else b"")
        return
    clock = Clock(pace, asyncio.get_running_loop().time())
    if answer.streamed:
        await _open(sender, progress)
    first_last = _first_last(plan)
    for index, step in enumerate(plan.steps[:first_last]):
        await _generate(step, clock, progress)
        await _open(sender, progress)
        await sender.send(step.data)
        if index % STEPS_PER_TURN == 0:
            await asyncio.sleep(0)
    tail = plan.steps[first_last:]
    for step in tail:
        await _generate(step, clock, progress)
    if not answer.streamed:
        progress.all_generated()
    await _open(sender, progress)
    progress.done(complete=plan.ending is Ending.WHOLE and not plan.failed)
    await sender.send(b"".join(step.data for step in tail))
    if plan.ending is Ending.WHOLE:
        await sender.response.write_eof()
    else:
        sender.close(NO_CHUNK if plan.ending is Ending.BAD_CHUNK else b"")


def _first_last(plan: Plan) -> int:
    """Index of the first step that must not go before the line is written: the one with the bill, or the last before a cut."""
    final = next((index for index, step in enumerate(plan.steps) if step.final), len(plan.steps))
    return min(final, max(len(plan.steps) - 1, 0)) if plan.ending is not Ending.WHOLE else final


async def _open(sender: Sender, progress: Progress) -> None:
    await sender.open()
    progress.status = 200


async def _generate(step: Step, clock: Clock, progress: Progress) -> None:
    if step.pause_ms:
        await asyncio.sleep(step.pause_ms / 1000)
    await clock.wait(step, progress)
    progress.reached(step)
