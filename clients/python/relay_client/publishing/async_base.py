"""The common part of the publishers for asyncio and Trio: all of it but the block that owns the background task."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from relay_wire.creation import creation_options
from relay_wire.position import Position

from relay_client.publishing.base import BasePublisher
from relay_client.publishing.call import Call
from relay_client.publishing.connection import AsyncioConnection
from relay_client.publishing.queue import DeliveryQueue
from relay_client.publishing.runtime import Runtime
from relay_client.publishing.sender import Sender
from relay_client.updates import position_of


class AsyncPublisher(BasePublisher):
    """Publishes updates from the tasks of one event loop; see `relay_client.Publisher` for order, deadlines and errors."""

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
