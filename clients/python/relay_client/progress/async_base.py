"""The common part of the reporters for asyncio and Trio: all of it but the classes of their publisher and listener."""

import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from time import monotonic
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from relay_wire.creation import CreationOptions, creation_options
from relay_wire.redis_urls import RedisTarget

from relay_client import environment
from relay_client.cancellation.watches import Watch
from relay_client.errors import BufferFull, NotDelivered
from relay_client.progress.block import BUFFER_FULL_PAUSE, checked_on_error, report_failure, report_lost_end
from relay_client.progress.current import as_current
from relay_client.progress.outcome import terminal_fields
from relay_client.progress.schedule import Schedule
from relay_client.progress.task import Task
from relay_client.publishing.async_base import AsyncPublisher

_log = logging.getLogger("relay_client")

P = TypeVar("P", bound=AsyncPublisher)


class CancelListener(Protocol):
    """Receives requests to cancel tasks, see `relay_client.cancellation`."""

    def __init__(self, target: RedisTarget) -> None:
        """Make a listener, which does not connect yet."""

    def watch(self, task_id: str | int, on_cancel: Callable[[str], object] | None = None) -> Watch:
        """Watch a task that runs."""

    def scope(
        self, task_id: str | int, on_cancel: Callable[[str], object] | None = None
    ) -> AbstractAsyncContextManager[Watch]:
        """Cancel the block when the task's cancellation is requested."""

    async def __aenter__(self) -> object:
        """Begin to receive."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Receive no more."""


class AsyncTaskReporter(Generic[P]):
    """A reporter on an event loop; see `relay_client.TaskReporter` for the rules.

    Use it as ``async with``. A `Task` may be handed to threads: reporting is a plain call everywhere. While the event loop is
    blocked nothing is sent, and no heartbeats: a task that blocks it for longer than ``RELAY_TASK_STALL_SECONDS`` is shown as
    stalled.
    """

    _publisher_class: type[P]
    _listener_class: type[CancelListener]

    def __init__(
        self,
        publisher: P | str | None = None,
        *,
        rate: float = 10.0,
        heartbeat: float | None = None,
        on_error: str | None = None,
        cancel_timeout: float = 2.0,
        end_timeout: float = 120.0,
        cancellable: bool = False,
    ) -> None:
        """Make a reporter; the arguments are those of `relay_client.TaskReporter`."""
        self._owns_publisher = publisher is None or isinstance(publisher, str)
        #: By which it reports.
        self.publisher = (
            self._publisher_class(publisher) if publisher is None or isinstance(publisher, str) else publisher
        )
        self._on_error = checked_on_error(on_error)
        self._cancel_timeout = cancel_timeout
        self._end_timeout = end_timeout
        self._cancel_listener = self._listener_class(self.publisher.target) if cancellable else None
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

        With ``cancellable=True`` a watcher's request cancels the block, in the way of its runtime, and the block raises
        TaskCancelled.
        """
        task = self._new_task(task_id, info, creation_options(owner, parent_id))
        listener = self._cancel_listener
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
            async with nullcontext() if listener is None else listener.scope(task.id, task.request_cancel):
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
                await self._end_with_retries(task, error)
        except NotDelivered as lost:
            report_lost_end(task, error, lost)
        report_failure(task, error)

    async def _end_with_retries(self, task: Task, error: BaseException | None) -> None:
        deadline = monotonic() + self._end_timeout
        while True:
            try:
                await self.end(task, *terminal_fields(error), timeout=deadline - monotonic())
            except BufferFull:
                if monotonic() + BUFFER_FULL_PAUSE >= deadline:
                    raise
                await self.publisher.sender.runtime.sleep(BUFFER_FULL_PAUSE)
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
        task = self._new_task(task_id, info, creation_options(owner, parent_id))
        await self._start(task, announce=announce)
        if self._cancel_listener is not None:
            task.call_at_end(self._cancel_listener.watch(task.id, task.request_cancel).close)
        return task

    def _new_task(self, task_id: str | int | None, info: Mapping[str, Any], options: CreationOptions) -> Task:
        if self._cancel_listener is not None:
            info = {**info, "cancellable": True}
        return Task(task_id, info, self._note, on_error=self._on_error, options=options)

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
        task.note_trace()
        calls = task.end(self.publisher.updates, lambda calls: sender.put(calls, timeout), status, fields)
        limit = max(call.timeout for call in calls) + sender.limits.timeout
        await sender.runtime.finish(lambda: sender.process(calls), grace=self._cancel_timeout, limit=limit)
        calls[-1].outcome()

    def abandon(self, task: Task) -> None:
        """Send nothing more of a task: it belongs to another worker now."""
        self._schedule.remove(task)
        task.abandon()

    def _note(self, task: Task) -> None:
        if self._schedule.note(task) and self._is_open:
            self.publisher.sender.wake()

    async def __aenter__(self) -> Self:
        if self._owns_publisher:
            await self.publisher.__aenter__()
        elif not self.publisher.is_open:
            raise RuntimeError("the reporter's publisher is not open: use `async with` for it, too")
        try:
            if self._cancel_listener is not None:
                await self._cancel_listener.__aenter__()
        except BaseException:
            if self._owns_publisher:
                await self.publisher.__aexit__(*sys.exc_info())
            raise
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
        try:
            if self._cancel_listener is not None:
                await self._cancel_listener.__aexit__(None, None, None)
        finally:
            if self._owns_publisher:
                await self.publisher.__aexit__(kind, error, trace)
