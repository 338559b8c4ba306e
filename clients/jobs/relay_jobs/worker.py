"""Doing tasks that a `TaskManager` created.

worker = Worker()

@worker.task("commission", attempts=3)
async def commission(task: Task, params: Mapping[str, Any]) -> None:
    task.progress(40, "Rendering", stage="image_started")
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from relay_jobs.handlers import Function, Handler
from relay_jobs.job import checked_kind
from relay_jobs.settings import WorkerSettings
from relay_jobs.worker_run import WorkerRun

F = TypeVar("F", bound=Function)


class Worker:
    """Handlers for kinds of tasks, and what runs them: ``relay-worker module:worker``, or `run`.

    Arguments are those of `WorkerSettings`; the command's go before them. Making one does not connect.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        concurrency: int = 10,
        name: str | None = None,
        lease: float = 30.0,
        grace: float = 20.0,
        timeout: float = 2.0,
    ) -> None:
        self.settings = WorkerSettings(url, concurrency, name, lease, grace, timeout)
        self.handlers: dict[str, Handler] = {}
        self._run: WorkerRun | None = None

    def task(
        self,
        kind: str,
        *,
        attempts: int = 3,
        backoff: float = 1.0,
        max_backoff: float = 60.0,
        timeout: float | None = None,
    ) -> Callable[[F], F]:
        """Register a handler for a kind of task: a function of the task, on which it reports, and of its parameters.

        attempts, backoff, max_backoff, timeout: see `Handler`

        An async one runs as a task of the event loop, and is cancelled; any other in a thread, where `Task.progress` raises
        `TaskCancelled`. What it raises is tried again, but for `TaskFailed`; a mapping that it returns becomes fields of the
        task. A worker that dies leaves its tasks to others: a handler may run more than once, and should do no harm then.
        """

        def register(function: F) -> F:
            if checked_kind(kind) in self.handlers:
                raise ValueError(f"there is a handler for {kind!r} already")
            self.handlers[kind] = Handler(function, attempts, backoff, max_backoff, timeout)
            return function

        return register

    async def run(self, **settings: Any) -> None:
        """Do tasks until `drain`; settings go before those of the worker. Rides out outages of Redis.

        Cancelling ends it at once: its tasks are another's when their lease has run out. Raises ValueError for bad settings,
        `relay_client.DeliveryRefused` when this Redis cannot be used at all, RuntimeError when it runs already.
        """
        if not self.handlers:
            raise ValueError("this worker has no handlers: register some with @worker.task(kind)")
        if self._run is not None:
            raise RuntimeError("this worker runs already")
        self._run = WorkerRun(self.handlers, replace(self.settings, **settings))
        try:
            await self._run.run()
        finally:
            self._run = None

    def drain(self) -> None:
        """Take no more tasks, give those that run ``grace`` seconds, and hand over what is left. From the loop's thread."""
        if self._run is not None:
            self._run.drain()
