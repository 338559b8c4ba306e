"""A connection of redis-py's, read by Trio.

redis-py makes the connection, authenticates, and sends commands. Its stream reader is passed over: through it and the bridge a
read goes through four turns of the event loop, and each reply through a dozen calls. Where this looks into redis-py: the reader
and the writer of `redis.asyncio.Connection`, and the `hiredis.Reader` of its parser.
"""

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self, cast

import trio
from hiredis import Reader
from redis._parsers.hiredis import NOT_ENOUGH_DATA as NOT_YET
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError

__all__ = ["NOT_YET", "ReplyStream", "hang_up", "replies_at_hand", "write"]


def replies_at_hand(connection: AbstractConnection) -> Callable[[], Any]:
    """What gives the next of the replies that were read already, and NOT_YET when there is none.

    Raises ConnectionError when the connection was closed.
    """
    return _reader_of(connection).gets


def _reader_of(connection: AbstractConnection) -> Reader:
    reader: Reader | None = cast(Any, connection._parser)._reader
    if reader is None:
        raise _closed()
    return reader


def _closed() -> RedisConnectionError:
    return RedisConnectionError("the connection was closed")


async def write(connection: AbstractConnection, data: bytes) -> None:
    """Write to a connection that another task may have closed, or close meanwhile; in asyncio's context.

    redis-py's own way would make a closed connection anew, of which nobody knows, or fail in ways that are no network errors.
    Raises OSError or RedisError when the connection is or gets closed.
    """
    writer: asyncio.StreamWriter | None = cast(Any, connection)._writer
    if writer is None or writer.is_closing():
        raise _closed()
    writer.write(data)
    await writer.drain()


def hang_up(connection: AbstractConnection) -> None:
    """Break a connection for whoever reads it; closing it is still its owner's business."""
    writer: asyncio.StreamWriter | None = cast(Any, connection)._writer
    if writer is not None:
        with suppress(OSError):  # it is broken already
            writer.get_extra_info("socket").shutdown(socket.SHUT_RDWR)


class ReplyStream:
    """The replies of a connection, which redis-py reads no longer. It may still write; closing it ends the stream."""

    def __init__(self, connection: AbstractConnection, ours: socket.socket, read_bytes: int) -> None:
        self._ours = ours
        self._reader: Any = _reader_of(connection)
        self._buffer = bytearray(read_bytes)
        #: The next reply, or NOT_YET.
        self.take = replies_at_hand(connection)
        self._reader.feed(bytes(cast(Any, connection)._reader._buffer))

    @classmethod
    async def of(cls, connection: AbstractConnection, read_bytes: int) -> Self | None:
        """Of a connected connection, in asyncio's context; None over TLS, where the bytes are asyncio's to decrypt.

        read_bytes: bytes read at a time

        Raises OSError or ConnectionError when the connection was closed.
        """
        writer: asyncio.StreamWriter | None = cast(Any, connection)._writer
        if writer is None or writer.is_closing():
            raise _closed()
        transport: Any = writer.transport
        if transport.get_extra_info("sslcontext") is not None:
            return None
        transport.pause_reading()
        ours = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        ours.setblocking(False)
        return cls(connection, ours, read_bytes)

    async def receive(self) -> None:
        """Wait until something comes; `take` has what it completes. Raises OSError or RedisError when the connection ends."""
        await trio.lowlevel.wait_readable(self._ours)
        try:
            count = self._ours.recv_into(self._buffer)
        except BlockingIOError:
            return
        if not count:
            raise RedisConnectionError("Redis closed the connection")
        self._reader.feed(self._buffer, 0, count)

    def close(self) -> None:
        """Read no more. The connection itself is redis-py's to close."""
        if self._ours.fileno() >= 0:
            trio.lowlevel.notify_closing(self._ours)
            self._ours.close()
