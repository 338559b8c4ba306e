"""A drop-in for the `redis_service` that services bring themselves, for asyncio: change the import, and nothing else.

    from relay_client.redis_service import redis_service

    await redis_service.connect()
    redis_service.subscribe_to_channel("task_updates", on_task_update)
    listening = asyncio.create_task(redis_service.start_listening())
    await redis_service.publish_task_update("task-123", {"status": "in_progress", "progress": 40})
    await redis_service.disconnect()

It publishes plainly, on ``task_updates`` and ``general_updates``, as services always did. A durable publish is better, but
not the default. A durable one goes out with its position on a channel of Relay's own, where other services that listen on
``task_updates`` do not receive it; and if both were sent, every client would get everything twice, for a relay records the
plain one as well. So a relay that receives the plain one gives it its position. What no subscriber received, because Redis has
just been restarted and its listeners are not back yet, is published durably instead. Where only relays listen, use
``RedisService(durable=True)``, or `relay_client.aio.Publisher`: Redis itself keeps their updates.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from redis.asyncio import ConnectionPool, Redis, RedisCluster
from relay_wire import redis_urls
from relay_wire.position import Position

from relay_client import environment
from relay_client.aio.publisher import Publisher
from relay_client.errors import NotDelivered
from relay_client.listening import Callback, Listener, Subscription
from relay_client.progress.block import checked_on_error
from relay_client.publishing.connection import without_retries
from relay_client.redis_errors import REDIS_FAILURES
from relay_client.service_locks import ServiceLocks

_log = logging.getLogger("relay_client")


class RedisService:
    """Publishes and listens, for the tasks of one event loop at a time. Making one neither connects nor reads settings."""

    def __init__(
        self,
        url: str | None = None,
        *,
        durable: bool = False,
        deadline: float = 15.0,
        timeout: float = 2.0,
        on_error: str = "raise",
    ) -> None:
        """Make a service.

        Args:
            url: URL of Redis; by default ``REDIS_URL``, or ``REDIS_HOST``, ``REDIS_PORT``, ``REDIS_DB``, ``REDIS_PASSWORD``,
                ``REDIS_SSL``.
            durable: Publish durably; see the module's documentation.
            deadline: Seconds for which an update is tried when Redis is away.
            timeout: Seconds for one try.
            on_error: ``raise``: an update that is not delivered raises. ``log``: it is logged, as services did themselves;
                this is what the module's own `redis_service` does.

        Raises:
            ValueError: on_error is something else.
        """
        self._url = url
        self._durable = durable
        self._deadline = deadline
        self._timeout = timeout
        self._raises = checked_on_error(on_error) == "raise"
        self._publisher: Publisher | None = None
        self._client: Redis | RedisCluster | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listener = Listener(timeout)
        self._locks = ServiceLocks()

    # State

    @property
    def alive(self) -> bool:
        """The subscription is up and has answered within its deadline."""
        return self._listener.alive

    @property
    def reconnects(self) -> int:
        """How often the subscription had to be built again."""
        return self._listener.reconnects

    @property
    def callback_overflows(self) -> int:
        """Messages that were lost to callbacks that were too slow."""
        return self._listener.overflows

    @property
    def redis_client(self) -> Redis | RedisCluster | None:
        """redis-py's client, for commands of the service's own, with answers as str; None while it is not connected."""
        return self._client if self._loop is _running_loop() else None

    @property
    def redis_pool(self) -> ConnectionPool | None:
        """The client's connections; None while it is not connected, and on a cluster, which has a pool for each node."""
        client = self.redis_client
        return client.connection_pool if isinstance(client, Redis) else None

    # Connecting

    async def connect(self) -> None:
        """Connect, and test the connection. Publishing and listening connect by themselves.

        Raises:
            ConnectionError: Redis does not answer.
            ValueError: The settings cannot be right.
        """
        client = self._open_client()
        try:
            async with asyncio.timeout(self._timeout):
                await _ping(client)
        except (*REDIS_FAILURES, TimeoutError) as error:
            await self._close_client()
            raise ConnectionError(f"Redis does not answer: {error or 'timed out'}") from error

    async def disconnect(self) -> None:
        """Stop listening, send what is being published, and close all connections. What is used later connects again."""
        await self.stop_listening()
        await self.close()

    async def close(self) -> None:
        """Close the connections for publishing and for commands. What is used later connects again."""
        publisher, self._publisher = self._publisher, None
        is_ours = self._loop is asyncio.get_running_loop()
        await self._close_client()
        if publisher is not None and is_ours:
            await publisher.close()

    async def health_check(self) -> bool:
        """Return whether Redis answers, within the timeout. Never raises for a Redis that does not."""
        try:
            async with asyncio.timeout(self._timeout):
                return await _ping(self._open_client())
        except (*REDIS_FAILURES, TimeoutError) as error:
            _log.warning("Redis does not answer: %s", error or "timed out")
            return False

    def _open_client(self) -> Redis | RedisCluster:
        self._use_running_loop()
        if self._client is None:
            target = without_retries(redis_urls.parse(self._url or environment.redis_url()), self._timeout)
            options = {
                "socket_timeout": self._timeout,
                "socket_connect_timeout": self._timeout,
                "decode_responses": True,
            }
            self._client = redis_urls.async_client(target, **options)
        return self._client

    async def _close_client(self) -> None:
        client, self._client = self._client, None
        if client is None or self._loop is not asyncio.get_running_loop():
            return
        try:
            async with asyncio.timeout(self._timeout):
                await client.aclose()
                if isinstance(client, Redis):
                    await redis_urls.close_pool(client.connection_pool)
        except (*REDIS_FAILURES, TimeoutError) as error:
            _log.debug("the connection was broken already: %s", error)

    def _use_running_loop(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            # Nothing of an earlier loop can be used, or closed, any more.
            self._publisher = self._client = None
            self._loop = loop

    # Publishing

    async def publish_task_update(self, task_id: str | int, update: Mapping[str, Any]) -> Position | None:
        """Publish the fields of a task that changed.

        Returns:
            The update's position, where it has one already.

        Raises:
            NotDelivered: Redis did not acknowledge it by the deadline. Only with ``on_error="raise"``.
            ValueError, TypeError: It cannot be published. Only with ``on_error="raise"``.
        """
        return await self._publish(lambda: self._open_publisher().updates.task_update, task_id, update)

    async def publish_general_update(self, update: Mapping[str, Any]) -> Position | None:
        """Publish an update for every client; returns and raises as `publish_task_update`."""
        return await self._publish(lambda: self._open_publisher().updates.general_update, update)

    async def _publish(self, find: Callable[[], Callable[..., list[Any]]], *arguments: Any) -> Position | None:
        try:
            return await self._publish_or_raise(find(), *arguments)
        except (NotDelivered, TypeError, ValueError) as error:
            if self._raises:
                raise
            _log.error("update not published: %s", error)
            return None

    async def _publish_or_raise(self, make: Callable[..., list[Any]], *arguments: Any) -> Position | None:
        publisher = self._open_publisher()
        outcome = await self._deliver(publisher, make(*arguments, durable=self._durable))
        # On a cluster the number does not count subscribers at the other nodes.
        if not self._durable and outcome == 0 and not publisher.updates.sharded:
            outcome = await self._deliver(publisher, make(*arguments, durable=True))
        return outcome if isinstance(outcome, Position) else None

    @staticmethod
    async def _deliver(publisher: Publisher, calls: list[Any]) -> Any:
        await publisher.sender.deliver(calls)
        return calls[-1].outcome()

    def _open_publisher(self) -> Publisher:
        self._use_running_loop()
        if self._publisher is None:
            self._publisher = Publisher(self._url, deadline=self._deadline, timeout=self._timeout)
        return self._publisher

    # Listening

    def subscribe_to_channel(self, channel: str, callback: Callback) -> Subscription:
        """Have a callback called with each message on a Redis channel or glob pattern, decoded from JSON.

        Callbacks run one message at a time, in order, each in a task of its own, so that a slow one delays no other. One that
        raises is logged, and called again with the next message. It takes effect while `start_listening` runs, at any time.
        The same callback on the same channel is called once.

        Args:
            channel: Name of a Redis channel, or a pattern with any of ``* ? [``.
            callback: A function of the message, plain or async.

        Returns:
            The subscription; calling it ends it. It may be awaited, which does nothing.
        """
        return self._listener.add(channel, callback)

    async def start_listening(self) -> None:
        """Listen to the subscribed channels until cancelled, or until `stop_listening`. Reconnects indefinitely.

        Raises:
            RuntimeError: It runs already.
            ValueError: The settings cannot be right.
        """
        await self._listener.run(redis_urls.parse(self._url or environment.redis_url()))

    async def stop_listening(self) -> None:
        """Have `start_listening` return, and wait until it has. Nothing happens where it does not run."""
        await self._listener.stop()

    # Locks

    async def acquire_lock(self, lock_name: str, timeout: float = 10.0) -> bool:
        """Take a lock that all services on this Redis share, unless it is taken.

        Args:
            lock_name: The lock's name, which is also its Redis key.
            timeout: Seconds after which Redis releases it.

        Returns:
            Whether the lock was taken.

        Raises:
            ConnectionError: Redis does not answer.
        """
        return await self._locks.acquire(self._open_client(), lock_name, timeout, self._timeout)

    async def release_lock(self, lock_name: str) -> bool:
        """Release a lock that this service has taken; False if it has not, or if it has expired.

        Raises:
            ConnectionError: Redis does not answer.
        """
        return await self._locks.release(self._open_client(), lock_name, self._timeout)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def _ping(client: Redis | RedisCluster) -> bool:
    answer: Any = client.ping()
    return bool(await answer)


#: Of this process, configured by the environment when it is first used. It logs what it cannot publish.
redis_service = RedisService(on_error="log")
