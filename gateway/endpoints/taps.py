"""What listens to answers that carry no usage: the list of models, and bytes that only pass. Pure."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gateway.errors import ApiError
from gateway.metering.answers import Observed, read_plain_answer
from gateway.metering.observers import AnswerObserver

LIST_BYTES_MAX = 4_194_304  # some hundred models at a few hundred bytes; more is not a list of models


class _Model(msgspec.Struct):
    id: str


class _List(msgspec.Struct):
    data: list[msgspec.Raw]


class ModelsFilter:
    """Holds the list back until it is whole, then lets through what the team may see. Every item stays byte for byte."""

    ended = False
    usage_due = False
    started = False

    def __init__(self, may_see: Callable[[str], bool]) -> None:
        self._may_see = may_see
        self._body = b""
        self._too_large = False

    def feed(self, data: bytes) -> bytes:
        """Nothing passes before all of it is there."""
        if len(self._body) + len(data) > LIST_BYTES_MAX:
            self._too_large = True
        else:
            self._body += data
        return b""

    def release(self) -> bytes:
        """The list as the team sees it; an empty one when OpenAI's cannot be read, since it must not show too much."""
        items: list[bytes] = []
        try:
            if not self._too_large:
                listed = msgspec.json.decode(self._body, type=_List).data
                items = [bytes(raw) for raw in listed if self._may_see(msgspec.json.decode(raw, type=_Model).id)]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            items = []
        return b'{"object":"list","data":[%b]}' % b",".join(items)

    def finish(self) -> Observed:
        """A list uses nothing."""
        return _NOTHING_SEEN


class Replaced:
    """Takes OpenAI's answer in, reads its error code, and gives an error of ours in its place."""

    ended = False
    usage_due = False
    started = False

    def __init__(self, error: ApiError) -> None:
        self.error = error
        self._answer = AnswerObserver(read_plain_answer)

    def feed(self, data: bytes) -> bytes:
        """Nothing of it may go."""
        self._answer.feed(data)
        return b""

    def release(self) -> bytes:
        """Ours."""
        return self.error.body()

    def finish(self) -> Observed:
        """What OpenAI said."""
        return self._answer.finish()


class PassThrough:
    """Lets everything through and sees nothing; `lost` says why, where something should have been seen."""

    ended = False
    usage_due = False

    def __init__(self, lost: str | None = None) -> None:
        self.started = False
        self._lost = lost

    def feed(self, data: bytes) -> bytes:
        """All of it may go."""
        self.started = True
        return data

    def release(self) -> bytes:
        """Nothing waited."""
        return b""

    def finish(self) -> Observed:
        """Nothing was seen."""
        return Observed(lost=self._lost)


_NOTHING_SEEN = Observed()
