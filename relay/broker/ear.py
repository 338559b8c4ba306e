"""What reads a subscription's connection: the bytes of a turn in, its messages out, in the turn in which they arrive.

redis-py makes the connection, authenticates, and sends the commands. Once it is subscribed, its stream reader is passed over:
each read would cost four turns of the event loop, and each message a dozen calls. Where this looks into redis-py: the reader
and the writer of `redis.asyncio.Connection`, and the `hiredis.Reader` of its parser.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Self, cast

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

#: Bytes read at a time. What comes while a turn is under way is read in one piece: the more, the fewer writes to each client.
READ_BYTES = 1024 * 1024

#: Messages handled before the event loop gets its turn: more would make clients wait, fewer would make smaller batches.
BATCH = 8192


class Ear(asyncio.BufferedProtocol):
    """Takes the place of a connection's stream reader, until the connection is closed. Make one with `on`.

    handle:  takes each message, and says whether the turn has to end after it; what it raises ends the connection
    on_turn: called with True before a turn's messages are handled, and with False after them
    """

    def __init__(
        self, connection: AbstractConnection, handle: Callable[[list[Any]], bool], on_turn: Callable[[bool], None]
    ) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._handle = handle
        self._on_turn = on_turn
        hiredis_reader = cast(Any, connection._parser)._reader
        self._next: Callable[[], Any] = hiredis_reader.gets
        self._feed: Callable[..., None] = hiredis_reader.feed
        self._buffer = bytearray(READ_BYTES)
        self._is_paused = False
        self._failed: asyncio.Future[None] = loop.create_future()
        #: Messages handled so far.
        self.handled = 0
        writer, reader = connection._writer, connection._reader
        assert writer is not None
        assert reader is not None
        self._transport: asyncio.ReadTransport = writer.transport  # type: ignore[assignment]
        self._protocol: asyncio.StreamReaderProtocol = self._transport.get_protocol()  # type: ignore[assignment]
        self._transport.set_protocol(self)
        early = bytes(reader._buffer)  # type: ignore[attr-defined]
        if early:
            self._feed(early)
            self._turn()

    @classmethod
    async def on(
        cls, connection: AbstractConnection, handle: Callable[[list[Any]], bool], on_turn: Callable[[bool], None]
    ) -> Self:
        """On a connection, from now on; in asyncio's context."""
        return cls(connection, handle, on_turn)

    async def failed(self) -> None:
        """Wait until the connection ends. Raises RedisError, OSError, or what `handle` raised; cancel it freely."""
        await asyncio.shield(self._failed)

    def close(self) -> None:
        """Hear nothing more, and close the connection."""
        self._fail(RedisConnectionError("the subscription was closed"))

    # asyncio's side.

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002 - ours is larger than any hint
        """Where the next bytes go."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes have come."""
        self._feed(self._buffer, 0, nbytes)
        self._turn()

    def eof_received(self) -> None:
        """Redis hung up."""
        self._rest()
        self._fail(RedisConnectionError("Redis closed the connection"))
        self._protocol.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone."""
        self._rest()
        self._fail(error or RedisConnectionError("the connection was closed"))
        self._protocol.connection_lost(error)

    def pause_writing(self) -> None:
        """For redis-py, which writes."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """The same."""
        self._protocol.resume_writing()

    def _rest(self) -> None:
        """What came before the end counts."""
        while self._is_paused and not self._failed.done():
            self._turn()

    def _fail(self, error: Exception) -> None:
        if not self._failed.done():
            self._failed.set_exception(error)
            self._failed.exception()  # whether somebody waits or not
            self._transport.close()

    def _turn(self) -> None:
        """Handle what is at hand, as much as goes into one turn; nothing more is read while something is left."""
        if self._failed.done():
            return
        take, handle = self._next, self._handle
        left = BATCH
        response: Any = None
        self._on_turn(True)
        try:
            while type(response := take()) is list:
                left -= 1
                if handle(response) or not left:
                    break
        except (RedisError, OSError) as error:
            self._fail(error)
        finally:
            self.handled += BATCH - left
            self._on_turn(False)
        if isinstance(response, Exception):
            self._fail(response)
        elif type(response) is list:
            self._loop.call_soon(self._go_on)
            if not self._is_paused:
                self._is_paused = True
                self._transport.pause_reading()
        elif self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()

    def _go_on(self) -> None:
        if self._is_paused:
            self._turn()
