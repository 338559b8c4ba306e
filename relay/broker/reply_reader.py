"""Replies of a redis-py connection, read by Trio and checked where they come in.

redis-py makes the connection, authenticates, and sends commands. Its stream reader is bypassed: with it and the bridge a read
goes through four turns of the event loop, and each reply through a dozen calls. This module uses redis-py's internals: the
reader and the writer of `redis.asyncio.Connection`, and the `hiredis.Reader` of its parser.
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

#: Bytes given to hiredis at a time. It moves all that it has and has not parsed, once for each kilobyte that it parses.
_FEED_BYTES = 16 * 1024

__all__ = ["MALFORMED", "NOT_YET", "ReplyReader", "malformed_reply", "next_buffered_reply", "shutdown_socket", "write"]


#: What hiredis raises, besides RedisError, for a garbled reply: for an array that is larger than memory, or a map whose key is
#: an array.
MALFORMED = (MemoryError, OverflowError, TypeError, ValueError)


def next_buffered_reply(connection: AbstractConnection) -> Callable[[], Any]:
    """Return a function that takes the next of the replies that were read already, or `NOT_YET` when there is none.

    The function raises RedisError or `MALFORMED` when the bytes that were read are no reply.

    Raises:
        ConnectionError: The connection was closed.
    """
    return _hiredis_reader(connection).gets


def malformed_reply(what: object) -> RedisConnectionError:
    """Return the error of a reply that Redis cannot have meant: the connection is of no use any more."""
    return RedisConnectionError(f"Redis sent a reply that cannot be read: {what!r:.200}")


def _hiredis_reader(connection: AbstractConnection) -> Reader:
    reader: Reader | None = cast(Any, connection._parser)._reader
    if reader is None:
        raise _closed()
    return reader


def _closed() -> RedisConnectionError:
    return RedisConnectionError("the connection was closed")


async def write(connection: AbstractConnection, data: bytes) -> None:
    """Write to a connection that another task may have closed, or close meanwhile. Runs in asyncio's context.

    redis-py's own way would open a closed connection again, without anyone knowing, or fail with errors that are no network
    errors. Cancelling leaves unknown how much was written.

    Raises:
        OSError: The connection broke.
        RedisError: The connection is closed.
    """
    writer: asyncio.StreamWriter | None = cast(Any, connection)._writer
    if writer is None or writer.is_closing():
        raise _closed()
    writer.write(data)
    await writer.drain()


def shutdown_socket(connection: AbstractConnection) -> None:
    """Break a connection for the task that reads it. Its owner must still close it."""
    writer: asyncio.StreamWriter | None = cast(Any, connection)._writer
    if writer is not None:
        with suppress(OSError):  # it is broken already
            writer.get_extra_info("socket").shutdown(socket.SHUT_RDWR)


class ReplyReader:
    """Reads the replies of a connection in redis-py's place. redis-py may still write; closing it ends the replies."""

    def __init__(self, connection: AbstractConnection, own_socket: socket.socket, read_bytes: int) -> None:
        self._socket = own_socket
        self._reader: Any = _hiredis_reader(connection)
        self._buffer = bytearray(read_bytes)
        self._fed = self._received = 0  # bytes of the buffer
        #: Takes the next reply, or `NOT_YET`: then `feed_more` may bring another. Raises RedisError or `MALFORMED` when what
        #: was read is no reply.
        self.take = next_buffered_reply(connection)
        self._reader.feed(bytes(cast(Any, connection)._reader._buffer))

    @classmethod
    async def open(cls, connection: AbstractConnection, read_bytes: int) -> Self | None:
        """Take over the reading of a connected connection. Runs in asyncio's context.

        Args:
            connection: The connection.
            read_bytes: Most bytes read at a time.

        Returns:
            None over TLS, where only asyncio can decrypt the bytes.

        Raises:
            OSError: The connection broke.
            ConnectionError: The connection was closed.
        """
        writer: asyncio.StreamWriter | None = cast(Any, connection)._writer
        if writer is None or writer.is_closing():
            raise _closed()
        transport: Any = writer.transport
        if transport.get_extra_info("sslcontext") is not None:
            return None
        transport.pause_reading()
        own_socket = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        own_socket.setblocking(False)
        try:
            return cls(connection, own_socket, read_bytes)
        except BaseException:
            own_socket.close()
            raise

    async def receive(self) -> None:
        """Wait until bytes arrive; `take` and `feed_more` return the replies that they complete.

        Raises:
            OSError: The connection broke.
            RedisError: Redis closed the connection.
        """
        await trio.lowlevel.wait_readable(self._socket)
        self.receive_nowait()

    def receive_nowait(self) -> bool:
        """Read what has arrived, as `receive` does. Returns whether there was anything."""
        try:
            count = self._socket.recv_into(self._buffer)
        except BlockingIOError:
            return False
        if not count:
            raise RedisConnectionError("Redis closed the connection")
        self._fed, self._received = 0, count
        self.feed_more()
        return True

    def feed_more(self) -> bool:
        """Have more of what was read parsed, after `take` has returned `NOT_YET`. Returns False when there is no more."""
        count = min(_FEED_BYTES, self._received - self._fed)
        if not count:
            return False
        self._reader.feed(self._buffer, self._fed, count)
        self._fed += count
        return True

    def next_reply(self) -> Any:
        """Take the next reply of all that was read, or `NOT_YET`; raises what `take` raises."""
        while (reply := self.take()) is NOT_YET and self.feed_more():
            pass
        return reply

    def close(self) -> None:
        """Stop reading. redis-py must still close the connection itself."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
