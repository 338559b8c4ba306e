"""Reporting on tasks from asyncio.

async with TaskReporter() as reporter:
    async with reporter("task-123", title="A picture") as task:
        task.progress(40, "Rendering", stage="image_started")
        async for line in task.atrack(lines):
            ...
"""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from time import monotonic
from types import TracebackType
from typing import Any, Self

from relay_client import environment
from relay_client.aio.publisher import Publisher
from relay_client.delivery.aio import finish
from relay_client.delivery.call import Call
from relay_client.errors import NotDelivered
from relay_client.reporting.schedule import Schedule
from relay_client.reporting.task import Task, end_of

_log = logging.getLogger("relay_client")


class TaskReporter:
    """`relay_client.TaskReporter` for asyncio: the same arguments and rules. Its block owns the task that sends.

    A `Task` may be handed to threads: reporting is a plain call everywhere. While the event loop is blocked nothing is sent,
    signs of life neither: a task that blocks it for longer than ``RELAY_TASK_STALL_SECONDS`` is shown as stalled.
    """

    def __init__(
        self,
        publisher: Publisher | str | None = None,
        *,
        rate: float = 10.0,
        heartbeat: float | None = None,
        cancelled_within: float = 2.0,
    ) -> None:
        self.publisher = publisher if isinstance(publisher, Publisher) else Publisher(publisher)
        self._owns_publisher = not isinstance(publisher, Publisher)
        self._cancelled_within = cancelled_within
        heartbeat = environment.stall_seconds() / 3 if heartbeat is None else heartbeat
        self._schedule = Schedule(self.publisher.updates, rate, heartbeat)
        self._work = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._group = asyncio.TaskGroup()
        self._sender: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def __call__(
        self, task_id: str | int | None = None, /, *, announce: bool = True, **info: Any
    ) -> AsyncIterator[Task]:
        """A task for the time of the block; see `relay_client.TaskReporter`.

        A block that is cancelled makes it ``cancelled``: that is told within ``cancelled_within`` seconds, and then the
        cancellation goes on. So it is with one that is cancelled while its end is told.
        """
        task = Task(task_id, info, self._note)
        try:
            await self._start(task, announce=announce)
        except Exception:
            raise
        except BaseException as error:
            task.put_all_back()  # it may have begun, or not
            await self._end_with(task, error)
            raise
        try:
            yield task
        except BaseException as error:
            await self._end_with(task, error)
            raise
        await self.end(task, *end_of(None))
        if task.failure is not None:
            raise task.failure

    async def _end_with(self, task: Task, error: BaseException) -> None:
        within = None if isinstance(error, Exception) else self._cancelled_within
        try:
            await self.end(task, *end_of(error), within=within)
        except NotDelivered as lost:
            _log.error("task %s: its end was not told: %s", task.id, lost)
            error.add_note(f"Relay was not told of it: {lost}")

    async def begin(self, task_id: str | int | None, info: Mapping[str, Any], *, announce: bool = True) -> Task:
        """Begin a task that `end` is to end: for programs in which a block does not fit. Otherwise as calling the reporter."""
        task = Task(task_id, info, self._note)
        await self._start(task, announce=announce)
        return task

    async def _start(self, task: Task, *, announce: bool) -> None:
        if self._loop is None:
            raise RuntimeError("this reporter is not open: use `async with TaskReporter() as reporter`")
        calls = task.begin(self.publisher.updates, announce=announce)
        await self.publisher.courier.deliver(calls)
        for call in calls:
            call.outcome()
        self._schedule.add(task)
        self._work.set()

    async def end(self, task: Task, status: str, fields: Mapping[str, Any], *, within: float | None = None) -> None:
        """End a task, or hand it back (a status that is not terminal), with last fields. within: seconds, where these are not
        the publisher's. Raises NotDelivered; and RuntimeError when it has ended already. Cancelled, it takes
        ``cancelled_within`` seconds more at most."""
        self._schedule.remove(task)
        courier = self.publisher.courier
        calls = task.end(self.publisher.updates, lambda calls: courier.put(calls, within), status, fields)
        await finish(courier.carry_out(calls), self._cancelled_within)
        calls[-1].outcome()

    def abandon(self, task: Task) -> None:
        """Send nothing more of a task: it is another's now."""
        self._schedule.remove(task)
        task.abandon()

    def _note(self, task: Task) -> None:
        self._schedule.note(task)
        if threading.get_ident() == self._thread:
            self._work.set()
        elif self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._work.set)

    async def _send(self) -> None:
        """Send what is due, until cancelled."""
        courier = self.publisher.courier
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._schedule.wait(monotonic())):
                    await self._work.wait()
            self._work.clear()
            sending = self._schedule.put_due(monotonic(), courier.put)
            calls: list[Call] = [call for each in sending for call in each.calls]
            if calls:
                await courier.carry_out(calls)
                self._schedule.settle(sending)

    async def __aenter__(self) -> Self:
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        if self._owns_publisher:
            await self.publisher.__aenter__()
        await self._group.__aenter__()
        self._sender = self._group.create_task(self._send())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._sender is not None
        self._loop = None
        self._sender.cancel()
        try:
            # Not the error: it is raised as it is, and not in a group.
            await self._group.__aexit__(None, None, None)
        finally:
            if self._owns_publisher:
                await self.publisher.__aexit__(kind, error, trace)
