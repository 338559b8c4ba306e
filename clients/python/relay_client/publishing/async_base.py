"""The common part of the publishers for asyncio and Trio: all of it but the block that owns the background task."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from relay_wire.creation import creation_options
from relay_wire.position import Position
from relay_wire.publications import Retention
from relay_wire.redis_urls import parse

from relay_client import environment
from relay_client.publishing.call import Call
from relay_client.publishing.connection import AsyncioConnection
from relay_client.publishing.queue import DeliveryLimits, DeliveryQueue
from relay_client.publishing.runtime import Runtime
from relay_client.publishing.sender import Sender
from relay_client.updates import Updates, position_of


class AsyncPublisher(ABC):
    """Publishes updates from the tasks of one event loop; see `relay_client.Publisher` for order, deadlines and errors."""

    def __init__(
        self,
        url: str | None = None,
        *,
        deadline: float = 15.0,
        timeout: float = 2.0,
        max_waiting: int = 1000,
        max_waiting_bytes: int = 16 << 20,
        wait_replicas: int = 0,
        retention: Retention | None = None,
    ) -> None:
        """Make a publisher, which does not connect yet.

        Args:
            url: URL of Redis, its Sentinels or its cluster; by default ``REDIS_URL``, or ``REDIS_HOST``, ``REDIS_PORT``, ...
            deadline: Seconds for which an update is tried when Redis is away; at most 150.
            timeout: Seconds for one try, from connecting to the answer.
            max_waiting: Number of updates that may wait for Redis.
            max_waiting_bytes: Bytes of the updates that may wait.
            wait_replicas: Number of replicas that must have a durable update before it counts as published.
            retention: How much Redis keeps, and for how long; by default what ``RELAY_HISTORY_SIZE`` and its like say.

        Raises:
            ValueError: An argument, or the environment, cannot be right.
        """
        #: The Redis, for the other parts of this package.
        self.target = parse(url or environment.redis_url())
        self._limits = DeliveryLimits(deadline, timeout, max_waiting, max_waiting_bytes, wait_replicas)
        #: Makes the calls: for the other parts of this package.
        self.updates = Updates.from_environment(retention, sharded=self.target.is_sharded)
        self._set_up()

    @abstractmethod
    def _set_up(self) -> None:
        """Make what this runtime needs."""

    def _make_sender(self, runtime: Runtime) -> Sender:
        connection = AsyncioConnection(self.target, self._limits.timeout, "relay-client")
        queue = DeliveryQueue(self._limits, *((1,) if self.target.is_sharded else ()))
        return Sender(runtime, connection, queue, self.updates.retention.history_meta_ttl * 1000)

    @property
    @abstractmethod
    def sender(self) -> Sender:
        """The sender of this publisher's calls, for other parts of this package."""

    @property
    @abstractmethod
    def is_open(self) -> bool:
        """The background task runs."""

    @abstractmethod
    async def __aenter__(self) -> Self:
        """Start the background task."""

    @abstractmethod
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close, and end the background task."""

    @property
    def waiting(self) -> int:
        """Number of updates that wait for Redis."""
        return self.sender.waiting

    async def publish_task_update(
        self,
        task_id: str | int,
        update: Mapping[str, Any],
        *,
        durable: bool = True,
        idempotency_key: str | None = None,
        owner: str | Iterable[str] | None = None,
        parent_id: str | int | None = None,
    ) -> Position | None:
        """Publish the fields of a task that changed; arguments and errors as `relay_client.Publisher.publish_task_update`.

        Cancelling takes the update back, unless it is being sent just then: it may arrive in that case, and never twice.
        """
        options = creation_options(owner, parent_id)
        return await self._deliver(
            self.updates.task_update(task_id, update, durable=durable, key=idempotency_key, options=options)
        )

    async def publish_general_update(
        self,
        update: Mapping[str, Any],
        *,
        durable: bool = True,
        idempotency_key: str | None = None,
        owner: str | Iterable[str] | None = None,
        parent_id: str | int | None = None,
    ) -> Position | None:
        """Publish an update for every client; as `relay_client.Publisher.publish_general_update`."""
        options = creation_options(owner, parent_id)
        return await self._deliver(
            self.updates.general_update(update, durable=durable, key=idempotency_key, options=options)
        )

    async def publish(
        self, channel: str, data: Mapping[str, Any], *, durable: bool = True, idempotency_key: str | None = None
    ) -> Position | None:
        """Publish on a channel by its name; as `relay_client.Publisher.publish`."""
        return await self._deliver(self.updates.on(channel, data, durable=durable, key=idempotency_key))

    async def _deliver(self, calls: Sequence[Call]) -> Position | None:
        await self.sender.deliver(calls)
        return position_of(calls)

    def post_task_update(
        self,
        task_id: str | int,
        update: Mapping[str, Any],
        *,
        durable: bool = True,
        owner: str | Iterable[str] | None = None,
        parent_id: str | int | None = None,
    ) -> None:
        """Hand over a task's update without waiting for Redis.

        Raises:
            BufferFull: Too many updates wait.
            PublisherClosed: The publisher was closed.
            RuntimeError: The publisher is not open, or belongs to another event loop.
            ValueError, TypeError: It cannot be published.
        """
        options = creation_options(owner, parent_id)
        self._post(self.updates.task_update(task_id, update, durable=durable, options=options))

    def post_general_update(
        self,
        update: Mapping[str, Any],
        *,
        durable: bool = True,
        owner: str | Iterable[str] | None = None,
        parent_id: str | int | None = None,
    ) -> None:
        """Hand over an update for every client without waiting for Redis; raises as `post_task_update`."""
        options = creation_options(owner, parent_id)
        self._post(self.updates.general_update(update, durable=durable, options=options))

    def post(self, channel: str, data: Mapping[str, Any], *, durable: bool = True) -> None:
        """Hand over a message on a channel without waiting for Redis; raises as `post_task_update`."""
        self._post(self.updates.on(channel, data, durable=durable))

    def _post(self, calls: Sequence[Call]) -> None:
        if not self.is_open:
            raise RuntimeError("posting needs an open publisher: use `async with Publisher() as publisher`")
        self.sender.post(calls)

    async def flush(self) -> None:
        """Wait until all that was handed over is delivered or lost, at the latest at its deadline.

        Raises:
            BackgroundDeliveryError: Posted updates were lost since the last time.
        """
        await self.sender.flush()

    async def close(self) -> None:
        """Flush, and close the connection. Raises what `flush` does. Publishing raises PublisherClosed from then on."""
        await self.sender.close()
