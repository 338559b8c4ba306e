"""Reads one pub/sub connection: the bytes of a turn in, its messages out in the same turn."""

import asyncio
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import trio
from redis.asyncio.connection import AbstractConnection
from relay_wire.trio_bridge import trio_asyncio

from relay.broker.reply_reader import MALFORMED, NOT_YET, ReplyReader, malformed_reply, next_buffered_reply

#: Bytes read at a time. What arrives while a turn is under way is read in one piece: the more, the fewer writes to each client.
READ_BYTES = 1024 * 1024

#: Messages handled before the event loop gets its turn: more would make clients wait, fewer would make smaller batches.
BATCH = 8192


class PubSubReader:
    """Hands the messages of one connection to a handler, in batches.

    Attributes:
        handled: Messages handled so far.
    """

    def __init__(self, handle: Callable[[list[Any]], bool], on_receiving: Callable[[bool], None]) -> None:
        """Make a reader; `run` reads.

        Args:
            handle: Takes each message, and returns whether the turn has to end after it. What it raises ends the connection.
            on_receiving: Called with True before a turn's messages are handled, and with False after them.
        """
        self._handle = handle
        self._on_receiving = on_receiving
        self.handled = 0

    async def run(self, connection: AbstractConnection, loop: trio_asyncio.TrioEventLoop) -> None:
        """Read until cancelled.

        Raises:
            RedisError: Redis closed the connection or sent something else than messages.
            OSError: The connection broke.
        """
        reader = await loop.run_aio_coroutine(ReplyReader.open(connection, READ_BYTES))
        if reader is None:
            await loop.run_aio_coroutine(self._run_in_asyncio(connection))
            return
        try:
            while True:
                while self._turn(reader.take, reader.feed_more):
                    await trio.lowlevel.checkpoint()
                await reader.receive()
        finally:
            reader.close()

    async def _run_in_asyncio(self, connection: AbstractConnection) -> None:
        while True:
            try:
                first = [await connection.read_response(timeout=math.inf, disconnect_on_error=False)]
            except MALFORMED as error:
                raise malformed_reply(error) from error
            take = partial(_pop_or_take, first, next_buffered_reply(connection))
            while self._turn(take, _nothing_more):  # noqa: ASYNC110 - it gives others their turn
                await asyncio.sleep(0)

    def _turn(self, take: Callable[[], Any], feed_more: Callable[[], bool]) -> bool:
        """Handle what was read, as much as goes into one turn. Returns whether something may be left.

        Args:
            take: Takes the next reply, or `NOT_YET`.
            feed_more: Has more of what was read parsed then. Returns False when there is no more.
        """
        handle = self._handle
        left = BATCH
        self._on_receiving(True)
        try:
            while True:
                try:
                    response = take()
                except MALFORMED as error:
                    raise malformed_reply(error) from error
                if type(response) is not list:
                    if response is NOT_YET and feed_more():
                        continue
                    break
                left -= 1
                if handle(response) or not left:
                    return True
        finally:
            self.handled += BATCH - left
            self._on_receiving(False)
        if isinstance(response, Exception):
            raise response
        if response is not NOT_YET:
            raise malformed_reply(response)
        return False


def _nothing_more() -> bool:
    return False


def _pop_or_take(first: list[Any], take: Callable[[], Any]) -> Any:
    return first.pop() if first else take()
