"""One run of a worker: takes tasks while it may, renews its claims, and ends without leaving anything behind.

Its tasks of asyncio: the run > {cancel requests, claim renewal, one per entry > its handler}. The run itself fetches entries.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from secrets import token_hex

from relay_client.aio.publisher import Publisher
from relay_client.cancellation.aio import CancelListener
from relay_client.errors import DeliveryRefused, NotDelivered

from relay_jobs import queue
from relay_jobs.attempt import HANDED_OVER, Attempt, Stop
from relay_jobs.execution import Executor
from relay_jobs.fetcher import Fetcher
from relay_jobs.handlers import Handler
from relay_jobs.settings import WorkerSettings

_log = logging.getLogger("relay_jobs.worker")

#: Seconds that handlers have to end when their tasks are handed over; and for notifying Redis.
_HANDOVER_SECONDS = 3.0


class WorkerRun:
    """Runs once."""

    def __init__(self, handlers: Mapping[str, Handler], settings: WorkerSettings) -> None:
        """Make a run, which does not connect yet.

        Args:
            handlers: The handler of each kind.
            settings: How the worker runs.

        Raises:
            ValueError: The settings, or the environment, cannot be right.
        """
        self._handlers = handlers
        self._settings = settings
        self._consumer = f"{settings.consumer}:{token_hex(4)}"
        # All claims are renewed at once, and all that is due is handed to workers at once.
        max_waiting = max(1000, 8 * settings.concurrency + 200 * len(handlers))
        self._publisher = Publisher(settings.redis_url, timeout=settings.timeout, max_waiting=max_waiting)
        self._cancel_listener = CancelListener(self._publisher.target, timeout=settings.timeout)
        self._group = asyncio.TaskGroup()
        self._executor = Executor(
            handlers, settings.consumer, self._consumer, self._publisher, self._cancel_listener, self._group
        )
        self._fetcher = Fetcher(tuple(handlers), self._consumer, self._publisher.sender, settings)
        self._busy: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()  # a place is free, or the run is to end
        self._is_draining = False

    def drain(self) -> None:
        """Take no more tasks, and end. From the event loop's thread."""
        self._is_draining = True
        self._changed.set()

    async def run(self) -> None:
        """Run until drained, or cancelled. Raises DeliveryRefused when this Redis cannot be used at all."""
        async with self._publisher, self._executor.reporter, self._cancel_listener:
            try:
                await self._open()
                async with self._group as group:
                    renewal = group.create_task(self._renew_claims())
                    try:
                        await self._take_tasks(group)
                        await self._end_tasks()
                    finally:
                        renewal.cancel()
            finally:
                await self._fetcher.close()

    async def _open(self) -> None:
        while not self._is_draining:
            try:
                await self._fetcher.open()
            except DeliveryRefused:
                raise
            except NotDelivered as error:
                _log.warning("waiting for Redis: %s", error)
            else:
                return

    # Taking

    async def _take_tasks(self, group: asyncio.TaskGroup) -> None:
        concurrency = self._settings.concurrency
        _log.info("%s takes tasks: %s; %d at once", self._consumer, ", ".join(self._handlers), concurrency)
        while not self._is_draining:
            free = concurrency - len(self._busy)
            if free <= 0:
                self._changed.clear()
                await self._changed.wait()
                continue
            for entry in await self._fetcher.next(free):
                executor = self._executor
                work = group.create_task(executor.release(entry) if self._is_draining else executor.execute(entry))
                self._busy.add(work)
                work.add_done_callback(self._note_done)

    def _note_done(self, work: asyncio.Task[None]) -> None:
        self._busy.discard(work)
        self._changed.set()

    # Ending

    async def _end_tasks(self) -> None:
        attempts = self._executor.attempts
        if self._busy:
            grace = self._settings.grace
            _log.info("draining: %d tasks have %g s", len(self._busy), grace)
            await asyncio.wait(self._busy, timeout=grace)
        self._executor.is_handing_over = True
        for attempt in list(attempts.values()):
            attempt.stop(Stop.HANDOVER)
        if self._busy:
            await asyncio.wait(self._busy, timeout=_HANDOVER_SECONDS)
        # What has not ended by now does not react to its cancellation, or Redis is away.
        remaining = [attempt for attempt in attempts.values() if not attempt.is_over]
        try:
            async with asyncio.timeout(_HANDOVER_SECONDS):
                for attempt in remaining:
                    await self._executor.finish(attempt, HANDED_OVER)
        except (TimeoutError, NotDelivered) as error:
            _log.warning("tasks are not handed over: %s", error or "Redis is away")
        unsettled = sum(not attempt.is_settled for attempt in attempts.values())
        if unsettled:
            _log.warning("%d tasks wait until their lease has run out", unsettled)
        for work in self._busy:
            work.cancel()

    # Renewing

    async def _renew_claims(self) -> None:
        while True:
            await asyncio.sleep(self._settings.heartbeat)
            if self._executor.attempts:
                try:
                    await self._renew(list(self._executor.attempts.values()))
                except NotDelivered as error:
                    _log.warning("claims are not renewed: %s", error)

    async def _renew(self, attempts: Sequence[Attempt]) -> None:
        """Renew the claims, and learn which tasks were cancelled or taken over."""
        calls = [queue.keep(attempt.entry, self._consumer, attempt.owner) for attempt in attempts]
        await self._executor.deliver(calls)
        for attempt, call in zip(attempts, calls, strict=True):
            kept = call.outcome()
            if kept == "cancelled":
                attempt.stop(Stop.CANCELLED)
            elif kept != "kept" and not attempt.is_over and not await self._executor.is_ours(attempt):
                _log.warning("task %s: another worker has it", attempt.task.id)
                attempt.stop(Stop.LOST)
