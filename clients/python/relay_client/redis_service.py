"""The four methods by which services publish and listen today, for asyncio: change the import, and nothing else.

    from relay_client.redis_service import redis_service

    redis_service.subscribe_to_channel("task_updates", on_task_update)
    listening = asyncio.create_task(redis_service.start_listening())
    await redis_service.publish_task_update("task-123", {"status": "in_progress", "progress": 40})

It publishes plainly, on ``task_updates`` and ``general_updates``, as services always did. A durable publish is better, and
still this is the honest default: a durable one goes out with its position on a channel of Relay's own, where other services
that listen on ``task_updates`` would not hear it; and if both were sent, every client would get everything twice, for a relay
records the plain one as well. So a relay that hears the plain one gives it its position; and what nobody at all heard, since
Redis was started anew and its listeners are not back yet, is published durably instead. Where only relays listen, use
``RedisService(durable=True)``, or `relay_client.aio.Publisher`: their updates are kept by Redis itself.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from relay_wire import redis_urls
from relay_wire.position import Position

from relay_client import environment
from relay_client.aio.publisher import Publisher
from relay_client.listening import Callback, Listener, Subscription


class RedisService:
    """Publishes and listens, for the tasks of one event loop at a time. Making one neither connects nor reads settings.

    url:      of Redis; by default ``REDIS_URL``, or ``REDIS_HOST``, ``_PORT``, ``_DB``, ``_PASSWORD``
    durable:  see this module's own words
    deadline: seconds for which an update is tried when Redis is away
    timeout:  seconds for one try
    """

    def __init__(
        self, url: str | None = None, *, durable: bool = False, deadline: float = 15.0, timeout: float = 2.0
    ) -> None:
        self._url = url
        self._durable = durable
        self._deadline = deadline
        self._timeout = timeout
        self._publisher: Publisher | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listener = Listener(timeout)

    @property
    def alive(self) -> bool:
        """The subscription is up and has answered within its deadline."""
        return self._listener.alive

    @property
    def reconnects(self) -> int:
        """How often the subscription had to be built anew."""
        return self._listener.reconnects

    @property
    def callback_overflows(self) -> int:
        """Messages lost to callbacks that were too slow."""
        return self._listener.overflows

    async def publish_task_update(self, task_id: str | int, update: Mapping[str, Any]) -> Position | None:
        """Publish the fields of a task that changed. Raises `relay_client.NotDelivered` for what Redis did not acknowledge by
        the deadline, ValueError or TypeError for what cannot be published. Returns the position where it has one already."""
        publisher = self._open_publisher()
        return await self._publish(publisher, publisher.updates.task_update, task_id, update)

    async def publish_general_update(self, update: Mapping[str, Any]) -> Position | None:
        """Publish something for every client; see `publish_task_update`."""
        publisher = self._open_publisher()
        return await self._publish(publisher, publisher.updates.general_update, update)

    async def _publish(self, publisher: Publisher, make: Callable[..., list[Any]], *arguments: Any) -> Position | None:
        outcome = await self._deliver(publisher, make(*arguments, durable=self._durable))
        # On a cluster the number says nothing of listeners at the other nodes.
        if not self._durable and outcome == 0 and not publisher.updates.sharded:
            outcome = await self._deliver(publisher, make(*arguments, durable=True))
        return outcome if isinstance(outcome, Position) else None

    @staticmethod
    async def _deliver(publisher: Publisher, calls: list[Any]) -> Any:
        await publisher.sender.deliver(calls)
        return calls[-1].outcome()

    def _open_publisher(self) -> Publisher:
        loop = asyncio.get_running_loop()
        if self._publisher is None or self._loop is not loop:
            # Of an earlier loop's nothing can be used, or closed, any more.
            self._publisher = Publisher(self._url, deadline=self._deadline, timeout=self._timeout)
            self._loop = loop
        return self._publisher

    def subscribe_to_channel(self, channel: str, callback: Callback) -> Subscription:
        """Call back with each message on a Redis channel or glob pattern, decoded from JSON. Calling what this returns ends it.

        Callbacks run one message at a time, in order, each in a task of its own, so that a slow one holds up nobody. One that
        raises is logged and called again with the next message. It takes effect while `start_listening` runs, at any time.
        """
        return self._listener.add(channel, callback)

    async def start_listening(self) -> None:
        """Hear the subscribed channels until cancelled; reconnects for ever. Raises RuntimeError if it runs already."""
        await self._listener.run(redis_urls.parse(self._url or environment.redis_url()))

    async def close(self) -> None:
        """Close the connection for publishing. What is published later opens another."""
        publisher, self._publisher = self._publisher, None
        if publisher is not None and self._loop is asyncio.get_running_loop():
            await publisher.close()


#: Of this process, configured by the environment when it is first used.
redis_service = RedisService()
