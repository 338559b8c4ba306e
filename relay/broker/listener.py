"""The subscription: one Redis connection that hears every channel this process wants, for ever.

It reconnects with jittered backoff, counts a server that does not answer as down, and hands messages on in batches:
while parsed bytes are at hand it does not yield to the event loop, up to a limit that keeps sockets served.

It works on redis-py's `Connection`, not on its `PubSub`: that one reconnects by itself, and then nobody would know that
something may have been missed.
"""

import asyncio
import math
import random
from collections.abc import Callable
from time import monotonic
from typing import Any

import structlog
import trio
import trio_asyncio
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from relay.broker.contract import RawHandler

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


def _is_pattern(channel: str) -> bool:
    return any(mark in channel for mark in "*?[")


class Listener:
    """Owns the subscription connection. `run` must be running for anything to be heard.

    pool:            where to take the connection from; RESP2, and without retries of its own
    health_interval: seconds between two requests for a sign of life
    deadline:        seconds within which it must come
    """

    def __init__(self, pool: ConnectionPool, health_interval: float, deadline: float) -> None:
        self._pool = pool
        self._health_interval = health_interval
        self._deadline = deadline
        self._handlers: dict[str, list[RawHandler]] = {}
        self._last_heard = 0.0
        self._heard = trio.Event()
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
                with trio.fail_after(self._deadline):
                    await loop.run_aio_coroutine(self._subscribe(connection))
                await self._watch(loop, connection)
        except* (RedisError, OSError, trio.TooSlowError) as errors:
            failure = _first(errors)
        finally:
            was_alive, self.alive = self.alive, False
            if connection is not None:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + self._deadline):
                    await loop.run_aio_coroutine(self._discard(connection))
        return was_alive, failure

    async def _discard(self, connection: AbstractConnection) -> None:
        await connection.disconnect(nowait=True)
        await self._pool.release(connection)

    async def _subscribe(self, connection: AbstractConnection) -> None:
        """asyncio: ask for every channel; the server confirms them to the reader."""
        for command, names in (
            ("SUBSCRIBE", [name for name in self._handlers if not _is_pattern(name)]),
            ("PSUBSCRIBE", [name for name in self._handlers if _is_pattern(name)]),
        ):
            for first in range(0, len(names), _SUBSCRIBE_AT_ONCE):
                await connection.send_command(command, *names[first : first + _SUBSCRIBE_AT_ONCE], check_health=False)

    async def _watch(self, loop: trio_asyncio.TrioEventLoop, connection: AbstractConnection) -> None:
        """Ask for a sign of life again and again; raises TooSlowError when none comes."""
        while True:
            asked = monotonic()
            with trio.fail_after(self._deadline):
                await loop.run_aio_coroutine(connection.send_command("PING", check_health=False))
                while self._last_heard < asked:
                    await self._heard.wait()
                    self._heard = trio.Event()
            if not self.alive:
                self.alive = True
                _log.info("redis subscription up", channels=sorted(self._handlers))
            await trio.sleep(self._health_interval)

    def _sign_of_life(self) -> None:
        self._last_heard = monotonic()
        self._heard.set()

    async def _dispatch(self, connection: AbstractConnection) -> None:
        """asyncio: read for ever, and hand on what comes."""
        handled = 0
        while True:
            response: Any = await connection.read_response(timeout=math.inf, disconnect_on_error=False)
            kind = response[0]
            if kind == b"message":
                _, name, message = response
                pattern = name
            elif kind == b"pmessage":
                _, pattern, name, message = response
            else:  # a pong, or a confirmation
                self._sign_of_life()
                continue
            handled += 1
            channel = name.decode(errors="replace")
            for handler in self._handlers.get(channel if pattern is name else pattern.decode(errors="replace"), ()):
                handler(channel, message)
            if handled % BATCH == 0:
                self._sign_of_life()
                await asyncio.sleep(0)


def _first(errors: BaseExceptionGroup[Exception]) -> Exception:
    """What to show of several errors: the first that says something."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Exception)
    return error
