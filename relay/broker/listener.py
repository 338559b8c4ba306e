"""The subscription: one Redis connection that hears every channel this process wants, for ever.

It reconnects with jittered backoff, counts a server that does not answer as down, and hands messages on in batches:
while parsed bytes are at hand it does not yield to the event loop, up to a limit that keeps sockets served.

It works on redis-py's `Connection`, not on its `PubSub`: that one reconnects by itself, and then nobody would know that
something may have been missed.
"""

import asyncio
import math
import random
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import structlog
import trio
import trio_asyncio
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from relay.broker import keys
from relay.broker.contract import RawHandler
from relay.core.errors import BrokerError, BrokerUnavailable

_log = structlog.get_logger("relay.listener")

#: Messages handled before the event loop gets its turn: more would make clients wait, fewer would make smaller batches.
BATCH = 512

#: Channels in one SUBSCRIBE command.
_SUBSCRIBE_AT_ONCE = 500

#: Reconnecting waits a random time of up to BACKOFF_BASE * 2**attempt seconds, BACKOFF_CAP at most.
BACKOFF_BASE = 0.05
BACKOFF_CAP = 1.0


def backoff(attempt: int, draw: Callable[[], float] = random.random) -> float:
    """Seconds to wait before the given attempt (from 0), with full jitter, at least a tenth of the step."""
    step = min(BACKOFF_CAP, BACKOFF_BASE * 2.0 ** min(attempt, 16))
    return step * (0.1 + 0.9 * draw())


_FEED_PREFIX = keys.feed("").removesuffix("}").encode()


def _is_pattern(channel: str) -> bool:
    return any(mark in channel for mark in "*?[")


class FeedHandler(Protocol):
    """Who hears the feeds, with their positions."""

    def on_up(self) -> None:
        """A new connection is up; it hears no feeds yet."""

    def on_down(self) -> None:
        """The connection is gone."""

    def on_confirmed(self, feed_name: str) -> None:
        """From here on a feed is heard."""

    def hear(self, feed_name: str, message: bytes) -> None:
        """A message on a feed."""


class Listener:
    """Owns the subscription connection. `run` must be running for anything to be heard.

    pool:            where to take the connection from; RESP2, and without retries of its own
    publish:         publishes over another connection; used for the canary
    health_interval: seconds between two canaries
    deadline:        seconds within which one must be heard
    """

    def __init__(
        self,
        pool: ConnectionPool,
        publish: Callable[[str, bytes], Awaitable[object]],
        health_interval: float,
        deadline: float,
    ) -> None:
        self._pool = pool
        self._publish = publish
        self._health_interval = health_interval
        self._deadline = deadline
        self._handlers: dict[str, list[RawHandler]] = {}
        self._canary = keys.CANARY + secrets.token_hex(8)
        self._canary_heard = trio.Event()
        self._connection: AbstractConnection | None = None
        self._loop: trio_asyncio.TrioEventLoop | None = None
        self.feeds: FeedHandler | None = None
        #: Called before a new connection hears anything: what was heard before it may have a hole behind it.
        self.on_connecting: Callable[[], None] = lambda: None
        self.alive = False
        self.reconnects = 0

    def add(self, channel: str, handler: RawHandler) -> Callable[[], None]:
        """Have a handler called for a channel or pattern; returns what takes it away again."""
        self._handlers.setdefault(channel, []).append(handler)

        def remove() -> None:
            handlers = self._handlers.get(channel, [])
            if handler in handlers:
                handlers.remove(handler)

        return remove

    async def run(self, loop: trio_asyncio.TrioEventLoop) -> None:
        """Listen until cancelled."""
        self._loop = loop
        attempt = 0
        while True:
            was_alive, error = await self._run_connection(loop)
            attempt = 0 if was_alive else attempt + 1
            self.reconnects += was_alive
            delay = backoff(attempt)
            event = "redis subscription lost" if was_alive or attempt == 1 else "redis still away"
            _log.warning(event, error=f"{type(error).__name__}: {error}", retry_in=round(delay, 3))
            await trio.sleep(delay)

    async def _run_connection(self, loop: trio_asyncio.TrioEventLoop) -> tuple[bool, Exception]:
        """One connection, from its start until it fails; returns whether it was ever up, and what ended it."""
        connection: AbstractConnection | None = None
        was_alive = False
        try:
            with trio.fail_after(self._deadline):
                connection = await loop.run_aio_coroutine(self._pool.get_connection())  # type: ignore[no-untyped-call]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(loop.run_aio_coroutine, self._dispatch(connection))
                self._connection = connection
                self.on_connecting()
                await self._send(
                    "SUBSCRIBE", [self._canary, *(name for name in self._handlers if not _is_pattern(name))]
                )
                await self._send("PSUBSCRIBE", [name for name in self._handlers if _is_pattern(name)])
                await self._watch()
        except* (RedisError, OSError, trio.TooSlowError, BrokerError) as errors:
            failure = _first(errors)
        finally:
            was_alive, self.alive = self.alive, False
            self._connection = None
            if self.feeds is not None:
                self.feeds.on_down()
            if connection is not None:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + self._deadline):
                    await loop.run_aio_coroutine(self._discard(connection))
        return was_alive, failure

    async def _discard(self, connection: AbstractConnection) -> None:
        await connection.disconnect(nowait=True)
        await self._pool.release(connection)

    async def subscribe(self, feed_names: list[str]) -> None:
        """Hear feeds on the present connection; each is confirmed to `feeds`. Does nothing while there is none."""
        await self._send("SUBSCRIBE", feed_names)

    async def unsubscribe(self, feed_names: list[str]) -> None:
        """Hear them no longer."""
        await self._send("UNSUBSCRIBE", feed_names)

    async def _send(self, command: str, names: list[str]) -> None:
        """Raises TooSlowError when the server does not take it, BrokerUnavailable when the connection breaks."""
        for first in range(0, len(names), _SUBSCRIBE_AT_ONCE):
            connection, loop = self._connection, self._loop
            if connection is None or loop is None:
                return
            some = names[first : first + _SUBSCRIBE_AT_ONCE]
            try:
                with trio.fail_after(self._deadline):
                    await loop.run_aio_coroutine(connection.send_command(command, *some, check_health=False))
            except (RedisError, OSError, trio.TooSlowError) as error:
                raise BrokerUnavailable(f"the subscription connection broke: {error}") from error

    async def _watch(self) -> None:
        """Send canaries to ourselves, the way that updates come; raises TooSlowError when one does not arrive.

        It finds more than a server that does not answer: a subscription that the server has forgotten, or that was
        cut off in between, is as silent as one on which nothing happens.
        """
        while True:
            self._canary_heard = trio.Event()
            with trio.fail_after(self._deadline):
                await self._publish_canary()
                await self._canary_heard.wait()
            if not self.alive:
                self.alive = True
                _log.info("redis subscription up", channels=sorted(self._handlers))
                if self.feeds is not None:
                    self.feeds.on_up()
            await trio.sleep(self._health_interval)

    async def _publish_canary(self) -> None:
        """Try until it is out: the other connections may be those of a server that has gone, and to drop this one for
        that would lose what is on its way."""
        attempt = 0
        while True:
            try:
                await self._publish(self._canary, b"")
            except BrokerUnavailable:
                await trio.sleep(backoff(attempt) / 10)
                attempt += 1
            else:
                return

    async def _dispatch(self, connection: AbstractConnection) -> None:
        """asyncio: read for ever, and hand on what comes."""
        handled = 0
        feeds = self.feeds
        canary = self._canary.encode()
        while True:
            response: Any = await connection.read_response(timeout=math.inf, disconnect_on_error=False)
            kind = response[0]
            if kind == b"message":
                _, name, message = response
                if name.startswith(_FEED_PREFIX):
                    if feeds is not None:
                        feeds.hear(name.decode(errors="replace"), message)
                elif name == canary:
                    self._canary_heard.set()
                else:
                    channel = name.decode(errors="replace")
                    for handler in tuple(self._handlers.get(channel, ())):
                        handler(channel, message)
            elif kind == b"pmessage":
                _, pattern, name, message = response
                channel = name.decode(errors="replace")
                # What Relay publishes itself must not come in by the door of the services: it would go round for ever.
                if not channel.startswith(keys.PREFIX):
                    for handler in tuple(self._handlers.get(pattern.decode(errors="replace"), ())):
                        handler(channel, message)
            elif kind == b"subscribe" and feeds is not None and response[1].startswith(_FEED_PREFIX):
                feeds.on_confirmed(response[1].decode(errors="replace"))
            handled += 1
            if handled % BATCH == 0:
                await asyncio.sleep(0)


def _first(errors: BaseExceptionGroup[Exception]) -> Exception:
    """What to show of several errors: the first that says something."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Exception)
    return error
