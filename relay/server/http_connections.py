"""The connections that Hypercorn serves: none stays open without a request in progress.

Hypercorn closes some idle connections itself, but not all: not after a request to Quart-Trio, which cancels the task that would
restart the timer, not after an HTTP/2 preface, and not when the body of a request never comes. A client that vanished then
would keep a file open indefinitely.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic
from typing import Any

import structlog

from relay.server.turnstile import Turnstile
from relay.ticks import sleep_until_tick

_log = structlog.get_logger("relay.http")

#: Serves one connection, and returns when it has ended.
Handler = Callable[[Any], Awaitable[Any]]

#: Connections of which something is read in one turn of the event loop: a request that is parsed takes a part of a millisecond.
_READS_AT_ONCE = 4


class _Connection:
    """One connection.

    Attributes:
        requests: Requests in progress.
        idle_since: When the last of them ended, in seconds of the monotonic clock.
    """

    __slots__ = ("_stream", "idle_since", "requests")

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.requests = 0
        self.idle_since = monotonic()

    def close(self) -> None:
        """Close the socket under any task that waits for it. What was written is still sent."""
        stream = getattr(self._stream, "transport_stream", self._stream)  # of TLS
        stream.socket.close()


_current: ContextVar[_Connection] = ContextVar("relay-http-connection")


@contextmanager
def request_in_progress() -> Iterator[None]:
    """Keep the connection that this task belongs to from being idle, for the time of the block."""
    connection = _current.get(None)
    if connection is None:
        yield
        return
    connection.requests += 1
    try:
        yield
    finally:
        connection.requests -= 1
        connection.idle_since = monotonic()


class HttpConnections:
    """All connections that the server handles.

    Args:
        handler: Serves one connection.
        idle_timeout: Seconds that a connection may be idle.
        limit: Connections at a time; further ones are closed at once.
    """

    def __init__(self, handler: Handler, idle_timeout: float, limit: int) -> None:
        self._handler = handler
        self._idle_timeout = idle_timeout
        self._limit = limit
        self._all: dict[_Connection, None] = {}
        self._reads = Turnstile(_READS_AT_ONCE)

    async def serve(self, stream: Any) -> None:
        """Serve one connection. What the handler raises ends this connection and not the server.

        A header that is not ASCII is enough for Hypercorn to raise.
        """
        connection = _Connection(stream)
        if len(self._all) >= self._limit:
            _log.warning("too many HTTP connections", limit=self._limit)
            connection.close()
            return
        self._all[connection] = None
        _current.set(connection)
        receive = stream.receive_some

        async def receive_in_turn(max_bytes: int | None = None) -> bytes | bytearray:
            data: bytes | bytearray = await receive(max_bytes)
            await self._reads.turn()
            return data

        stream.receive_some = receive_in_turn
        try:
            await self._handler(stream)
        except* Exception as errors:  # noqa: BLE001 - whatever it was
            _log.error("connection failed in the server", error=repr(errors.exceptions[0]))
        finally:
            del stream.receive_some  # which refers to the stream
            del self._all[connection]

    async def close_idle(self) -> None:
        """Close connections that have been idle for too long, until cancelled."""
        while True:
            await sleep_until_tick(self._idle_timeout / 4)
            since = monotonic() - self._idle_timeout
            for connection in list(self._all):
                if not connection.requests and connection.idle_since < since:
                    connection.close()
