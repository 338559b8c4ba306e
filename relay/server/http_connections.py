"""The connections that Hypercorn serves: none of them stays open without a request under way.

Hypercorn closes idle ones itself, but not all: not after a request to Quart-Trio, which cancels what would have set the time
running again, an HTTP/2 preface, a request whose body never comes. Whoever vanished then would keep a file open for ever.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic
from typing import Any

import structlog
import trio

_log = structlog.get_logger("relay.http")

#: Serves one connection, and returns when it has ended.
Handler = Callable[[Any], Awaitable[Any]]


class _Connection:
    """One connection. `requests` are under way; when there are none, it has been idle since `idle_since`."""

    __slots__ = ("_stream", "idle_since", "requests")

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.requests = 0
        self.idle_since = monotonic()

    def close(self) -> None:
        """Close the socket under whoever waits for it; what was written is still sent."""
        stream = getattr(self._stream, "transport_stream", self._stream)  # of TLS
        stream.socket.close()


_current: ContextVar[_Connection] = ContextVar("relay-http-connection")


@contextmanager
def request_under_way() -> Iterator[None]:
    """The connection that this task belongs to, if it is one of these, is not idle for the time of the block."""
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
    """All of them.

    handler:  serves one
    patience: seconds that one may be idle
    most:     how many there may be; further ones are closed at once
    """

    def __init__(self, handler: Handler, patience: float, most: int) -> None:
        self._handler = handler
        self._patience = patience
        self._most = most
        self._all: dict[_Connection, None] = {}

    async def serve(self, stream: Any) -> None:
        """Serve one connection. What the handler raises ends it and not the server: a header that is not ASCII is enough for
        Hypercorn to let an error pass.
        """
        connection = _Connection(stream)
        if len(self._all) >= self._most:
            _log.warning("too many HTTP connections", most=self._most)
            connection.close()
            return
        self._all[connection] = None
        _current.set(connection)
        try:
            await self._handler(stream)
        except* Exception as errors:  # noqa: BLE001 - whatever it was
            _log.error("connection failed in the server", error=repr(errors.exceptions[0]))
        finally:
            del self._all[connection]

    async def close_idle(self) -> None:
        """Close those that have been idle for too long; runs until cancelled."""
        while True:
            await trio.sleep(self._patience / 4)
            since = monotonic() - self._patience
            for connection in list(self._all):
                if not connection.requests and connection.idle_since < since:
                    connection.close()
