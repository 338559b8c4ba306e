"""The bodies of HTTP requests: received before a request has its turn, within a size, a time and a number.

A request with a turn holds one of few places. So a client that sends its body slowly must not have one yet.
"""

from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from typing import Any

import trio

from relay.server.cors import header

Receive = Callable[[], Awaitable[Any]]

#: Bodies received at a time: in all, and of one address. Those that have arrived with their headers do not count.
MAX_BODIES = 64
MAX_PER_ADDRESS = 16


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
        self._count = 0

    async def receive(self, scope: Any, receive: Receive, max_bytes: int) -> Receive:
        """Receive a body to its end.

        Args:
            scope: The request's ASGI scope.
            receive: The server's.
            max_bytes: Longest body.

        Returns:
            A ``receive`` that has the whole body, and then what the server's has.

        Raises:
            BodyRefused: It is too long, takes too long, or too many are received.
            ClientLeft: Nobody waits for an answer.
        """
        length = header(scope["headers"], b"content-length")
        if length is not None and length.isdecimal() and int(length) > max_bytes:
            raise _too_large(max_bytes)
        with self._place((scope.get("client") or ("",))[0]), trio.move_on_after(self._timeout):
            return _replay(await _whole(receive, max_bytes), receive)
        raise BodyRefused(408, "body_timeout", f"the body did not arrive within {self._timeout:g} s; send it again")

    @contextmanager
    def _place(self, address: str) -> Any:
        of_address = self._addresses.get(address, 0)
        if self._count >= MAX_BODIES or of_address >= MAX_PER_ADDRESS:
            raise BodyRefused(503, "unavailable", "too many request bodies are on their way; try again in a second")
        self._count += 1
        self._addresses[address] = of_address + 1
        try:
            yield
        finally:
            self._count -= 1
            self._addresses[address] -= 1
            if not self._addresses[address]:
                del self._addresses[address]


def _too_large(max_bytes: int) -> BodyRefused:
    return BodyRefused(413, "body_too_large", f"the body may have {max_bytes} bytes; send less at once")


async def _whole(receive: Receive, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientLeft
        part = message.get("body", b"")
        size += len(part)
        if size > max_bytes:
            raise _too_large(max_bytes)
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    is_read = False

    async def replay() -> Any:
        nonlocal is_read
        if is_read:
            return await receive()
        is_read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
