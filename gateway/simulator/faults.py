"""Faults on demand: what a request asks for in X-Simulator-Fault, or what was queued for it.

`X-Simulator-Fault: name[=value][;name=value]`, the names below. Without the header a request takes the first queued
order whose path is its own (`POST /simulator/faults`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.simulator.refusal import Refusal, invalid
from gateway.simulator.usage import MALFORMED
from gateway.units import div_ceil, duration_text

MS_MAX = 600_000
COUNT_MAX = 10**9
ORDERS_MAX = 1000  # queued: a test that forgets to use them up must not fill the memory


@dataclass(frozen=True, slots=True)
class Faults:
    """What shall go wrong with one answer. The defaults: nothing."""

    status: int | None = None  # answers this error; nothing is billed
    retry_after_ms: int = 20  # of status=429 and 503
    hang_before_head: bool = False  # never answers; nothing is billed
    stall_before_head: int = 0  # ms
    stall_mid_stream: int = 0  # ms, in the middle of the answer
    stall_before_end: int = 0  # ms, before usage and the end: after finish_reason has passed
    slow_bytes: int = 0  # ms between the first bytes of the body
    cut_after_bytes: int | None = None  # bytes of the body, then the connection closes
    cut_after_events: int | None = None  # a JSON answer is one event
    close_without_answer: bool = False  # billed in full, and closed without a byte
    garbage_head: bool = False  # billed in full, and what comes is no HTTP
    bad_chunk: bool = False  # half the answer, then a chunk size that is none
    error_mid_stream: str | None = None  # half a stream, then the error event; "failed": response.failed, which bills
    malformed_usage: str | None = None  # one of MALFORMED
    no_usage: bool = False
    model: str | None = None  # answers under this name and is priced as it
    service_tier: str | None = None  # answers as this tier and is priced as it

    @property
    def on_the_way(self) -> bool:
        """Whether the answer must not be sent plainly in one piece."""
        timed = self.hang_before_head or self.stall_before_head or self.stall_mid_stream or self.stall_before_end or self.slow_bytes
        cut = self.cut_after_bytes is not None or self.cut_after_events is not None or self.close_without_answer
        return bool(timed or cut or self.garbage_head or self.bad_chunk or self.error_mid_stream)


NO_FAULTS = Faults()


def _number(maximum: int) -> Callable[[str], int]:
    def read(value: str) -> int:
        if not value.isascii() or not value.isdigit() or int(value) > maximum:
            raise ValueError(f"a number up to {maximum}")
        return int(value)

    return read


def _status(value: str) -> int:
    status = _number(599)(value)
    if status < 400:
        raise ValueError("a status from 400 to 599")
    return status


def _flag(value: str) -> bool:
    if value:
        raise ValueError("no value")
    return True


def _word(value: str) -> str:
    if not value:
        raise ValueError("a value")
    return value


def _one_of(*words: str) -> Callable[[str], str]:
    def read(value: str) -> str:
        value = value or words[0]
        if value not in words:
            raise ValueError(f"one of {', '.join(words)}")
        return value

    return read


READERS: dict[str, Callable[[str], Any]] = {
    "status": _status,
    "retry_after_ms": _number(MS_MAX),
    "hang_before_head": _flag,
    "stall_before_head": _number(MS_MAX),
    "stall_mid_stream": _number(MS_MAX),
    "stall_before_end": _number(MS_MAX),
    "slow_bytes": _number(MS_MAX),
    "cut_after_bytes": _number(COUNT_MAX),
    "cut_after_events": _number(COUNT_MAX),
    "close_without_answer": _flag,
    "garbage_head": _flag,
    "bad_chunk": _flag,
    "error_mid_stream": _one_of("error", "failed"),
    "malformed_usage": _one_of(*MALFORMED),
    "no_usage": _flag,
    "model": _word,
    "service_tier": _word,
}


def parse(text: str) -> Faults:
    """`name[=value][;name=value]` as Faults. Refusal 400: a name that is none, or a value it cannot have."""
    wanted: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, _, value = part.partition("=")
        if name not in READERS:
            raise invalid(f"The simulator knows no fault {name!r}; it knows {', '.join(READERS)}.", "X-Simulator-Fault")
        try:
            wanted[name] = READERS[name](value)
        except ValueError as wrong:
            raise invalid(f"The fault {name} takes {wrong}, not {value!r}.", "X-Simulator-Fault") from None
    return Faults(**wanted)


class Order(msgspec.Struct):
    """Faults queued for the next `times` requests of a path (None: of any). The body of POST /simulator/faults."""

    faults: list[str]
    path: str | None = None
    times: int = 1


class FaultQueue:
    """Orders in the order they came; each request takes from the first that is for its path."""

    def __init__(self) -> None:
        self._orders: deque[tuple[Order, Faults]] = deque()

    def add(self, order: Order) -> None:
        """Queue it. Refusal 400: the faults are not readable, or the queue is full."""
        faults = parse(";".join(order.faults))
        if len(self._orders) >= ORDERS_MAX:
            raise invalid(f"{ORDERS_MAX} orders are queued already; DELETE /simulator/faults drops them.")
        if order.times < 1:
            raise invalid("times must be at least 1.", "times")
        if order.path is not None and not order.path.startswith("/v1"):
            order.path = "/v1" + order.path
        self._orders.append((order, faults))

    def take(self, path: str) -> Faults:
        """The faults for a request of this path (with /v1), and one time less of them."""
        for order, faults in self._orders:
            if order.path is None or order.path == path:
                order.times -= 1
                if not order.times:
                    self._orders.remove((order, faults))
                return faults
        return NO_FAULTS

    def waiting(self) -> list[Order]:
        """What is queued and not yet used up."""
        return [order for order, _ in self._orders]

    def clear(self) -> None:
        """Forget everything queued."""
        self._orders.clear()


def ordered_status(faults: Faults, status: int, model: str | None) -> Refusal:
    """The error a `status=` fault answers, with OpenAI's wording where the reference has it."""
    known = {
        429: ("tokens", "rate_limit_exceeded", _limit_text(faults, model)),
        500: ("server_error", None, "The server had an error while processing your request. Sorry about that!"),
        503: ("service_unavailable_error", "server_is_overloaded", "The engine is currently overloaded, please try again later"),
    }
    fallback = ("server_error" if status >= 500 else "invalid_request_error", None, f"The simulator was told to answer {status}.")
    kind, code, message = known.get(status, fallback)
    refusal = Refusal(status, kind, message, code)
    if status in (429, 503):
        refusal.headers = {"retry-after": str(div_ceil(faults.retry_after_ms, 1000)), "retry-after-ms": str(faults.retry_after_ms)}
    return refusal


def _limit_text(faults: Faults, model: str | None) -> str:
    short = max(1, faults.retry_after_ms * 30_000 // 60_000)
    return (
        f"Rate limit reached for {model or 'default'} in organization org-simulator on tokens per min (TPM): Limit 30000, "
        f"Used 30000, Requested {short}. Please try again in {duration_text(faults.retry_after_ms * 1000)}. "
        "Visit https://platform.openai.com/account/rate-limits to learn more."
    )
