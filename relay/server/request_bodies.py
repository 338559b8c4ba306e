"""The bodies of HTTP requests: received before a request has its turn, within a size, a time and a total.

A request with a turn holds one of few places. So a client that sends its body slowly must not have one yet.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import trio

from relay.server.cors import header

Receive = Callable[[], Awaitable[Any]]

#: Bytes of all bodies that are received or whose requests are served: in all, and of one address. Each counts with its declared
#: length, or else with the longest that it may have, and somewhat more.
MAX_BYTES = 32 * 1024 * 1024
MAX_BYTES_PER_ADDRESS = 8 * 1024 * 1024
_OVERHEAD = 1024

#: Digits of a declared length, and pieces in which a body may come: each costs time, however small it is.
_MAX_DIGITS = 15
_MAX_PIECES = 2048


class BodyRefused(Exception):
    """A body is not received. The message says what to do.

    Attributes:
        status: The HTTP status.
        code: A short name for clients and metrics.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class ClientLeft(Exception):
    """The client has closed the connection before its body had come."""


class RequestBodies:
    """Receives the bodies of all requests of a process.

    Args:
        timeout: Seconds from the first to the last byte.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._addresses: dict[str, int] = {}
        self._total = 0

    @asynccontextmanager
    async def received(self, address: str, scope: Any, receive: Receive, max_bytes: int) -> AsyncIterator[Receive]:
        """Receive a body to its end, and have room for it for the time of the block.

        Args:
            address: The client's address.
            scope: The request's ASGI scope.
            receive: The server's.
            max_bytes: Longest body.

        Returns:
            A ``receive`` that has the whole body, and then what the server's has.

        Raises:
            BodyRefused: It is too long, takes too long, or there is no room for it.
            ClientLeft: Nobody waits for an answer.
        """
        declared = header(scope["headers"], b"content-length")
        length = max_bytes
        if declared is not None and declared.isdecimal():
            if len(declared) > _MAX_DIGITS or int(declared) > max_bytes:
                raise _too_large(max_bytes)
            length = int(declared)
        with self._room(address, length + _OVERHEAD):
            with trio.move_on_after(self._timeout) as scope_of_body:
                body = await _whole(receive, max_bytes)
            if scope_of_body.cancelled_caught:
                raise BodyRefused(
                    408, "body_timeout", f"the body did not arrive within {self._timeout:g} s; send it again"
                )
            yield _replay(body, receive)

    @contextmanager
    def _room(self, address: str, size: int) -> Iterator[None]:
        of_address = self._addresses.get(address, 0)
        if self._total + size > MAX_BYTES or of_address + size > MAX_BYTES_PER_ADDRESS:
            raise BodyRefused(503, "unavailable", "too many request bodies are on their way; try again in a second")
        self._total += size
        self._addresses[address] = of_address + size
        try:
            yield
        finally:
            self._total -= size
            self._addresses[address] -= size
            if not self._addresses[address]:
                del self._addresses[address]


def _too_large(max_bytes: int) -> BodyRefused:
    return BodyRefused(413, "body_too_large", f"the body may have {max_bytes} bytes; send less at once")


async def _whole(receive: Receive, max_bytes: int) -> bytes:
    body = bytearray()
    for _ in range(_MAX_PIECES):
        message = await receive()
        if message["type"] != "http.request":
            raise ClientLeft
        body += message.get("body", b"")
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
        if not message.get("more_body", False):
            return bytes(body)
    raise BodyRefused(413, "body_in_pieces", f"the body came in more than {_MAX_PIECES} pieces; send larger chunks")


def _replay(body: bytes, receive: Receive) -> Receive:
    is_read = False

    async def replay() -> Any:
        nonlocal is_read
        if is_read:
            return await receive()
        is_read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
