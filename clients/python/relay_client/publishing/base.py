"""The common part of all publishers: their arguments, and posting, which waits for nothing."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from relay_wire.creation import creation_options
from relay_wire.publications import Retention
from relay_wire.redis_urls import parse

from relay_client import environment
from relay_client.publishing.call import Call
from relay_client.publishing.queue import DeliveryLimits
from relay_client.updates import Updates


class BasePublisher(ABC):
    """A publisher of one runtime; see `relay_client.Publisher`."""

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
            max_waiting: Number of updates that may wait for Redis. Threads that hand over at the same instant may exceed it by
                one update each.
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

    @abstractmethod
    def _post(self, calls: Sequence[Call]) -> None:
        """Hand calls to the sender."""

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
            RuntimeError: A publisher for asyncio or Trio is not open, or belongs to another event loop.
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
