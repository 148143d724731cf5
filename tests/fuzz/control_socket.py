"""Messages of the control socket, to either end."""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Any, cast

import msgspec

from gateway.control import messages
from gateway.control.channel import LENGTH, Channel, ChannelLost

from .target import Seeds, control, cut


class _NoWriter:
    """Nothing is sent by who only receives."""


def check_control(data: bytes) -> None:
    """Any bytes on the control socket, to either end: messages, then ChannelLost, and nothing else. Flag 1: frames are made around them."""
    flags, how, sent = control(data)
    union: Any = messages.Up if flags & 2 else messages.Down
    bytes_max = 4_096
    wire = LENGTH.pack(len(sent)) + sent if flags & 1 else sent
    whole, pieces = (_received(union, bytes_max, each) for each in ([wire], list(cut(wire, how))))
    assert whole == pieces, "the messages depend on how the bytes are cut"
    for message in whole:
        assert isinstance(message, union)


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """Never run: nothing waits."""
    return asyncio.new_event_loop()


def _received(union: Any, bytes_max: int, pieces: list[bytes]) -> list[Any]:
    reader = asyncio.StreamReader(loop=_loop())
    for piece in pieces:
        reader.feed_data(piece)
    reader.feed_eof()
    writer = cast(asyncio.StreamWriter, _NoWriter())
    channel: Channel[Any] = Channel(reader, writer, msgspec.msgpack.Decoder(union), bytes_max, bytes_max)
    received: list[Any] = []
    while True:
        try:
            channel.receive().send(None)  # all bytes are there, so it never waits
        except StopIteration as done:
            received.append(done.value)
        except ChannelLost:
            return received
        else:
            raise AssertionError("it waits, though the other end has closed")


def control_seeds() -> Seeds:
    """Every message, framed and not."""
    down = (
        messages.Attach(1), messages.PushSnapshot(1, b"abc"), messages.Refill((messages.Spent("voice", "k", None, 1, 0, 5),)),
        messages.AskLimits(1, None), messages.OwnerAnswer(1, "voice", known=True), messages.Drain(),
    )  # fmt: skip
    up = (
        messages.Hello("w0", 1, 2, "0.1"), messages.Report(in_flight={"voice": 1}), messages.Taken(1), messages.NotTaken(1, "no"),
        messages.AskOwner(1, "resp_1"), messages.LimitsAnswer(1, ()),
    )  # fmt: skip
    seeds = {}
    for flags, each in ((0, down), (2, up)):
        encoded = [msgspec.msgpack.encode(message) for message in each]
        seeds[f"all {flags}"] = bytes([flags, 9]) + b"".join(LENGTH.pack(len(body)) + body for body in encoded)
        seeds |= {f"{type(message).__name__}": bytes([flags | 1, 3]) + body for message, body in zip(each, encoded, strict=True)}
    deep = b"\x82\xa4type\xa6attach\xa1x" + b"\x91" * 2_000
    return seeds | {
        "deep": b"\1\0" + deep,
        "no UTF-8": b"\3\0\x83\xa4type\xa5taken\xa7version\x01\xa1\xff\xa1\xff",
        "not UTF-8 tag": b"\1\0\x81\xa4type\xa1\xff",
    }
