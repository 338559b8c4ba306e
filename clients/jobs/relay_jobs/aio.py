"""Handing tasks to workers, from asyncio.

async with TaskManager() as manager:
    task_id = await manager.create("commission", {"subreddit": "golf"}, title="A commission for r/golf")
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from relay_client.aio.publisher import Publisher
from relay_wire.creation import creation_options

from relay_jobs import operations
from relay_jobs.operations import Operation, T, TaskState


class TaskManager:
    """`relay_jobs.TaskManager` for the tasks of one event loop: the same arguments, errors and limits.

    Cancelling `create` may leave the task created, for workers to run half a minute later.
    """

    def __init__(self, publisher: Publisher | str | None = None, *, max_backlog: int = 10_000) -> None:
        """Make a manager; the arguments are those of `relay_jobs.TaskManager`."""
        if max_backlog < 1:
            raise ValueError(f"max_backlog must be at least 1, not {max_backlog!r}")
        self.publisher = publisher if isinstance(publisher, Publisher) else Publisher(publisher)
        self._owns_publisher = not isinstance(publisher, Publisher)
        self._max_backlog = max_backlog

    async def create(
        self,
        kind: str,
        params: Mapping[str, Any] | None = None,
        *,
        title: str | None = None,
        task_id: str | None = None,
        fields: Mapping[str, Any] | None = None,
        owner: str | Iterable[str] | None = None,
        parent_id: str | int | None = None,
    ) -> str:
        """Create a task and hand it to the workers; see `relay_jobs.TaskManager.create`."""
        updates = self.publisher.updates
        options = creation_options(owner, parent_id, task_id=task_id)
        return await self._run(
            operations.created(updates, self._max_backlog, kind, params or {}, title, task_id, fields or {}, options)
        )

    async def cancel(self, task_id: str) -> bool:
        """Cancel a task; see `relay_jobs.TaskManager.cancel`."""
        return await self._run(operations.cancelled(self.publisher.updates, task_id))

    async def retry(self, task_id: str) -> bool:
        """Run a task again that has failed or was cancelled, with the same parameters. It waits for a worker, as a new one.

        A worker keeps the parameters for as long as Redis keeps the state of an ended task, an hour by default.

        Returns:
            False if the task has not failed, waits or runs again already, or was not run by a worker.
        """
        return await self._run(operations.retried(self.publisher.updates, task_id))

    async def get(self, task_id: str) -> TaskState | None:
        """Return the state of a task; see `relay_jobs.TaskManager.get`."""
        return await self._run(operations.fetched(task_id))

    async def list(
        self, *, limit: int = 100, status: str | Collection[str] | None = None, kind: str | None = None
    ) -> "list[TaskState]":
        """List tasks; see `relay_jobs.TaskManager.list`."""
        return await self._run(operations.listed(limit, status, kind))

    async def wait(self, task_id: str, timeout: float) -> TaskState:
        """Wait until a task has ended; see `relay_jobs.TaskManager.wait`."""
        return await self._run(operations.ended(task_id, timeout))

    async def _run(self, operation: Operation[T]) -> T:
        while True:
            try:
                step = next(operation)
            except StopIteration as end:
                result: T = end.value
                return result
            if isinstance(step, float):
                await asyncio.sleep(step)
            else:
                await self.publisher.sender.deliver(step)

    async def close(self) -> None:
        """Close the publisher, where it is the manager's own."""
        if self._owns_publisher:
            await self.publisher.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
