"""Publishing from asyncio.

async with Publisher() as publisher:
    await publisher.publish_task_update("task-123", {"status": "in_progress", "progress": 40})
"""

import asyncio
import logging
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from relay_wire.position import Position
from relay_wire.publications import Retention
from relay_wire.redis_urls import parse

from relay_client import environment
from relay_client.delivery.aio import Courier
from relay_client.delivery.line import Bounds
from relay_client.errors import NotDelivered
from relay_client.updates import Updates

_log = logging.getLogger("relay_client")


class Publisher:
    """`relay_client.Publisher` for asyncio: the same arguments, order, deadlines and errors, for the tasks of one event loop.

    ``publish_...`` works from the beginning, and whoever waits for it carries it out. ``post_...`` needs ``async with``, whose
    block owns the task that sends what was posted; leaving the block is `close`, and a block that is cancelled gives what was
    posted ``timeout`` seconds. What the block raises comes out as it is, not in a group.

    Cancelling a ``publish_...`` takes the update back, unless it is on its way just then: it may arrive in that case, and never
    twice. After a fork the child needs a publisher, and an event loop, of its own.
    """

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
        target = parse(url or environment.redis_url())
        bounds = Bounds(deadline, timeout, max_waiting, max_waiting_bytes, wait_replicas)
        #: Makes the calls, and carries them out: for the other parts of this package.
        self.updates = Updates.from_environment(retention, sharded=target.is_sharded)
        self.courier = Courier(target, bounds, self.updates.retention.history_meta_ttl * 1000)
        self._group: asyncio.TaskGroup | None = None
        self._sender: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Updates that wait for Redis."""
        return self.courier.waiting

    async def publish_task_update(
        self,
        task_id: str | int,
        update: Mapping[str, Any],
        *,
        durable: bool = True,
        idempotency_key: str | None = None,
    ) -> Position | None:
        """Publish the fields of a task that changed; see `relay_client.Publisher.publish_task_update`."""
        return await self._deliver(self.updates.task_update(task_id, update, durable=durable, key=idempotency_key))

    async def publish_general_update(
        self, update: Mapping[str, Any], *, durable: bool = True, idempotency_key: str | None = None
    ) -> Position | None:
        """Publish something for every client; see `relay_client.Publisher.publish_general_update`."""
        return await self._deliver(self.updates.general_update(update, durable=durable, key=idempotency_key))

    async def publish(
        self, channel: str, data: Mapping[str, Any], *, durable: bool = True, idempotency_key: str | None = None
    ) -> Position | None:
        """Publish on a channel by its name; see `relay_client.Publisher.publish`."""
        return await self._deliver(self.updates.on(channel, data, durable=durable, key=idempotency_key))

    async def _deliver(self, calls: list[Any]) -> Position | None:
        await self.courier.deliver(calls)
        outcome = calls[-1].outcome()
        return outcome if isinstance(outcome, Position) else None

    def post_task_update(self, task_id: str | int, update: Mapping[str, Any], *, durable: bool = True) -> None:
        """The same without waiting. Raises BufferFull at once."""
        self._post(self.updates.task_update(task_id, update, durable=durable))

    def post_general_update(self, update: Mapping[str, Any], *, durable: bool = True) -> None:
        """The same without waiting. Raises BufferFull at once."""
        self._post(self.updates.general_update(update, durable=durable))

    def post(self, channel: str, data: Mapping[str, Any], *, durable: bool = True) -> None:
        """The same without waiting. Raises BufferFull at once."""
        self._post(self.updates.on(channel, data, durable=durable))

    def _post(self, calls: list[Any]) -> None:
        if self._group is None:
            raise RuntimeError("posting needs an open publisher: use `async with Publisher() as publisher`")
        self.courier.post(calls)

    async def flush(self) -> None:
        """Wait until all that was handed over is delivered or lost, at the latest at its deadline. Raises PostsNotDelivered
        when posted updates were lost since the last time."""
        await self.courier.flush()

    async def close(self) -> None:
        """`flush`, and close the connection. Raises what `flush` does. Publishing then raises PublisherClosed."""
        await self.courier.close()

    async def __aenter__(self) -> Self:
        self._group = asyncio.TaskGroup()
        await self._group.__aenter__()
        self._sender = self._group.create_task(self.courier.carry_out_posted())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._group is not None
        assert self._sender is not None
        group, self._group = self._group, None
        try:
            is_cancelled = kind is not None and issubclass(kind, asyncio.CancelledError)
            await self.courier.close(within=self.courier.timeout if is_cancelled else None)
        except NotDelivered as lost:
            if error is None:
                raise
            _log.error("while another error was raised: %s", lost)
        finally:
            self._sender.cancel()
            # Not the error: it is raised as it is, and not in a group.
            await group.__aexit__(None, None, None)
