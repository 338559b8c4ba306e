"""Reporting on tasks from asyncio.

async with TaskReporter() as reporter:
    async with reporter("task-123", title="A picture") as task:
        task.progress(40, "Rendering", stage="image_started")
        async for line in task.atrack(lines):
            ...
"""

import asyncio
import threading
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic
from types import TracebackType
from typing import Self

from relay_client.aio.publisher import Publisher
from relay_client.delivery.aio import finish
from relay_client.delivery.call import Call
from relay_client.reporting.over_a_loop import LoopReporter
from relay_client.reporting.task import Task


class TaskReporter(LoopReporter):
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
        owns_publisher = not isinstance(publisher, Publisher)
        super().__init__(self.publisher, rate, heartbeat, cancelled_within, owns_publisher=owns_publisher)
        self._work = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._group = asyncio.TaskGroup()
        self._sender: asyncio.Task[None] | None = None

    @property
    def _is_open(self) -> bool:
        return self._loop is not None

    async def _finish(self, calls: Sequence[Call]) -> None:
        await finish(self.publisher.courier.carry_out(calls), self._cancelled_within)

    def _wake(self) -> None:
        self._work.set()

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
