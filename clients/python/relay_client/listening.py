"""Plain Redis channels from asyncio: callbacks in tasks of their own, over a subscription that always reconnects."""

import asyncio
import inspect
import json
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from time import monotonic
from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.client import PubSub
from redis.exceptions import TimeoutError as RedisTimeoutError
from relay_wire import redis_urls

from relay_client.backoff import full_jitter
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

#: Messages read before the callbacks get their turn.
_MAX_READ = 64

#: Seconds between two tries to connect: at first, and at most.
_BASE_DELAY, _MAX_DELAY = 0.05, 5.0
_GLOB = frozenset("*?[\\")


class Subscription:
    """A callback on a channel. Calling it ends it. It may be awaited, which does nothing: some services do that."""

    def __init__(self, channel: str, callback: Callback, note_change: Callable[[], None]) -> None:
        self.channel = channel
        self.callback = callback
        self.is_pattern = not _GLOB.isdisjoint(channel)
        self._note_change = note_change
        self._waiting: deque[Any] = deque()
        self._available: asyncio.Event | None = None
        self.has_ended = False
        #: Messages that were lost because too many waited.
        self.overflows = 0

    def __call__(self) -> None:
        self.has_ended = True
        if self._available is not None:
            self._available.set()
        self._note_change()

    def __await__(self) -> Generator[Any, None, "Subscription"]:
        yield from ()
        return self

    def put(self, message: Any) -> None:
        """Queue a message for the callback."""
        if len(self._waiting) >= CALLBACK_QUEUE:
            if not self.overflows:
                _log.error(
                    "callback on %s is too slow: %d messages wait, further ones are lost", self.channel, CALLBACK_QUEUE
                )
            self.overflows += 1
            return
        self._waiting.append(message)
        if self._available is not None:
            self._available.set()

    async def run(self) -> None:
        """Call the callback with one message after the other, until the subscription ends."""
        self._available = asyncio.Event()
        while True:
            while self._waiting:
                await self._call(self._waiting.popleft())
            if self.has_ended:
                return
            self._available.clear()
            await self._available.wait()

    async def _call(self, message: Any) -> None:
        try:
            result = self.callback(message)
            if inspect.isawaitable(result):
                await result
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            _log.warning("callback on %s: something that it waited for was cancelled", self.channel)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # noqa: BLE001 - other people's code: it must end neither this subscription nor the others
            _log.exception("callback on %s failed", self.channel)


class Listener:
    """The subscriptions of one process, and the connection that receives their messages."""

    def __init__(
        self, timeout: float, name: str = "relay-listener", on_subscribed: Callable[[], None] = lambda: None
    ) -> None:
        """Make a listener without subscriptions.

        Args:
            timeout: Seconds for connecting, and for testing the connection.
            name: Name of the connection, as Redis lists it.
            on_subscribed: Called whenever Redis has confirmed a subscription, on a new connection again: messages that were
                published before may have been missed. It must neither block nor raise.
        """
        self._timeout = timeout
        self._name = name
        self._on_subscribed = on_subscribed
        self._subscriptions: list[Subscription] = []
        self._change_events: set[asyncio.Event] = set()
        self._work: asyncio.Task[None] | None = None
        #: The subscription is up and has answered within its deadline.
        self.alive = False
        #: How often the subscription had to be built again.
        self.reconnects = 0

    @property
    def overflows(self) -> int:
        """Messages that were lost to callbacks that were too slow."""
        return sum(subscription.overflows for subscription in self._subscriptions)

    def add(self, channel: str, callback: Callback) -> Subscription:
        """Add a callback on a channel or glob pattern; the same one on the same channel is added once."""
        for each in self._subscriptions:
            if (each.channel, each.callback) == (channel, callback) and not each.has_ended:
                return each
        subscription = Subscription(channel, callback, self._note_change)
        self._subscriptions.append(subscription)
        self._note_change()
        return subscription

    def _note_change(self) -> None:
        for event in self._change_events:
            event.set()

    @contextmanager
    def _changes(self) -> Iterator[asyncio.Event]:
        """Make an event that is set whenever subscriptions have been added or ended."""
        event = asyncio.Event()
        self._change_events.add(event)
        try:
            yield event
        finally:
            self._change_events.discard(event)

    async def run(self, target: redis_urls.RedisTarget) -> None:
        """Receive messages and call callbacks until cancelled or stopped; always reconnects. Raises RuntimeError if it runs."""
        if self._work is not None:
            raise RuntimeError("this service listens already")
        try:
            async with asyncio.TaskGroup() as group:
                self._work = group.create_task(self._listen(target))
        finally:
            self._work = None
            self.alive = False

    async def stop(self) -> None:
        """Have `run` return, and wait until it does; nothing happens where it does not run."""
        work = self._work
        if work is None:
            return
        if work.get_loop() is asyncio.get_running_loop():
            work.cancel()
            await asyncio.wait({work})
        else:
            with suppress(RuntimeError):  # that loop is closed
                work.get_loop().call_soon_threadsafe(work.cancel)

    async def _listen(self, target: redis_urls.RedisTarget) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_connected(without_retries(target, self._timeout)))
            await self._run_callbacks(group)

    async def _run_callbacks(self, group: asyncio.TaskGroup) -> None:
        running: set[Subscription] = set()
        with self._changes() as changed:
            while True:
                changed.clear()
                for subscription in self._subscriptions:
                    if subscription not in running:
                        group.create_task(subscription.run())
                self._subscriptions = [each for each in self._subscriptions if not each.has_ended]
                running = set(self._subscriptions)
                await changed.wait()

    async def _keep_connected(self, target: redis_urls.RedisTarget) -> None:
        attempt = 0
        while True:
            started = monotonic()
            try:
                async with self._client(target) as client, client.pubsub() as pubsub, asyncio.TaskGroup() as group:
                    subscribed = asyncio.Event()
                    group.create_task(self._keep_subscribed(pubsub, subscribed))
                    await subscribed.wait()
                    await self._receive(pubsub)
            except* REDIS_FAILURES as errors:
                _log.warning("redis subscription lost: %s", errors.exceptions[0])
            if cancellation_count():
                raise asyncio.CancelledError
            self.alive = False
            self.reconnects += 1
            attempt = 0 if monotonic() - started > 2 * _MAX_DELAY else attempt + 1
            await asyncio.sleep(full_jitter(attempt, _BASE_DELAY, _MAX_DELAY))

    @asynccontextmanager
    async def _client(self, target: redis_urls.RedisTarget) -> AsyncIterator[Redis]:
        options = connection_options(self._timeout, self._name)
        client = redis_urls.async_client(target, **options)
        if isinstance(client, RedisCluster):
            # Any node delivers plain channels.
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

    async def _keep_subscribed(self, pubsub: PubSub, subscribed: asyncio.Event) -> None:
        """Keep the connection subscribed to all channels, now and whenever they change."""
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
                    subscribed.set()
                await changed.wait()

    async def _receive(self, pubsub: PubSub) -> None:
        last_message = monotonic()
        is_tested = False
        while True:
            for _ in range(_MAX_READ):
                message: dict[str, Any] | None = await pubsub.get_message(timeout=_HEALTH_INTERVAL)
                if message is None:
                    break
                last_message, is_tested, self.alive = monotonic(), False, True
                if message["type"] in ("message", "pmessage"):
                    self._dispatch(message)
                elif message["type"] in ("subscribe", "psubscribe"):
                    self._on_subscribed()
            else:
                await asyncio.sleep(0)  # redis-py does not let others run while it has messages
                continue
            if monotonic() - last_message > _HEALTH_INTERVAL + self._timeout:
                raise RedisTimeoutError(f"Redis has not answered within {self._timeout:g} s")
            if not is_tested:
                is_tested = True
                async with asyncio.timeout(self._timeout):
                    await pubsub.ping()

    def _dispatch(self, message: dict[str, Any]) -> None:
        is_pattern = message["type"] == "pmessage"
        name = _text(message["pattern" if is_pattern else "channel"])
        try:
            data = json.loads(message["data"])
        except (ValueError, RecursionError) as error:
            _log.warning("message on %s skipped, it is no JSON: %s", _text(message["channel"]), error)
            return
        for subscription in self._subscriptions:
            if subscription.channel == name and subscription.is_pattern == is_pattern and not subscription.has_ended:
                subscription.put(data)


def _text(name: str | bytes) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else name
