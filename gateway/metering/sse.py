"""Server-sent events, cut anywhere: what may go on at once, what must be edited first, what waits for the entry.

The common part of the stream observers. Events end at an empty line; lines end in LF or CRLF. Whole events are offered to
`_bulk` as many at a time as it takes, which it passes on or edits without looking at single ones, in C; what it refuses
is looked at one by one. Memory is bounded by one event, and work by the bytes that came, however they are cut.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod

from gateway.metering.answers import Observed, Reader

EVENT_BYTES_MAX = 4_194_304
ANSWER_BYTES_MAX = 33_554_432

_EVENT_END = re.compile(rb"\n\r?\n")
_NO_EVENTS = re.compile(rb"\n{2,}|(?:\r?\n){2,}")  # empty lines, any number at once: one by one, a read full of them holds up everybody
_END_BYTES_MAX = 3
_REACH_BYTES = 16_384  # of the first events offered at once: what one TLS record holds, which is what a burst is read in
_REACH_GROWTH = 4  # after a success: many events soon go at once, and what one refusal wastes stays in proportion
_FAILED = (MemoryError, RecursionError)  # what reading may raise whatever it reads; it then counts as metering lost
_FAILED_REASON = "an answer could not be read: out of memory, or nested too deeply"


class AnswerObserver:
    """Watches a whole JSON answer go by. Every byte passes at once; a copy of at most `answer_bytes_max` is read at the end.

    Where the last bytes must wait, who frames the answer (Content-Length, chunks) holds them: an answer has no terminal event.
    It was generated, and is billed, before its first byte came: `usage_due` from the start, so that leaving early is not free.
    """

    def __init__(self, read: Reader, *, answer_bytes_max: int = ANSWER_BYTES_MAX) -> None:
        self.ended = False
        self.usage_due = True
        self.started = False
        self._read = read
        self._kept: list[bytes] = []
        self._room_bytes = answer_bytes_max

    def feed(self, data: bytes) -> bytes:
        """All of it."""
        if data:
            self.started = True
            self._room_bytes -= len(data)
            if self._room_bytes >= 0:
                self._kept.append(data)
            else:
                self._kept.clear()
                self.usage_due = False  # it would not be read
        return data

    def release(self) -> bytes:
        """Nothing: nothing was held."""
        return b""

    def finish(self) -> Observed:
        """What the answer says it used. Total."""
        if self._room_bytes < 0:
            return Observed(lost="answer is larger than answer_bytes_max")
        try:
            return self._read(self._kept[0] if len(self._kept) == 1 else b"".join(self._kept))
        except _FAILED:
            return Observed(lost=_FAILED_REASON)


class StreamObserver(ABC):
    """Feeds on a stream. What it returns goes to the client now; what it holds comes out of `release`.

    `edits`: events are taken apart, so an incomplete one waits. Otherwise bytes pass as they come and only what may be the
    terminal event waits.
    """

    def __init__(self, read_whole: Reader, *, edits: bool, event_bytes_max: int) -> None:
        self.ended = False
        self.usage_due = False
        self.started = False
        self._lost: str | None = None
        self._edits = edits
        self._event_bytes_max = event_bytes_max
        self._read_whole = read_whole
        self._whole: AnswerObserver | None = None  # set when the answer turns out to be JSON and not a stream
        self._opening = True  # no byte but white space has come
        self._tail = bytearray()  # an event that is not complete
        self._sent = 0  # how much of the tail the client has; stays 0 when editing
        self._oversized = False  # inside an event that is passed on unread
        self._held = bytearray()
        self._released = False
        self._flowing = False  # neither opening nor over: whole events may go through `_bulk`

    # Of each kind of stream

    @abstractmethod
    def _bulk(self, block: bytes) -> bytes | None:
        """A block of whole events behind the first content, as it goes to the client; None: look at them one by one."""

    @abstractmethod
    def _plain_bytes(self, block: bytes, at: int, reach: int) -> int:
        """How far `_bulk` may get from there, at most `reach`. A hint: what it names spares looks, and decides nothing."""

    @abstractmethod
    def _event(self, event: bytes) -> bytes:
        """One whole event as it goes to the client. Sets `ended` when it is terminal: then it is returned unedited."""

    @abstractmethod
    def _may_end(self, tail: bytes) -> bool:
        """Whether the event that begins like this may be the terminal one."""

    @abstractmethod
    def _observed(self) -> Observed:
        """What was seen so far."""

    # Feeding

    def feed(self, data: bytes) -> bytes:
        """Bytes that may go to the client now."""
        if not self._tail and data.endswith(b"\n\n"):
            passed = self._at_once(data)
            if passed is not None:
                return passed
        if self._released:
            return data
        if self.ended:
            return self._hold(data)
        if self._opening and self._is_json(data):
            self._whole = AnswerObserver(self._read_whole)
            self.usage_due = True
        if self._whole is not None:
            return self._feed_whole(data)
        searched = max(0, len(self._tail) - _END_BYTES_MAX)
        self._tail += data
        return self._skip() if self._oversized else self._advance(searched)

    def release(self) -> bytes:
        """What was held: the terminal event and all after it, or an event that never became whole. All that is fed later passes."""
        self._finish_tail()
        self._released, self._flowing = True, False
        held, self._held = bytes(self._held), bytearray()
        return held

    def finish(self) -> Observed:
        """What the stream was seen to use. Total."""
        if self._whole is not None:
            return self._whole.finish()
        try:
            self._finish_tail()
            return self._observed()
        except _FAILED:
            return Observed(lost=_FAILED_REASON)

    def _is_json(self, data: bytes) -> bool:
        first = data.lstrip()[:1]
        self._opening = not first
        self._flowing = bool(first) and first != b"{"
        return first == b"{"

    def _feed_whole(self, data: bytes) -> bytes:
        assert self._whole is not None
        self.started = True
        if self._tail:
            data = bytes(self._tail) + data
            self._tail.clear()
        sent, self._sent = self._sent, 0
        return self._whole.feed(data)[sent:]

    def _advance(self, searched: int) -> bytes:
        """Take all whole events off the tail."""
        tail = self._tail
        last_lf, last_crlf = tail.rfind(b"\n\n", searched), tail.rfind(b"\n\r\n", searched)
        if last_lf < 0 and last_crlf < 0:
            return self._pass_partial()
        end = max(last_lf + 2, last_crlf + 3) if last_crlf >= 0 else last_lf + 2
        passed: list[bytes] = []
        taken = self._walk(bytes(tail[:end]), passed)
        del tail[:taken]
        out = b"".join(passed)
        sent, self._sent = self._sent, 0
        if not self.ended:
            return out[sent:] + self._pass_partial()
        self._flowing = False
        self._held = tail[max(0, sent - len(out)) :]
        tail.clear()
        return out[sent:]

    def _walk(self, block: bytes, passed: list[bytes]) -> int:
        """Take the events of a block up to the terminal one; how many bytes that was.

        Offers as many at once as `reach` bytes hold, and adapts that: less after a refusal, more after a success. Thus few
        events that matter in a burst cost few looks, and whatever the block, a byte is looked at a bounded number of times.
        """
        at, reach, refused = 0, _REACH_BYTES, -1
        while not self.ended:
            end = _last_end_within(block, at, self._plain_bytes(block, at, reach)) if self.started else at
            alone = end == at
            if alone:
                found = _NO_EVENTS.match(block, at) or _EVENT_END.search(block, at)
                if found is None:
                    break  # all is taken, or one line end too many is left: it begins the next event
                end, reach = found.end(), reach // 2 if self.started else reach
            events = block[at:end]
            taken = self._at_once(events) if end != refused else None
            if taken is not None:
                reach = (end - at) * _REACH_GROWTH
            elif alone:
                taken = self._checked_event(events)
            else:
                refused, reach = end, (end - at) // 2
            if taken is not None and not self.ended:
                passed.append(taken)
                at, refused = end, -1
        return at

    def _at_once(self, events: bytes) -> bytes | None:
        """Whole events as they go to the client; None: they must be looked at one by one."""
        if not self._flowing or not self.started or len(events) > self._event_bytes_max:
            return None
        try:
            return self._bulk(events)
        except _FAILED:
            return None

    def _checked_event(self, event: bytes) -> bytes:
        if len(event) > self._event_bytes_max:
            self._lost = "an event is larger than event_bytes_max"
            return event
        try:
            return self._event(event)
        except _FAILED:
            self._lost = _FAILED_REASON
            return event

    def _pass_partial(self) -> bytes:
        """What may go of an event that is not complete."""
        tail = self._tail
        if len(tail) > self._event_bytes_max:
            self._lost = "an event is larger than event_bytes_max"
            self._oversized = True
            return self._keep_end()
        if self._edits or self._may_end(bytes(tail[:64])):
            return b""
        passed = bytes(tail[self._sent :])
        self._sent = len(tail)
        return passed

    def _skip(self) -> bytes:
        """Pass on the rest of an oversized event."""
        found = _EVENT_END.search(self._tail)
        if found is None:
            return self._keep_end()
        self._oversized = False
        passed = bytes(self._tail[self._sent : found.end()])
        del self._tail[: found.end()]
        self._sent = 0
        return passed + self._advance(0)

    def _keep_end(self) -> bytes:
        """Pass on all of the tail, but remember enough of it to see the event end."""
        passed = bytes(self._tail[self._sent :])
        del self._tail[: -(_END_BYTES_MAX - 1)]
        self._sent = len(self._tail)
        return passed

    def _hold(self, data: bytes) -> bytes:
        self._held += data
        if len(self._held) > self._event_bytes_max:  # nobody sends so much after the end; memory stays bounded
            return self.release()
        return b""

    def _finish_tail(self) -> None:
        """The stream is over: a last event without its empty line is read like any other."""
        if not self._tail or self.ended:
            return
        tail, self._tail = bytes(self._tail), bytearray()
        sent, self._sent = self._sent, 0
        if self._oversized:
            return
        passed = self._checked_event(tail)
        self._held = bytearray(passed[sent:])


def _last_end_within(block: bytes, at: int, reach: int) -> int:
    """Where the last event ends that lies within so many bytes; `at`: nothing is so short, or it is for a closer look.

    Only at an empty line behind a line with content: there, looking back finds what reading from the start does.
    """
    last = block.rfind(b"\n\n", at, at + reach)
    return last + 2 if last > at and block[last - 1] not in b"\r\n" else at


def bytes_before(marks: tuple[bytes, ...], block: bytes, at: int, reach: int) -> int:
    """How far it is from there to the first of these marks; `reach` if none is closer."""
    for mark in marks:
        found = block.find(mark, at, at + reach)
        if found >= 0:
            reach = found - at
    return reach


def data_of(event: bytes) -> bytes:
    """The data of one event: its `data` lines joined by LF."""
    if event.startswith(b"data: ") and event.find(b"\n") >= len(event) - 2:
        return event[6:].rstrip(b"\r\n")
    if b"data:" not in event:
        return b""
    lines = [line.rstrip(b"\r")[5:] for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(line[1:] if line.startswith(b" ") else line for line in lines)


def with_data(event: bytes, data: bytes) -> bytes:
    """The event with other data. Lines that are not data stay; the data stand where the first data line stood."""
    *whole, rest = event.split(b"\n")
    lines = [line + b"\n" for line in whole] + ([rest] if rest else [])
    first = next(i for i, line in enumerate(lines) if line.startswith(b"data:"))
    prefix = b"data: " if lines[first].startswith(b"data: ") else b"data:"
    ending = next((ending for ending in (b"\r\n", b"\n") if lines[first].endswith(ending)), b"")
    written = [prefix + part + ending for part in data.split(b"\n")]
    return b"".join([*lines[:first], *written, *(line for line in lines[first:] if not line.startswith(b"data:"))])
