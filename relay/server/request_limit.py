"""A limit on HTTP requests served at a time, so that a burst of them takes neither the memory nor the time of clients."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

#: Requests served at a time: in all, and of one address. An answer may have 2 MiB, and is held until its client has read it.
MAX_REQUESTS = 16
MAX_PER_ADDRESS = 8

#: Requests whose answers are being made at a time. A page of large states takes tens of milliseconds of the event loop.
MAX_PREPARED = 2

#: Requests that may wait for their turn, and seconds that they wait.
MAX_WAITING = 128
MAX_WAIT = 2.0


class TooManyRequests(Exception):
    """The request cannot be served now; the client should try again."""


class Turn:
    """The turn of one request."""

    __slots__ = ("_preparing",)

    def __init__(self, preparing: trio.Semaphore) -> None:
        self._preparing: trio.Semaphore | None = preparing

    def prepared(self) -> None:
        """The answer is made, and only has to be sent. May be called again."""
        preparing, self._preparing = self._preparing, None
        if preparing is not None:
            preparing.release()


class _Address:
    __slots__ = ("requests", "turns")

    def __init__(self) -> None:
        self.turns = trio.Semaphore(MAX_PER_ADDRESS)
        self.requests = 0  # served and waiting


class RequestLimit:
    """Lets some requests be served at a time, and others wait a little."""

    def __init__(self) -> None:
        self._turns = trio.Semaphore(MAX_REQUESTS)
        self._preparing = trio.Semaphore(MAX_PREPARED)
        self._addresses: dict[str, _Address] = {}
        self._waiting = 0

    @asynccontextmanager
    async def turn(self, address: str) -> AsyncIterator[Turn]:
        """Wait for a turn, and have it for the time of the block.

        Args:
            address: The client's address.

        Raises:
            TooManyRequests: Too many are served or wait already.
        """
        if self._waiting >= MAX_WAITING:
            raise TooManyRequests
        per_address = self._addresses.setdefault(address, _Address())
        per_address.requests += 1
        try:
            acquired: list[trio.Semaphore] = []
            try:
                await self._wait([per_address.turns, self._turns, self._preparing], acquired)
                acquired.pop()  # the turn's
                turn = Turn(self._preparing)
                try:
                    yield turn
                finally:
                    turn.prepared()
            finally:
                for semaphore in acquired:
                    semaphore.release()
        finally:
            per_address.requests -= 1
            if not per_address.requests:
                del self._addresses[address]

    async def _wait(self, wanted: list[trio.Semaphore], acquired: list[trio.Semaphore]) -> None:
        """Acquire semaphores in order; those that were acquired are noted, whatever comes after."""
        self._waiting += 1
        try:
            with trio.move_on_after(MAX_WAIT):
                for semaphore in wanted:
                    await semaphore.acquire()
                    acquired.append(semaphore)
                return
        finally:
            self._waiting -= 1
        raise TooManyRequests
