"""The common part of the reporters for asyncio and Trio: all of it but the class of their publisher."""

import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from time import monotonic
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from relay_wire.creation import creation_options

from relay_client import environment
from relay_client.errors import BufferFull, NotDelivered
from relay_client.progress.block import FULL_PAUSE, checked_on_error, report_failure, report_lost_end
from relay_client.progress.current import as_current
from relay_client.progress.outcome import terminal_fields
from relay_client.progress.schedule import Schedule
from relay_client.progress.task import Task
from relay_client.publishing.async_base import AsyncPublisher

_log = logging.getLogger("relay_client")

P = TypeVar("P", bound=AsyncPublisher)


class AsyncTaskReporter(Generic[P]):
    """A reporter on an event loop; see `relay_client.TaskReporter` for the rules.

    Use it as ``async with``. A `Task` may be handed to threads: reporting is a plain call everywhere. While the event loop is
    blocked nothing is sent, and no heartbeats: a task that blocks it for longer than ``RELAY_TASK_STALL_SECONDS`` is shown as
    stalled.
    """

    def __init__(
        self,
        publisher: P | None,
        own_publisher: P | None,
        rate: float,
        heartbeat: float | None,
        on_error: str | None,
        cancel_timeout: float,
        end_timeout: float,
    ) -> None:
        either = publisher or own_publisher
        assert either is not None
        #: By which it reports.
        self.publisher: P = either
        self._owns_publisher = publisher is None
        self._on_error = checked_on_error(on_error)
        self._cancel_timeout = cancel_timeout
        self._end_timeout = end_timeout
        heartbeat = environment.stall_seconds() / 3 if heartbeat is None else heartbeat
        self._schedule = Schedule(self.publisher.updates, rate, heartbeat)
        self._is_open = False

    @asynccontextmanager
    async def __call__(
        self,
        task_id: str | int | None = None,
        /,
        *,
        announce: bool = True,
        owner: str | Iterable[str] | None = None,
        parent_id: str | int | None = None,
        **info: Any,
    ) -> AsyncIterator[Task]:
        """Open a block that is a task; arguments and errors as for `relay_client.TaskReporter`.

        A block that is cancelled makes the task ``cancelled``: that is sent within ``cancel_timeout`` seconds, and then the
        cancellation goes on. The same holds for one that is cancelled while its beginning or its end is sent.
        """
        options = creation_options(owner, parent_id)
        task = Task(task_id, info, self._note, on_error=self._on_error, options=options)
        try:
            await self._start(task, announce=announce)
        except NotDelivered as error:
            if task.raises:
                raise
            _log.warning("task %s: its beginning is not delivered yet, and tried again: %s", task.id, error)
            task.requeue_beginning()
            self._add(task)
        except Exception:
            raise
        except BaseException as error:
            task.requeue_beginning()  # it may have begun, or not
            await self._end_block(task, error)
            raise
        try:
            with as_current(task):
                yield task
        except BaseException as error:
            await self._end_block(task, error)
            raise
        await self._end_block(task, None)

    async def _end_block(self, task: Task, error: BaseException | None) -> None:
        try:
            if error is not None and not isinstance(error, Exception):
                await self.end(task, *terminal_fields(error), timeout=self._cancel_timeout)
            elif task.raises:
                await self.end(task, *terminal_fields(error))
            else:
                await self._end_patiently(task, error)
        except NotDelivered as lost:
            report_lost_end(task, error, lost)
        report_failure(task, error)

    async def _end_patiently(self, task: Task, error: BaseException | None) -> None:
        deadline = monotonic() + self._end_timeout
        while True:
            try:
                await self.end(task, *terminal_fields(error), timeout=deadline - monotonic())
            except BufferFull:
                if monotonic() + FULL_PAUSE >= deadline:
                    raise
                await self.publisher.sender.runtime.sleep(FULL_PAUSE)
            else:
                return

    async def begin(
        self,
        task_id: str | int | None,
        info: Mapping[str, Any],
        *,
        announce: bool = True,
        owner: str | Iterable[str] | None = None,
        parent_id: str | int | None = None,
    ) -> Task:
        """Begin a task that `end` is to end, for programs in which a block does not fit.

        As calling the reporter, but that it raises NotDelivered in any case.
        """
        options = creation_options(owner, parent_id)
        task = Task(task_id, info, self._note, on_error=self._on_error, options=options)
        await self._start(task, announce=announce)
        return task

    async def _start(self, task: Task, *, announce: bool) -> None:
        if not self._is_open:
            raise RuntimeError("this reporter is not open: use `async with TaskReporter() as reporter`")
        calls = task.begin(self.publisher.updates, announce=announce)
        await self.publisher.sender.deliver(calls)
        for call in calls:
            call.outcome()
        self._add(task)

    def _add(self, task: Task) -> None:
        self._schedule.add(task)
        self.publisher.sender.wake()

    async def end(self, task: Task, status: str, fields: Mapping[str, Any], *, timeout: float | None = None) -> None:
        """End a task, or hand it back with a status that is not terminal. Cancelled, it takes ``cancel_timeout`` seconds more.

        Args:
            task: The task.
            status: Its last status.
            fields: Its last fields.
            timeout: Seconds until the deadline, where it is not the publisher's.

        Raises:
            NotDelivered: Redis did not take it.
            RuntimeError: The task has ended before.
        """
        self._schedule.remove(task)
        sender = self.publisher.sender
        calls = task.end(self.publisher.updates, lambda calls: sender.put(calls, timeout), status, fields)
        limit = max(call.timeout for call in calls) + sender.limits.timeout
        await sender.runtime.finish(lambda: sender.process(calls), grace=self._cancel_timeout, limit=limit)
        calls[-1].outcome()

    def abandon(self, task: Task) -> None:
        """Send nothing more of a task: it belongs to another worker now."""
        self._schedule.remove(task)
        task.abandon()

    def _note(self, task: Task) -> None:
        self._schedule.note(task)
        if self._is_open:
            self.publisher.sender.wake()

    async def __aenter__(self) -> Self:
        if self._owns_publisher:
            await self.publisher.__aenter__()
        elif not self.publisher.is_open:
            raise RuntimeError("the reporter's publisher is not open: use `async with` for it, too")
        self.publisher.sender.add_source(self._schedule)
        self._is_open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_open = False
        self.publisher.sender.remove_source(self._schedule)
        # Of tasks that have not ended: the block is left without waiting for Redis.
        self.publisher.sender.abandon(self._schedule.calls_in_flight())
        if self._owns_publisher:
            await self.publisher.__aexit__(kind, error, trace)
