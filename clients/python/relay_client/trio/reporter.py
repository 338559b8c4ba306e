"""Reporting on tasks from Trio.

async with TaskReporter() as reporter:
    async with reporter("task-123", title="A picture") as task:
        task.progress(40, "Rendering", stage="image_started")
        async for line in task.atrack(lines):
            ...
"""

import math
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from time import monotonic
from types import TracebackType
from typing import Self

import trio

from relay_client.delivery.call import Call
from relay_client.reporting.over_a_loop import LoopReporter
from relay_client.reporting.task import Task
from relay_client.trio.publisher import Publisher


class TaskReporter(LoopReporter):
    """`relay_client.TaskReporter` for Trio: the same arguments and rules. Its block owns the task that sends.

    A `Task` may be handed to threads: reporting is a plain call everywhere. While the run is blocked nothing is sent, signs of
    life neither: a task that blocks it for longer than ``RELAY_TASK_STALL_SECONDS`` is shown as stalled.
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
        self._work = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._block: AbstractAsyncContextManager[None] | None = None

    @property
    def _is_open(self) -> bool:
        return self._token is not None

    async def _finish(self, calls: Sequence[Call]) -> None:
        courier = self.publisher.courier
        latest = trio.current_time() + max(call.within for call in calls)
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope(shield=True, deadline=latest + courier.timeout)
            nursery.start_soon(self._hurry_when_cancelled, scope)
            with scope:
                await courier.carry_out(calls)
            nursery.cancel_scope.cancel()

    async def _hurry_when_cancelled(self, scope: trio.CancelScope) -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            # Not raised on: this task is only here to notice. Who waits for `end` is cancelled at the next checkpoint.
            scope.deadline = min(scope.deadline, trio.current_time() + self._cancelled_within)

    def _note(self, task: Task) -> None:
        self._schedule.note(task)
        if threading.get_ident() == self._thread:
            self._work.set()
        elif self._token is not None:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._wake, idempotent=True)

    def _wake(self) -> None:
        self._work.set()

    async def _send(self) -> None:
        """Send what is due, until cancelled."""
        courier = self.publisher.courier
        while True:
            wait = self._schedule.wait(monotonic())
            with trio.move_on_after(math.inf if wait is None else wait):
                await self._work.wait()
            self._work = trio.Event()
            sending = self._schedule.put_due(monotonic(), courier.put)
            calls: list[Call] = [call for each in sending for call in each.calls]
            if calls:
                await courier.carry_out(calls)
                self._schedule.settle(sending)

    async def __aenter__(self) -> Self:
        self._block = self._open()
        await self._block.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._block is not None
        await self._block.__aexit__(kind, error, trace)

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        raised: Exception | None = None
        async with self.publisher if self._owns_publisher else nullcontext():
            self._token, self._thread = trio.lowlevel.current_trio_token(), threading.get_ident()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send)
                try:
                    yield
                except Exception as error:  # noqa: BLE001 - raised again below, outside of the nursery, which would wrap it
                    raised = error
                finally:
                    self._token = None
                    nursery.cancel_scope.cancel()
            if raised is not None:
                raise raised
