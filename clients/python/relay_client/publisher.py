"""Publishing from threads.

with Publisher() as publisher:
    publisher.publish_task_update("task-123", {"status": "in_progress", "progress": 40})
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from relay_wire.creation import creation_options
from relay_wire.position import Position

from relay_client.errors import NotDelivered
from relay_client.publishing.base import BasePublisher
from relay_client.publishing.call import Call
from relay_client.publishing.threads import ThreadSender
from relay_client.updates import position_of

_log = logging.getLogger("relay_client")


class Publisher(BasePublisher):
    """Publishes updates, from any number of threads, over one connection. Making one does not connect.

    Updates reach Redis in the order in which they were handed over, also when Redis was away meanwhile, and one that had to be
    sent twice is published once. What Redis has not acknowledged by the deadline (plus what is left of one try) raises
    `relay_client.NotDelivered`. What cannot be published at all raises ValueError or TypeError.

    ``publish_...`` waits for Redis. ``post_...`` only hands the update over; `flush` and `close` raise what was lost.
    At the exit of the interpreter, and of a child process of ``multiprocessing``, what was posted is flushed, and what is lost
    then is logged. A process that ends by ``os._exit`` must call `flush` before.

    One thread of the publisher's own sends everything. Callers hold no lock: an exception of a signal handler (Ctrl-C, a time
    limit) may interrupt a call at any place, and takes the update back unless it is being sent just then; a signal handler or a
    finalizer may publish. A finalizer that happens to run in the publisher's own thread posts instead of waiting.

    A forked child may go on using it: it has an empty buffer and a connection of its own there.
    """

    def _set_up(self) -> None:
        #: Sends the calls: for the other parts of this package.
        self.sender = ThreadSender(self.target, self._limits, self.updates.retention.history_meta_ttl * 1000)

    @property
    def waiting(self) -> int:
        """Number of updates that wait for Redis."""
        return self.sender.waiting

    def publish_task_update(
        self,
        task_id: str | int,
        update: Mapping[str, Any],
        *,
        durable: bool = True,
        idempotency_key: str | None = None,
        owner: str | Iterable[str] | None = None,
        parent_id: str | int | None = None,
    ) -> Position | None:
        """Publish the fields of a task that changed.

        Args:
            task_id: Id of the task, 1 to 255 characters.
            update: Fields that changed, by name; values that JSON has a form for.
            durable: False sends a plain ``PUBLISH`` on ``task_updates``, which a relay records if it receives it.
            idempotency_key: Two updates of a task with the same key within five minutes are published once.
            owner: The ids of the users and groups that own the task, 16 at most, or one of them; an empty list for nobody.
                Without it the task keeps its owner, and a new one has none.
            parent_id: The id of the task's parent. A task keeps its parent for its whole life.

        Returns:
            The update's position in the task's channel. None for a plain one, and where Redis has no memory for it: it was
            then delivered live only.

        Raises:
            NotDelivered: Redis has not acknowledged it by the deadline, has refused it, or too many wait.
            ValueError, TypeError: It cannot be published.
        """
        options = creation_options(owner, parent_id)
        return self._deliver(
            self.updates.task_update(task_id, update, durable=durable, key=idempotency_key, options=options)
        )

    def publish_general_update(
        self,
        update: Mapping[str, Any],
        *,
        durable: bool = True,
        idempotency_key: str | None = None,
        owner: str | Iterable[str] | None = None,
        parent_id: str | int | None = None,
    ) -> Position | None:
        """Publish an update for every client.

        As `publish_task_update`. A plain one (``durable=False``) is not sent again when only its answer is missing: it raises.
        """
        options = creation_options(owner, parent_id)
        return self._deliver(self.updates.general_update(update, durable=durable, key=idempotency_key, options=options))

    def publish(
        self, channel: str, data: Mapping[str, Any], *, durable: bool = True, idempotency_key: str | None = None
    ) -> Position | None:
        """Publish on a channel by its name.

        Args:
            channel: ``task:<id>``, ``general``, or a channel that the relay's operator has named (``RELAY_EXTRA_CHANNELS``),
                whose messages reach clients as they are.
            data: Fields, by name.
            durable: As for `publish_general_update`.
            idempotency_key: As for `publish_task_update`.
        """
        return self._deliver(self.updates.on(channel, data, durable=durable, key=idempotency_key))

    def _deliver(self, calls: Sequence[Call]) -> Position | None:
        self.sender.deliver(calls)
        return position_of(calls)

    def _post(self, calls: Sequence[Call]) -> None:
        self.sender.post(calls)

    def flush(self) -> None:
        """Wait until all that was handed over is delivered or lost, at the latest at its deadline.

        Raises:
            BackgroundDeliveryError: Posted updates were lost since the last time.
        """
        self.sender.flush()

    def close(self) -> None:
        """Flush, and close the connection. Raises what `flush` does. Publishing raises PublisherClosed from then on."""
        self.sender.close()

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
