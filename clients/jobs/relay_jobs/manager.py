"""Handing tasks to workers, from threads.

manager = TaskManager()
task_id = manager.create("commission", {"subreddit": "golf"}, title="A commission for r/golf")
"""

import time
from collections.abc import Collection, Mapping
from types import TracebackType
from typing import Any, Self

from relay_client.publisher import Publisher

from relay_jobs import operations
from relay_jobs.operations import Operation, T, TaskState


class TaskManager:
    """Creates tasks, cancels them, and tells how they are. Making one does not connect. For any number of threads.

    publisher:   by which it reaches Redis, or the URL of one; by default as `relay_client.Publisher` finds it
    max_backlog: tasks of one kind that may wait or run; more are refused

    All methods raise `relay_client.NotDelivered` when Redis does not answer by the publisher's deadline (15 s by default).
    """

    def __init__(self, publisher: Publisher | str | None = None, *, max_backlog: int = 10_000) -> None:
        if max_backlog < 1:
            raise ValueError(f"max_backlog must be at least 1, not {max_backlog!r}")
        self.publisher = publisher if isinstance(publisher, Publisher) else Publisher(publisher)
        self._owns_publisher = not isinstance(publisher, Publisher)
        self._max_backlog = max_backlog

    def create(
        self,
        kind: str,
        params: Mapping[str, Any] | None = None,
        *,
        title: str | None = None,
        task_id: str | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> str:
        """Create a task, announce it as ``task_created``, and hand it to whichever worker serves its kind; returns its id.

        params: for the worker's handler; JSON. Watchers do not see them
        fields: what watchers see from the beginning, beside kind, title, status and created_at

        A kind that no worker serves waits until one does. Raises BacklogFull, TaskExists when the given id is taken, ValueError
        and TypeError for what cannot be a task. After NotDelivered the task may exist, and run half a minute later: give a
        task_id of your own to be sure that trying again makes no second one.
        """
        updates = self.publisher.updates
        return self._run(
            operations.created(updates, self._max_backlog, kind, params or {}, title, task_id, fields or {})
        )

    def cancel(self, task_id: str) -> bool:
        """Cancel a task: one that waits never starts, one that runs is told within a second or so, and ends as its handler
        lets it. False if it has ended, or was not made by a manager."""
        return self._run(operations.cancelled(self.publisher.updates, task_id))

    def get(self, task_id: str) -> TaskState | None:
        """How a task is. None if there is none, or no more: ended ones are forgotten after an hour."""
        return self._run(operations.fetched(task_id))

    def list(
        self, *, limit: int = 100, status: str | Collection[str] | None = None, kind: str | None = None
    ) -> "list[TaskState]":
        """Tasks, the most recently active first, 1000 at most; of one or several statuses, of one kind. Those that others
        report on are among them. Not more than the last 5000 are looked at."""
        return self._run(operations.listed(limit, status, kind))

    def wait(self, task_id: str, timeout: float) -> TaskState:
        """Wait until a task has ended. Raises TimeoutError after so many seconds, LookupError if there is no such task."""
        return self._run(operations.ended(task_id, timeout))

    def _run(self, plan: Operation[T]) -> T:
        while True:
            try:
                step = next(plan)
            except StopIteration as end:
                result: T = end.value
                return result
            if isinstance(step, float):
                time.sleep(step)
            else:
                self.publisher.sender.deliver(step)

    def close(self) -> None:
        """Close the publisher, where it is the manager's own."""
        if self._owns_publisher:
            self.publisher.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
