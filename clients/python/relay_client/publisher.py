"""Publishing from threads.

with Publisher() as publisher:
    publisher.publish_task_update("task-123", {"status": "in_progress", "progress": 40})
"""

import logging
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from relay_wire.position import Position
from relay_wire.publications import Retention
from relay_wire.redis_urls import parse

from relay_client import environment
from relay_client.delivery.line import Bounds
from relay_client.delivery.threads import Courier
from relay_client.errors import NotDelivered
from relay_client.updates import Updates

_log = logging.getLogger("relay_client")


class Publisher:
    """Publishes updates, from any number of threads, over one connection. Making one does not connect.

    url:               of Redis, its Sentinels or its cluster; by default ``REDIS_URL``, ``REDIS_HOST``, ...
    deadline:          seconds for which an update is tried when Redis is away; 150 at most
    timeout:           seconds for one try
    max_waiting:       updates that may wait for Redis, of all threads
    max_waiting_bytes: and their bytes
    wait_replicas:     replicas that must have a durable update before it counts as published
    retention:         what is kept how long; by default what ``RELAY_HISTORY_SIZE`` and its like say

    Updates reach Redis in the order in which they were handed over, also when it was away meanwhile, and one that had to be
    sent twice is published once. What Redis has not acknowledged by the deadline (plus what is left of one try) raises
    `relay_client.NotDelivered`. What cannot be published at all raises ValueError or TypeError.

    ``publish_...`` waits for Redis; ``post_...`` does not: a thread sends it, and `flush` or `close` raises what was lost. At
    the interpreter's exit what was posted is flushed, and what is lost then is logged.

    A forked child may go on using it: it has an empty buffer and a connection of its own there.
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

    @property
    def waiting(self) -> int:
        """Updates that wait for Redis."""
        return self.courier.waiting

    def publish_task_update(
        self,
        task_id: str | int,
        update: Mapping[str, Any],
        *,
        durable: bool = True,
        idempotency_key: str | None = None,
    ) -> Position | None:
        """Publish the fields of a task that changed; returns the update's position in the task's channel.

        durable:         False sends a plain ``PUBLISH`` on ``task_updates``, which a relay records if it hears it: no position
        idempotency_key: two updates of a task with the same key within five minutes are one

        None is also what a Redis without memory for it gives: the update was then delivered live only.
        """
        return self._deliver(self.updates.task_update(task_id, update, durable=durable, key=idempotency_key))

    def publish_general_update(
        self, update: Mapping[str, Any], *, durable: bool = True, idempotency_key: str | None = None
    ) -> Position | None:
        """Publish something for every client; see `publish_task_update`. A plain one of which only the answer is missing is not
        sent again, and raises."""
        return self._deliver(self.updates.general_update(update, durable=durable, key=idempotency_key))

    def publish(
        self, channel: str, data: Mapping[str, Any], *, durable: bool = True, idempotency_key: str | None = None
    ) -> Position | None:
        """Publish on a channel by its name: ``task:<id>``, ``general``, or one that the relay's operator named
        (``RELAY_EXTRA_CHANNELS``), whose messages reach clients as they are. Otherwise as `publish_general_update`."""
        return self._deliver(self.updates.on(channel, data, durable=durable, key=idempotency_key))

    def _deliver(self, calls: list[Any]) -> Position | None:
        self.courier.deliver(calls)
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

    def flush(self) -> None:
        """Wait until all that was handed over is delivered or lost, at the latest at its deadline. Raises PostsNotDelivered
        when posted updates were lost since the last time."""
        self.courier.flush()

    def close(self) -> None:
        """`flush`, and close the connection. Raises what `flush` does. Publishing then raises PublisherClosed."""
        self.courier.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except NotDelivered as lost:
            if error is None:
                raise
            _log.error("while another error was raised: %s", lost)
