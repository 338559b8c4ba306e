"""What the reporters for asyncio and Trio have in common: how a task begins and ends, and what a cancellation makes of it."""

import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

from relay_client import environment
from relay_client.delivery.call import Call
from relay_client.errors import NotDelivered
from relay_client.reporting.schedule import Schedule
from relay_client.reporting.task import Task, end_of
from relay_client.updates import Updates

_log = logging.getLogger("relay_client")


class _Courier(Protocol):
    def put(self, calls: Sequence[Call], within: float | None = None) -> None: ...

    async def deliver(self, calls: Sequence[Call], within: float | None = None) -> None: ...


class _Publisher(Protocol):
    updates: Updates

    @property
    def courier(self) -> _Courier: ...


class LoopReporter(ABC):
    """A reporter on an event loop; see `relay_client.TaskReporter` for the arguments and rules."""

    def __init__(
        self,
        publisher: _Publisher,
        rate: float,
        heartbeat: float | None,
        cancelled_within: float,
        *,
        owns_publisher: bool,
    ) -> None:
        self._publisher = publisher
        self._owns_publisher = owns_publisher
        self._cancelled_within = cancelled_within
        heartbeat = environment.stall_seconds() / 3 if heartbeat is None else heartbeat
        self._schedule = Schedule(publisher.updates, rate, heartbeat)
        self._thread = 0

    @asynccontextmanager
    async def __call__(
        self, task_id: str | int | None = None, /, *, announce: bool = True, **info: Any
    ) -> AsyncIterator[Task]:
        """A task for the time of the block; see `relay_client.TaskReporter`.

        A block that is cancelled makes it ``cancelled``: that is told within ``cancelled_within`` seconds, and then the
        cancellation goes on. So it is with one that is cancelled while its beginning or its end is told.
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
        if not self._is_open:
            raise RuntimeError("this reporter is not open: use `async with TaskReporter() as reporter`")
        calls = task.begin(self._publisher.updates, announce=announce)
        await self._publisher.courier.deliver(calls)
        for call in calls:
            call.outcome()
        self._schedule.add(task)
        self._wake()

    async def end(self, task: Task, status: str, fields: Mapping[str, Any], *, within: float | None = None) -> None:
        """End a task, or hand it back (a status that is not terminal), with last fields. within: seconds, where these are not
        the publisher's. Raises NotDelivered; and RuntimeError when it has ended already. Cancelled, it takes
        ``cancelled_within`` seconds more at most."""
        self._schedule.remove(task)
        courier = self._publisher.courier
        calls = task.end(self._publisher.updates, lambda calls: courier.put(calls, within), status, fields)
        await self._finish(calls)
        calls[-1].outcome()

    def abandon(self, task: Task) -> None:
        """Send nothing more of a task: it is another's now."""
        self._schedule.remove(task)
        task.abandon()

    @property
    @abstractmethod
    def _is_open(self) -> bool:
        """Within its block."""

    @abstractmethod
    def _wake(self) -> None:
        """Have the sending task look what is due."""

    @abstractmethod
    def _note(self, task: Task) -> None:
        """A task has something to send. From any thread."""

    @abstractmethod
    async def _finish(self, calls: Sequence[Call]) -> None:
        """Carry calls that are in line out; cancelled, within ``cancelled_within`` seconds more."""
