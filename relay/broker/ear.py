"""What hears a subscription: the bytes of a turn in, its messages out, in the turn in which they come."""

import asyncio
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import trio
import trio_asyncio
from redis.asyncio.connection import AbstractConnection

from relay.broker.stream import ReplyStream, replies_at_hand

#: Bytes read at a time. What comes while a turn is under way is read in one piece: the more, the fewer writes to each client.
READ_BYTES = 1024 * 1024

#: Messages handled before the event loop gets its turn: more would make clients wait, fewer would make smaller batches.
BATCH = 8192


class Ear:
    """Hears one connection.

    handle:  takes each message, and says whether the turn has to end after it; what it raises ends the connection
    on_turn: called with True before a turn's messages are handled, and with False after them
    """

    def __init__(self, handle: Callable[[list[Any]], bool], on_turn: Callable[[bool], None]) -> None:
        self._handle = handle
        self._on_turn = on_turn
        #: Messages handled so far.
        self.handled = 0

    async def hear(self, connection: AbstractConnection, loop: trio_asyncio.TrioEventLoop) -> None:
        """Hear until cancelled. Raises RedisError, OSError, or what `handle` raises."""
        stream = await loop.run_aio_coroutine(ReplyStream.of(connection, READ_BYTES))
        if stream is None:
            await loop.run_aio_coroutine(self._hear_by_asyncio(connection))
            return
        try:
            while True:
                while self._turn(stream.take):
                    await trio.lowlevel.checkpoint()
                await stream.receive()
        finally:
            stream.close()

    async def _hear_by_asyncio(self, connection: AbstractConnection) -> None:
        while True:
            first = [await connection.read_response(timeout=math.inf, disconnect_on_error=False)]
            at_hand = replies_at_hand(connection)
            take = partial(_pop_or, first, at_hand)
            while self._turn(take):  # noqa: ASYNC110 - it gives others their turn
                await asyncio.sleep(0)

    def _turn(self, take: Callable[[], Any]) -> bool:
        """Handle what is at hand, as much as goes into one turn; returns whether something may be left."""
        handle = self._handle
        left = BATCH
        self._on_turn(True)
        try:
            while type(response := take()) is list:
                left -= 1
                if handle(response) or not left:
                    return True
        finally:
            self.handled += BATCH - left
            self._on_turn(False)
        if isinstance(response, Exception):
            raise response
        return False


def _pop_or(first: list[Any], at_hand: Callable[[], Any]) -> Any:
    return first.pop() if first else at_hand()
