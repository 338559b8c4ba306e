"""Publishing from Trio.

async with Publisher() as publisher:
    await publisher.publish_task_update("task-123", {"status": "in_progress", "progress": 40})
"""

import logging
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, Self

import trio
import trio_asyncio
from relay_wire.position import Position
from relay_wire.publications import Retention
from relay_wire.redis_urls import parse

from relay_client import environment
from relay_client.delivery.line import Bounds
from relay_client.delivery.over_trio import Courier
from relay_client.errors import NotDelivered
from relay_client.updates import Updates

_log = logging.getLogger("relay_client")


class Publisher:
    """`relay_client.Publisher` for Trio: the same arguments, order, deadlines and errors, for the tasks of one run.

    Use it as ``async with``: the block owns the connection and the task that sends what was posted. Leaving it is `close`, and
    a block that is cancelled gives what was posted ``timeout`` seconds. What the block raises comes out as it is, not in a
    group.

    Cancelling a ``publish_...`` takes the update back, unless it is on its way just then: it may arrive in that case, and never
    twice. After a fork the child needs a publisher, and a Trio run, of its own.
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
        self._target = parse(url or environment.redis_url())
        self._bounds = Bounds(deadline, timeout, max_waiting, max_waiting_bytes, wait_replicas)
        #: Makes the calls: for the other parts of this package.
        self.updates = Updates.from_environment(retention, sharded=self._target.is_sharded)
        self._courier: Courier | None = None
        self._block: AbstractAsyncContextManager[None] | None = None

    @property
    def courier(self) -> Courier:
        """Carries the calls out. Raises RuntimeError outside of the block."""
        if self._courier is None:
            raise RuntimeError("this publisher is not open: use `async with Publisher() as publisher`")
        return self._courier

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
        self.courier.post(self.updates.task_update(task_id, update, durable=durable))

    def post_general_update(self, update: Mapping[str, Any], *, durable: bool = True) -> None:
        """The same without waiting. Raises BufferFull at once."""
        self.courier.post(self.updates.general_update(update, durable=durable))

    def post(self, channel: str, data: Mapping[str, Any], *, durable: bool = True) -> None:
        """The same without waiting. Raises BufferFull at once."""
        self.courier.post(self.updates.on(channel, data, durable=durable))

    async def flush(self) -> None:
        """Wait until all that was handed over is delivered or lost, at the latest at its deadline. Raises PostsNotDelivered
        when posted updates were lost since the last time."""
        await self.courier.flush()

    async def close(self) -> None:
        """`flush`, and close the connection. Raises what `flush` does. Publishing then raises PublisherClosed."""
        await self.courier.close()

    async def __aenter__(self) -> Self:
        self._block = self._open()
        await self._block.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._block is not None
        await self._block.__aexit__(kind, error, trace)

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        raised: Exception | None = None
        async with trio_asyncio.open_loop() as loop, trio.open_nursery() as nursery:
            self._courier = Courier(self._target, self._bounds, self.updates.retention.history_meta_ttl * 1000, loop)
            nursery.start_soon(self._courier.carry_out_posted)
            try:
                yield
                await self._courier.close()
            except Exception as error:  # noqa: BLE001 - raised again below, outside of the nursery, which would wrap it
                raised = error
                await self._close_while_raising()
            except BaseException:
                # Half of it for what was posted, half for closing.
                with trio.move_on_after(2 * self._bounds.timeout, shield=True):
                    await self._close_while_raising(self._bounds.timeout)
                raise
            finally:
                nursery.cancel_scope.cancel()
        if raised is not None:
            raise raised

    async def _close_while_raising(self, within: float = math.inf) -> None:
        try:
            await self.courier.close(within)
        except NotDelivered as lost:
            _log.error("while another error was raised: %s", lost)
