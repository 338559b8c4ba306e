"""The sender: works on a publisher's queue over its one connection. One asynchronous core for asyncio, Trio and threads.

On an event loop, the task that waits for its calls sends them, and all that is queued before them; a background task (`run`)
sends what was posted and what the sources have. A thread's sender (`relay_client.publishing.threads`) has that background task
only, and callers that hand over.
"""

import math
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Protocol

from relay_client.errors import BackgroundDeliveryError
from relay_client.publishing.call import Call
from relay_client.publishing.connection import Connection
from relay_client.publishing.exchange import Exchange
from relay_client.publishing.queue import DeliveryLimits, DeliveryQueue
from relay_client.publishing.runtime import Runtime
from relay_client.redis_errors import REDIS_FAILURES

Put = Callable[[list[Call]], None]


class Source(Protocol):
    """Something that has calls to send from time to time."""

    def collect(self, now: float, put: Put) -> float | None:
        """Look at the calls that were put before, and put what is due now.

        Returns:
            Seconds until something is due; None when nothing will be before the sender is woken or has sent something.
        """


class Sender:
    """Sends calls to Redis, in order, for any number of tasks of one event loop.

    Attributes:
        queue: The calls that wait.
        runtime: The primitives of the event loop.
    """

    def __init__(self, runtime: Runtime, connection: Connection, queue: DeliveryQueue, meta_ms: int) -> None:
        """Make a sender that is not connected.

        Args:
            runtime: The primitives of the event loop.
            connection: Of this sender alone.
            queue: Of this sender alone.
            meta_ms: How long Redis keeps the numbers of a channel, in milliseconds.
        """
        self.runtime = runtime
        self.queue = queue
        self._connection = connection
        self._meta_ms = meta_ms
        self._send_lock = runtime.lock()
        self._work = runtime.signal()
        self._sources: dict[int, Source] = {}

    @property
    def waiting(self) -> int:
        """Number of calls that wait."""
        return self.queue.waiting

    @property
    def limits(self) -> DeliveryLimits:
        """The limits of the queue."""
        return self.queue.limits

    def put(self, calls: Sequence[Call], timeout: float | None = None) -> None:
        """Queue calls for `process`; timeout: seconds until their deadline, where it is not the queue's.

        Raises:
            BufferFull: Too much waits.
            PublisherClosed: The sender was closed.
            RuntimeError: On another event loop.
        """
        self.runtime.check_owner()
        self.queue.put(calls, monotonic(), timeout)

    async def process(self, calls: Sequence[Call]) -> None:
        """Wait until queued calls are settled, at the latest at their deadline.

        Cancelling takes them out of the queue; one that is being sent just then may arrive.
        """
        latest = max(call.deadline for call in calls)
        try:
            async with self.runtime.move_on_after(latest - monotonic()) as scope:
                while not all(call.is_settled for call in calls):
                    async with self._send_lock:
                        await self._send_until(calls)
            if scope.has_expired:
                self.queue.expire(max(latest, monotonic()))
        finally:
            self.queue.abandon(calls)

    async def deliver(self, calls: Sequence[Call], timeout: float | None = None) -> None:
        """Queue calls, and wait until they are settled. Raises what `put` does; the calls have the outcome."""
        self.put(calls, timeout)
        await self.process(calls)

    def post(self, calls: Sequence[Call]) -> None:
        """Have `run` send calls. Raises what `put` does."""
        self.runtime.check_owner()
        self.queue.put(calls, monotonic(), posted=True)
        self.wake()

    def add_source(self, source: Source) -> None:
        """Have `run` send what a source has."""
        self._sources[id(source)] = source
        self.wake()

    def remove_source(self, source: Source) -> None:
        """Ask a source no more. What it has queued is still sent."""
        self._sources.pop(id(source), None)

    def abandon(self, calls: Sequence[Call]) -> None:
        """Take calls out of the queue, where nobody waits for them any more."""
        self.queue.abandon(calls)

    def wake(self) -> None:
        """Have `run` look what is due. From any thread."""
        self._work.set()

    async def run(self) -> None:
        """Send what is posted, and what the sources have, until cancelled."""
        while True:
            await self.step(None)

    async def step(self, idle: float | None) -> bool:
        """Send one batch, or wait for work.

        Args:
            idle: Seconds to wait for work; None: without an end.

        Returns:
            Whether there was, or may be, something to do.
        """
        now = monotonic()
        due = self._ask_sources(now)
        if not self.queue.waiting:
            return await self._work.wait(_earlier(due, idle)) or due is not None
        pause = self.queue.pause(now)
        if pause:
            await self._work.wait(_earlier(due, pause))
            return True
        async with self._send_lock:
            await self._send_batch()
        return True

    def collect(self) -> None:
        """Queue what the sources have that is due."""
        self._ask_sources(monotonic())

    def _ask_sources(self, now: float) -> float | None:
        due: float | None = None
        for source in tuple(self._sources.values()):
            due = _earlier(due, source.collect(now, lambda calls: self.queue.put(calls, now)))
        return due

    async def flush(self) -> None:
        """Wait until all that is queued now is settled, at the latest at its deadline. Cancelling leaves it in the queue.

        Raises:
            BackgroundDeliveryError: Posted calls were lost since the last flush.
        """
        self.runtime.check_owner()
        calls = self.queue.unsettled()
        while not all(call.is_settled for call in calls):
            async with self._send_lock:
                await self._send_until(calls)
        lost, count = self.queue.take_lost()
        if count:
            raise BackgroundDeliveryError(lost, count)

    async def close(self, timeout: float = math.inf) -> None:
        """Take no more calls, flush, and close the connection. Closing twice is no error; cancelling closes all the same.

        Args:
            timeout: Seconds after which what still waits is given up.

        Raises:
            BackgroundDeliveryError: Posted calls were lost since the last flush.
        """
        self.queue.close()
        try:
            async with self.runtime.move_on_after(timeout) as scope:
                await self.flush()
            if scope.has_expired:
                self.queue.expire(math.inf)
                await self.flush()
        finally:
            limit = self.limits.timeout
            await self.runtime.finish(self.disconnect, grace=limit, limit=limit)

    async def disconnect(self) -> None:
        """Close the connection; the next call opens another."""
        await self.runtime.call(self._connection.close())

    async def _send_until(self, calls: Sequence[Call]) -> None:
        """With the turn: send from the head of the queue until these calls are settled, or nothing waits."""
        before = self.runtime.cancellation_count()
        while not all(call.is_settled for call in calls):
            pause = self.queue.pause(monotonic())
            if pause:
                await self.runtime.sleep(pause)
            elif not await self._send_batch():
                return
            self.runtime.raise_swallowed(before)

    async def _send_batch(self) -> bool:
        """With the turn: send what is first in the queue; False if nothing is."""
        batch = self.queue.take(monotonic())
        self.queue.log_lost()
        if not batch:
            return False
        exchange = Exchange(self.queue, batch, self._meta_ms)
        try:
            answers = await self.runtime.call(self._connection.exchange(exchange))
        except (*REDIS_FAILURES, Exception) as error:  # noqa: BLE001 - also redis-py's own: these calls fail, and no others
            self.queue.failed(batch, error, monotonic(), was_sent=self._connection.was_sent)
        except BaseException:
            self.queue.interrupted(batch, was_sent=self._connection.was_sent)
            raise
        else:
            self.queue.answered(batch, answers, monotonic())
        self.queue.log_lost()
        return True


def _earlier(first: float | None, second: float | None) -> float | None:
    if first is None or second is None:
        return second if first is None else first
    return min(first, second)
