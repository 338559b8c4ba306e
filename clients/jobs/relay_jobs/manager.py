"""Handing tasks to workers, from threads.

manager = TaskManager()
task_id = manager.create("commission", {"subreddit": "golf"}, title="A commission for r/golf")
"""

import time
from collections.abc import Collection, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from relay_client.publisher import Publisher
from relay_wire.creation import creation_options

from relay_jobs import operations
from relay_jobs.operations import Operation, T, TaskState


class TaskManager:
    """Creates, cancels and lists tasks, from any number of threads. Making one does not connect.

    All methods raise `relay_client.NotDelivered` when Redis does not answer by the publisher's deadline (15 s by default).
    """

    def __init__(self, publisher: Publisher | str | None = None, *, max_backlog: int = 10_000) -> None:
        """Make a manager.

        Args:
            publisher: By which it reaches Redis, or the URL of one; by default as `relay_client.Publisher` finds it.
            max_backlog: Tasks of one kind that may wait or run; more are refused.

        Raises:
            ValueError: max_backlog is under 1, or the environment cannot be right.
        """
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
        owner: str | Iterable[str] | None = None,
        parent_id: str | int | None = None,
    ) -> str:
        """Create a task, announce it as ``task_created``, and hand it to a worker of its kind. It waits until there is one.

        Args:
            kind: Its kind: 1 to 100 letters, digits and any of ``_ . : -``.
            params: Parameters for the handler; values that JSON has a form for. Watchers do not see them.
            title: A title for watchers.
            task_id: Its id; by default a new one.
            fields: What watchers see from the beginning, beside kind, title, status and created_at.
            owner: The ids of the users and groups that own the task, 16 at most, or one of them; without it nobody does.
            parent_id: The id of the task that this one is a part of. A task keeps its parent for its whole life.

        Returns:
            The task's id.

        Raises:
            BacklogFull: Too many tasks of this kind wait or run.
            TaskExists: The given id is taken.
            NotDelivered: Redis did not answer. The task may exist, and run half a minute later: give a task_id of your own to
                be sure that trying again creates no second one.
            ValueError, TypeError: It cannot be a task.
        """
        updates = self.publisher.updates
        options = creation_options(owner, parent_id, task_id=task_id)
        return self._run(
            operations.created(updates, self._max_backlog, kind, params or {}, title, task_id, fields or {}, options)
        )

    def cancel(self, task_id: str) -> bool:
        """Cancel a task.

        One that waits never starts. The handler of one that runs is notified at once, and ends as it can. So is a reporter of
        another program with ``cancellable=True``.

        Returns:
            False if the task has ended, or is unknown.
        """
        return self._run(operations.cancelled(self.publisher.updates, task_id))

    def retry(self, task_id: str) -> bool:
        """Run a task again that has failed or was cancelled, with the same parameters. It waits for a worker, as a new one.

        A worker keeps the parameters for as long as Redis keeps the state of an ended task, an hour by default.

        Returns:
            False if the task has not failed, waits or runs again already, or was not run by a worker.
        """
        return self._run(operations.retried(self.publisher.updates, task_id))

    def get(self, task_id: str) -> TaskState | None:
        """Return the state of a task; None if there is none: those that have ended are removed after an hour by default."""
        return self._run(operations.fetched(task_id))

    def list(
        self, *, limit: int = 100, status: str | Collection[str] | None = None, kind: str | None = None
    ) -> "list[TaskState]":
        """List tasks, the most recently active first. Those that other programs report on are among them.

        Args:
            limit: Number of tasks, at most 1000. Only the 5000 that were active last are looked at.
            status: One or several statuses.
            kind: One kind.
        """
        return self._run(operations.listed(limit, status, kind))

    def wait(self, task_id: str, timeout: float) -> TaskState:
        """Wait until a task has ended, and return its state.

        Args:
            task_id: Its id.
            timeout: Seconds to wait.

        Raises:
            TimeoutError: It has not ended.
            LookupError: There is no such task.
        """
        return self._run(operations.ended(task_id, timeout))

    def _run(self, operation: Operation[T]) -> T:
        while True:
            try:
                step = next(operation)
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
