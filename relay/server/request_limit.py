"""A limit on HTTP requests served at a time, so that a burst of them takes neither the memory nor the time of clients."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

#: Requests served at a time: in all, and of one address. An answer may have 2 MiB, and is held until its client has read it.
MAX_REQUESTS = 6
MAX_OF_ADDRESS = 4

#: Requests that may wait for their turn, and seconds that they wait.
MAX_WAITING = 128
MAX_WAIT = 2.0


class TooManyRequests(Exception):
    """The request cannot be served now; the client should try again."""


class _Address:
    __slots__ = ("requests", "turns")

    def __init__(self) -> None:
        self.turns = trio.Semaphore(MAX_OF_ADDRESS)
        self.requests = 0  # served and waiting


class RequestLimit:
    """Lets some requests be served at a time, and others wait a little."""

    def __init__(self) -> None:
        self._turns = trio.Semaphore(MAX_REQUESTS)
        self._addresses: dict[str, _Address] = {}
        self._waiting = 0

    @asynccontextmanager
    async def turn(self, address: str) -> AsyncIterator[None]:
        """Wait for a turn, and have it for the time of the block.

        Args:
            address: The client's address.

        Raises:
            TooManyRequests: Too many are served or wait already.
        """
        if self._waiting >= MAX_WAITING:
            raise TooManyRequests
        of_address = self._addresses.setdefault(address, _Address())
        of_address.requests += 1
        try:
            await self._wait(of_address.turns)
            try:
                yield
            finally:
                self._turns.release()
                of_address.turns.release()
        finally:
            of_address.requests -= 1
            if not of_address.requests:
                del self._addresses[address]

    async def _wait(self, of_address: trio.Semaphore) -> None:
        self._waiting += 1
        try:
            with trio.move_on_after(MAX_WAIT):
                await of_address.acquire()
                try:
                    await self._turns.acquire()
                except BaseException:
                    of_address.release()
                    raise
                return
        finally:
            self._waiting -= 1
        raise TooManyRequests
