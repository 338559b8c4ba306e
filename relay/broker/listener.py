"""The subscription: one Redis connection that hears every channel this process wants, for ever.

It reconnects with jittered backoff, counts a server that does not answer as down, and hands messages on in batches.

It works on redis-py's `Connection`, not on its `PubSub`: that one reconnects by itself, and then nobody would know that
something may have been missed.
"""

import random
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import groupby
from typing import Any, Protocol

import structlog
import trio
import trio_asyncio
from hiredis import pack_command
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from relay_wire import keys

from relay.broker.connections import Server
from relay.broker.ear import Ear
from relay.broker.stream import hang_up, write
from relay.core.errors import BrokerError

_log = structlog.get_logger("relay.listener")

#: Channels in one SUBSCRIBE command.
_SUBSCRIBE_AT_ONCE = 500

#: Reconnecting waits a random time of up to BACKOFF_BASE * 2**attempt seconds, BACKOFF_CAP at most.
BACKOFF_BASE = 0.05
BACKOFF_CAP = 1.0


#: Takes the Redis channel's name and the message's bytes. It must neither block nor raise.
RawHandler = Callable[[str, bytes], None]


def backoff(attempt: int, draw: Callable[[], float] = random.random) -> float:
    """Seconds to wait before the given attempt (from 0), with full jitter, at least a tenth of the step."""
    step = min(BACKOFF_CAP, BACKOFF_BASE * 2.0 ** min(attempt, 16))
    return step * (0.1 + 0.9 * draw())


_FEED_PREFIX = f"{keys.PREFIX}{{".encode()


def _is_pattern(channel: str) -> bool:
    return any(mark in channel for mark in "*?[")


class FeedHandler(Protocol):
    """Who hears the feeds, with their positions."""

    def on_up(self) -> None:
        """A new connection is up; it hears no feeds yet."""

    def on_down(self, feed_names: Collection[str]) -> None:
        """A connection is gone, which had been asked for these."""

    def on_confirmed(self, feed_name: str) -> None:
        """From here on a feed is heard."""

    def hear(self, feed_name: bytes, message: bytes) -> bool:
        """A message on a feed; returns whether so much is waiting that it should be handed out."""

    def on_turn(self, begins: bool) -> None:
        """A turn's messages are about to come, or have all come: what was heard is to be handed out."""


class Listener:
    """Owns one subscription connection. `run` must be running for anything to be heard.

    server:          whom to connect to, asked before each connection
    handlers:        plain channels and patterns, and who hears them
    feeds:           who hears the feeds; None where this connection hears none
    is_sharded:      feeds are sharded channels
    on_connecting:   called before a new connection hears anything: what was heard before it may have a hole behind it
    on_lost:         called when a connection has failed
    health_interval: seconds between two canaries
    deadline:        seconds within which one must be heard
    """

    def __init__(
        self,
        server: Callable[[], Server],
        handlers: Mapping[str, list[RawHandler]],
        feeds: FeedHandler | None,
        health_interval: float,
        deadline: float,
        *,
        is_sharded: bool = False,
        on_connecting: Callable[[], None] = lambda: None,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._server = server
        self._handlers = handlers
        self._feeds = feeds
        self._health_interval = health_interval
        self._deadline = deadline
        self._is_sharded = is_sharded
        self._on_connecting = on_connecting
        self._on_lost = on_lost
        self._canary = keys.PROBE + secrets.token_hex(8)
        self._canary_name = self._canary.encode()
        self._canary_heard = trio.Event()
        self._ear: Ear | None = None
        self._connection: AbstractConnection | None = None
        self._loop: trio_asyncio.TrioEventLoop | None = None
        self._wanted: set[str] = set()
        self._leaving: Counter[str] = Counter()
        self.alive = False
        self.reconnects = 0

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
            _log.warning(event, error=_said(error), retry_in=round(delay, 3))
            self._on_lost()
            await trio.sleep(delay)

    async def _run_connection(self, loop: trio_asyncio.TrioEventLoop) -> tuple[bool, Exception]:
        """One connection, from its start until it fails; returns whether it was ever up, and what ended it."""
        server: Server | None = None
        connection: AbstractConnection | None = None
        was_alive = False
        try:
            server = self._server()
            with trio.fail_after(self._deadline):
                connection = await loop.run_aio_coroutine(server.connect())
            async with trio.open_nursery() as nursery:
                self._ear = Ear(self._handle, self._on_turn)
                nursery.start_soon(self._ear.hear, connection, loop)
                self._connection = connection
                self._on_connecting()
                names = [self._canary, *(name for name in self._handlers if not _is_pattern(name))]
                await self._send(connection, "SUBSCRIBE", names)
                await self._send(connection, "PSUBSCRIBE", [name for name in self._handlers if _is_pattern(name)])
                await self._watch(loop, server)
        except* (RedisError, OSError, trio.TooSlowError, BrokerError) as errors:
            failure = _first(errors)
        finally:
            was_alive, self.alive = self.alive, False
            self._connection = self._ear = None
            wanted, self._wanted = self._wanted, set()
            self._leaving.clear()
            if self._feeds is not None:
                self._feeds.on_down(wanted)
            if connection is not None and server is not None:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + self._deadline):
                    await loop.run_aio_coroutine(server.discard(connection))
        return was_alive, failure

    async def subscribe(self, feed_names: Collection[str]) -> bool:
        """Hear feeds on the present connection; each is confirmed to `feeds`. False when there is none, or it breaks."""
        connection = self._connection
        if connection is None:
            return False
        self._wanted.update(feed_names)
        command = "SSUBSCRIBE" if self._is_sharded else "SUBSCRIBE"
        return await self._send_or_hang_up(connection, command, feed_names)

    async def unsubscribe(self, feed_names: Collection[str]) -> None:
        """Hear them no longer."""
        connection = self._connection
        if connection is None:
            return
        self._wanted.difference_update(feed_names)
        self._leaving.update(feed_names)
        command = "SUNSUBSCRIBE" if self._is_sharded else "UNSUBSCRIBE"
        await self._send_or_hang_up(connection, command, feed_names)

    async def _send_or_hang_up(self, connection: AbstractConnection, command: str, feed_names: Collection[str]) -> bool:
        """A connection that does not take everything is given up: what is heard on it would not be what is wanted."""
        try:
            for names in self._alike(feed_names):
                await self._send(connection, command, names)
        except (RedisError, OSError, trio.TooSlowError):
            hang_up(connection)
            return False
        return True

    def _alike(self, feed_names: Collection[str]) -> Iterable[list[str]]:
        """What one command may name: sharded channels of one slot only."""
        if not self._is_sharded:
            return [list(feed_names)]
        return [list(names) for _, names in groupby(sorted(feed_names, key=keys.tag_of), keys.tag_of)]

    async def _send(self, connection: AbstractConnection, command: str, names: list[str]) -> None:
        """Raises RedisError or OSError when the connection breaks, TooSlowError when the server does not take it in time."""
        assert self._loop is not None
        for first in range(0, len(names), _SUBSCRIBE_AT_ONCE):
            words: Any = (command, *names[first : first + _SUBSCRIBE_AT_ONCE])
            with trio.fail_after(self._deadline):
                await self._loop.run_aio_coroutine(write(connection, pack_command(words)))

    async def _watch(self, loop: trio_asyncio.TrioEventLoop, server: Server) -> None:
        """Send canaries to ourselves, the way that updates come; raises TooSlowError when one does not arrive.

        It finds more than a server that does not answer: a subscription that the server has forgotten, or that was
        cut off in between, is as silent as one on which nothing happens.
        """
        while True:
            self._canary_heard = trio.Event()
            with trio.fail_after(self._deadline):
                await self._publish_canary(loop, server)
            await self._hear_canary()
            if not self.alive:
                self.alive = True
                channels = sorted(name for name in self._handlers if not name.startswith(keys.PREFIX))
                _log.info("redis subscription up", server=server.name, channels=channels)
                if self._feeds is not None:
                    self._feeds.on_up()
            await trio.sleep(self._health_interval)

    async def _hear_canary(self) -> None:
        """Raises TooSlowError when nothing at all is heard for the deadline: a canary may be behind a hundred thousand
        updates, and each of them is a sign of life as well."""
        while True:
            handled = self._ear.handled if self._ear is not None else 0
            with trio.move_on_after(self._deadline):
                await self._canary_heard.wait()
                return
            if self._ear is None or self._ear.handled == handled:
                raise trio.TooSlowError("the subscription is silent")

    async def _publish_canary(self, loop: trio_asyncio.TrioEventLoop, server: Server) -> None:
        """Try until it is out: the other connections may be those of a server that has gone, and to drop this one for
        that would lose what is on its way."""
        attempt = 0
        while True:
            try:
                (answer,) = await loop.run_aio_coroutine(server.exchange([("PUBLISH", self._canary, b"")]))
            except (RedisError, OSError):
                await trio.sleep(backoff(attempt) / 10)
                attempt += 1
            else:
                if isinstance(answer, RedisError):
                    raise answer
                return

    def _on_turn(self, begins: bool) -> None:
        if self._feeds is not None:
            self._feeds.on_turn(begins)

    def _handle(self, response: list[Any]) -> bool:
        kind = response[0]
        feeds = self._feeds
        if kind == b"message" or kind == b"smessage":
            _, name, message = response
            if name.startswith(_FEED_PREFIX):
                return feeds is not None and feeds.hear(name, message)
            if name == self._canary_name:
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
        elif feeds is not None and response[1] is not None and response[1].startswith(_FEED_PREFIX):
            name = response[1].decode(errors="replace")
            if kind in (b"subscribe", b"ssubscribe"):
                feeds.on_confirmed(name)
            elif (left := self._leaving.pop(name, 0)) > 0:
                if left > 1:
                    self._leaving[name] = left - 1
            elif self._is_sharded:
                raise RedisConnectionError(f"the cluster serves {name} elsewhere now")
        return False


def _said(error: Exception) -> str:
    text = str(error) or ("the server did not answer in time" if isinstance(error, trio.TooSlowError) else "")
    return f"{type(error).__name__}: {text}"


def _first(errors: BaseExceptionGroup[Exception]) -> Exception:
    """What to show of several errors: the first that says something."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Exception)
    return error
