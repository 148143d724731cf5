"""One connection of the control socket: messages both ways, bounded both ways."""

from __future__ import annotations

import asyncio
import struct
from typing import Generic, TypeVar

import msgspec

LENGTH = struct.Struct(">I")
_ENCODER = msgspec.msgpack.Encoder()

Received = TypeVar("Received")


class ChannelLost(Exception):
    """The other end is gone, wrote something that is no message, or takes nothing any more."""


class Channel(Generic[Received]):
    """Sends and receives whole messages. Not for two senders at once in threads; any number of tasks may send."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        decoder: msgspec.msgpack.Decoder[Received],
        receive_bytes_max: int,
        send_bytes_max: int,
    ) -> None:
        self._reader, self._writer, self._decoder = reader, writer, decoder
        self._receive_bytes_max, self._send_bytes_max = receive_bytes_max, send_bytes_max

    async def receive(self) -> Received:
        """The next message. Raises ChannelLost."""
        try:
            (length,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
            if length > self._receive_bytes_max:
                raise ChannelLost(f"a message of {length} bytes, {self._receive_bytes_max} are allowed")
            return self._decoder.decode(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, OSError) as error:
            raise ChannelLost("the other end closed") from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ChannelLost(f"not a message: {error}") from error

    def send(self, message: msgspec.Struct) -> None:
        """Hand a message to the kernel, or to a bounded backlog. Raises ChannelLost, and ValueError for a message that is too large."""
        body = _ENCODER.encode(message)
        if len(body) > self._send_bytes_max:
            raise ValueError(f"a control message of {len(body)} bytes, {self._send_bytes_max} are allowed")
        if self._writer.is_closing():
            raise ChannelLost("the connection is closed")
        if self._writer.transport.get_write_buffer_size() > self._send_bytes_max:
            self._writer.transport.abort()
            raise ChannelLost("the other end takes nothing")
        self._writer.write(LENGTH.pack(len(body)))
        self._writer.write(body)

    async def sent(self) -> None:
        """Wait until the backlog is small. Raises ChannelLost."""
        try:
            await self._writer.drain()
        except OSError as error:
            raise ChannelLost("the other end closed") from error

    def close(self) -> None:
        """Close both ways; what was sent before still goes out."""
        self._writer.close()
