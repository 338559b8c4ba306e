"""The subscription: one Redis connection that hears every channel this process wants, for ever.

It reconnects with jittered backoff, counts a server that does not answer as down, and hands messages on in batches: while
parsed bytes are at hand it does not yield to the event loop, up to a limit that keeps sockets served.
"""

import asyncio
import random
from collections.abc import Callable
from time import monotonic

import structlog
import trio
import trio_asyncio
from redis.asyncio.client import PubSub, Redis
from redis.exceptions import RedisError

from relay.broker.contract import RawHandler

_log = structlog.get_logger("relay.listener")

#: Messages handled before the event loop gets its turn: more would make clients wait, fewer would make smaller batches.
BATCH = 512

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

    client:          a redis-py client of the loop that `run` is given, without retries of its own
    health_interval: seconds of silence before the server is asked for a sign of life
    deadline:        seconds within which it must give it
    """

    def __init__(self, client: Redis, health_interval: float, deadline: float) -> None:
        self._client = client
        self._health_interval = health_interval
        self._deadline = deadline
        self._handlers: dict[str, list[RawHandler]] = {}
        self._pubsub: PubSub | None = None
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
            try:
                await loop.run_aio_coroutine(self._listen())
            except (RedisError, OSError, TimeoutError) as error:
                if self.alive:
                    attempt = 0
                self.alive = False
                delay = backoff(attempt)
                _log.warning(
                    "redis subscription lost" if attempt == 0 else "redis still away",
                    error=f"{type(error).__name__}: {error}",
                    retry_in=round(delay, 3),
                )
                attempt += 1
                self.reconnects += 1
                await trio.sleep(delay)

    async def _listen(self) -> None:
        """asyncio: subscribe, then dispatch until the connection fails."""
        pubsub = self._pubsub = self._client.pubsub()
        try:
            async with asyncio.timeout(self._deadline):
                names = list(self._handlers)
                await pubsub.subscribe(*[name for name in names if not _is_pattern(name)])
                patterns = [name for name in names if _is_pattern(name)]
                if patterns:
                    await pubsub.psubscribe(*patterns)
                await pubsub.ping()
            await self._dispatch(pubsub)
        finally:
            self._pubsub = None
            self.alive = False
            await pubsub.aclose()  # type: ignore[no-untyped-call]

    async def _dispatch(self, pubsub: PubSub) -> None:
        handled = 0
        asked: float | None = monotonic()  # when the ping went out that is not answered yet
        while True:
            wait = self._deadline if asked is not None else self._health_interval
            message = await pubsub.get_message(timeout=wait)
            if message is None:
                if asked is not None:
                    if monotonic() - asked >= self._deadline:
                        raise TimeoutError(f"no answer to a ping for {self._deadline} s")
                    continue
                asked = monotonic()
                async with asyncio.timeout(self._deadline):
                    await pubsub.ping()
                continue
            kind = message["type"]
            if kind == "pong":
                asked = None
                if not self.alive:
                    self.alive = True
                    _log.info("redis subscription up", channels=sorted(self._handlers))
                continue
            if kind in ("message", "pmessage"):
                channel = message["channel"].decode(errors="replace")
                key = channel if kind == "message" else message["pattern"].decode(errors="replace")
                for handler in self._handlers.get(key, ()):
                    handler(channel, message["data"])
                handled += 1
                if handled % BATCH == 0:
                    await asyncio.sleep(0)
