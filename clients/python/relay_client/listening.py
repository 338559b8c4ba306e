"""Plain Redis channels, heard from asyncio: callbacks in tasks of their own, over a subscription that is kept up for ever."""

import asyncio
import inspect
import json
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from time import monotonic
from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.client import PubSub
from redis.exceptions import TimeoutError as RedisTimeoutError
from relay_wire import redis_urls

from relay_client.publishing.asyncio_runtime import cancellation_count
from relay_client.publishing.connection import connection_options, without_retries
from relay_client.redis_errors import REDIS_FAILURES

_log = logging.getLogger("relay_client")

#: A callback takes the decoded message; it may be a plain function or an async one.
Callback = Callable[[Any], Awaitable[None] | None]

#: Messages that may wait for one callback. A callback that is slower loses the newest, logged and counted.
CALLBACK_QUEUE = 1024

#: Seconds without a message before the connection is tested.
_HEALTH_INTERVAL = 1.0

#: Messages heard in one go, before the callbacks get their turn.
_IN_ONE_GO = 64

_MOST_SECONDS_BETWEEN_TRIES = 5.0
_GLOB = frozenset("*?[\\")


class Subscription:
    """A callback on a channel. Calling it ends it. It may be awaited, which does nothing: some services do that."""

    def __init__(self, channel: str, callback: Callback, note_change: Callable[[], None]) -> None:
        self.channel = channel
        self.is_pattern = not _GLOB.isdisjoint(channel)
        self._callback = callback
        self._note_change = note_change
        self._waiting: deque[Any] = deque()
        self._arrived: asyncio.Event | None = None
        self.has_ended = False
        #: Messages lost, since so many waited already.
        self.overflows = 0

    def __call__(self) -> None:
        self.has_ended = True
        if self._arrived is not None:
            self._arrived.set()
        self._note_change()

    def __await__(self) -> Generator[Any, None, "Subscription"]:
        yield from ()
        return self

    def hear(self, message: Any) -> None:
        """Take a message for the callback."""
        if len(self._waiting) >= CALLBACK_QUEUE:
            if not self.overflows:
                _log.error(
                    "callback on %s is too slow: of over %d messages the newest are lost", self.channel, CALLBACK_QUEUE
                )
            self.overflows += 1
            return
        self._waiting.append(message)
        if self._arrived is not None:
            self._arrived.set()

    async def call_back(self) -> None:
        """Call back, with one message after the other, until it is ended."""
        self._arrived = asyncio.Event()
        while True:
            while self._waiting:
                await self._call(self._waiting.popleft())
            if self.has_ended:
                return
            self._arrived.clear()
            await self._arrived.wait()

    async def _call(self, message: Any) -> None:
        try:
            result = self._callback(message)
            if inspect.isawaitable(result):
                await result
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            _log.warning("callback on %s: something that it waited for was cancelled", self.channel)
        except Exception:  # noqa: BLE001 - other people's code: it must not end the subscription
            _log.exception("callback on %s failed", self.channel)


class Listener:
    """The subscriptions of one process, and the connection that hears them.

    timeout: seconds for connecting, and for an answer to a test of the connection
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._subscriptions: list[Subscription] = []
        self._noticing: set[asyncio.Event] = set()
        self._is_running = False
        #: The subscription is up and has answered within its deadline.
        self.alive = False
        #: How often it had to be built anew.
        self.reconnects = 0

    @property
    def overflows(self) -> int:
        """Messages lost to callbacks that were too slow."""
        return sum(subscription.overflows for subscription in self._subscriptions)

    def add(self, channel: str, callback: Callback) -> Subscription:
        """A callback on a channel or glob pattern."""
        subscription = Subscription(channel, callback, self._note_change)
        self._subscriptions.append(subscription)
        self._note_change()
        return subscription

    def _note_change(self) -> None:
        for event in self._noticing:
            event.set()

    @contextmanager
    def _changes(self) -> Iterator[asyncio.Event]:
        """What is set whenever subscriptions have been added or ended."""
        event = asyncio.Event()
        self._noticing.add(event)
        try:
            yield event
        finally:
            self._noticing.discard(event)

    async def run(self, target: redis_urls.RedisTarget) -> None:
        """Hear and call back until cancelled; reconnects for ever. Raises RuntimeError if it runs already."""
        if self._is_running:
            raise RuntimeError("this service listens already")
        self._is_running = True
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_connected(without_retries(target, self._timeout)))
                await self._run_callbacks(group)
        finally:
            self._is_running = self.alive = False

    async def _run_callbacks(self, group: asyncio.TaskGroup) -> None:
        running: set[Subscription] = set()
        with self._changes() as changed:
            while True:
                changed.clear()
                for subscription in self._subscriptions:
                    if subscription not in running:
                        group.create_task(subscription.call_back())
                self._subscriptions = [each for each in self._subscriptions if not each.has_ended]
                running = set(self._subscriptions)
                await changed.wait()

    async def _keep_connected(self, target: redis_urls.RedisTarget) -> None:
        attempt = 0
        while True:
            started = monotonic()
            try:
                async with self._client(target) as client, client.pubsub() as pubsub, asyncio.TaskGroup() as group:
                    following = asyncio.Event()
                    group.create_task(self._follow(pubsub, following))
                    await following.wait()
                    await self._hear(pubsub)
            except* REDIS_FAILURES as errors:
                _log.warning("redis subscription lost: %s", errors.exceptions[0])
            if cancellation_count():
                raise asyncio.CancelledError
            self.alive = False
            self.reconnects += 1
            attempt = 0 if monotonic() - started > 2 * _MOST_SECONDS_BETWEEN_TRIES else attempt + 1
            await asyncio.sleep(random.uniform(0.0, min(_MOST_SECONDS_BETWEEN_TRIES, 0.05 * 2.0 ** min(attempt, 10))))

    @asynccontextmanager
    async def _client(self, target: redis_urls.RedisTarget) -> AsyncIterator[Redis]:
        options = connection_options(self._timeout, "relay-listener")
        client = redis_urls.async_client(target, **options)
        if isinstance(client, RedisCluster):
            # Plain channels are heard from any node.
            try:
                async with asyncio.timeout(2 * self._timeout):
                    await client.initialize()
                node = client.get_random_node()
            finally:
                await client.aclose()
            client = Redis(host=node.host, port=int(node.port), **(target.options | options))
        try:
            yield client
        finally:
            await redis_urls.close_pool(client.connection_pool)

    async def _follow(self, pubsub: PubSub, following: asyncio.Event) -> None:
        """Be subscribed to what is wanted, now and whenever that changes."""
        have: set[tuple[str, bool]] = set()
        with self._changes() as changed:
            while True:
                changed.clear()
                want = {(each.channel, each.is_pattern) for each in self._subscriptions if not each.has_ended}
                async with asyncio.timeout(2 * self._timeout):  # it connects with the first one
                    for channel, is_pattern in want - have:
                        await (pubsub.psubscribe(channel) if is_pattern else pubsub.subscribe(channel))
                    for channel, is_pattern in have - want:
                        await (pubsub.punsubscribe(channel) if is_pattern else pubsub.unsubscribe(channel))
                if cancellation_count():
                    raise asyncio.CancelledError
                have = want
                if have:
                    following.set()
                await changed.wait()

    async def _hear(self, pubsub: PubSub) -> None:
        heard = monotonic()
        is_tested = False
        while True:
            for _ in range(_IN_ONE_GO):
                message: dict[str, Any] | None = await pubsub.get_message(timeout=_HEALTH_INTERVAL)
                if message is None:
                    break
                heard, is_tested, self.alive = monotonic(), False, True
                if message["type"] in ("message", "pmessage"):
                    self._hand_on(message)
            else:
                await asyncio.sleep(0)  # redis-py does not let others run while it has messages
                continue
            if monotonic() - heard > _HEALTH_INTERVAL + self._timeout:
                raise RedisTimeoutError(f"Redis has not answered within {self._timeout:g} s")
            if not is_tested:
                is_tested = True
                async with asyncio.timeout(self._timeout):
                    await pubsub.ping()

    def _hand_on(self, message: dict[str, Any]) -> None:
        is_pattern = message["type"] == "pmessage"
        name = _text(message["pattern" if is_pattern else "channel"])
        try:
            data = json.loads(message["data"])
        except (ValueError, RecursionError) as error:
            _log.warning("message on %s skipped, it is no JSON: %s", _text(message["channel"]), error)
            return
        for subscription in self._subscriptions:
            if subscription.channel == name and subscription.is_pattern == is_pattern and not subscription.has_ended:
                subscription.hear(data)


def _text(name: str | bytes) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else name
