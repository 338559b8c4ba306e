"""Running tasks that a `TaskManager` has created.

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
    """Handlers for kinds of tasks. The command ``relay-worker module:worker``, or `run`, runs them.

    Making one does not connect.
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
        """Make a worker; the command's arguments take precedence over these.

        Args:
            url: URL of Redis; by default ``REDIS_URL``, or ``REDIS_HOST``, ``REDIS_PORT``, ...
            concurrency: Number of tasks at once, of all kinds together.
            name: For logs, watchers and Redis; by default host and process.
            lease: Seconds of silence after which other workers take this worker's tasks over, 1 to 86400.
            grace: Seconds that running tasks have when the worker is to end; then they are handed over.
            timeout: Seconds for one try of a call to Redis, at most 15.

        Raises:
            ValueError: An argument is out of range.
        """
        self.settings = WorkerSettings(url, concurrency, name, lease, grace, timeout)
        self.handlers: dict[str, Handler] = {}
        self._current: WorkerRun | None = None

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

        An async function runs as a task of the event loop, and is cancelled with its task. Any other runs in a thread, where
        `Task.progress` raises `TaskCancelled`. A mapping that it returns becomes fields of the task.

        A task whose handler raises is tried again; after `TaskFailed`, or the last attempt, it has failed. SystemExit and any
        other BaseException are such errors, and end no more than their task; only KeyboardInterrupt in an async handler ends
        the worker, for asyncio raises an operator's Ctrl-C wherever the program happens to be.

        A worker that dies leaves its tasks to others: a handler may run more than once, and should be harmless to repeat.

        Args:
            kind: The kind: 1 to 100 letters, digits and any of ``_ . : -``.
            attempts: How often a task is tried, at least once.
            backoff: Seconds before the second attempt; doubled for each further one, with jitter.
            max_backoff: Upper bound of these pauses, in seconds.
            timeout: Seconds for one attempt; None: no limit.

        Raises:
            ValueError: There is a handler for this kind, or an argument is out of range.
            TypeError: The handler is no function.
        """

        def register(function: F) -> F:
            if checked_kind(kind) in self.handlers:
                raise ValueError(f"there is a handler for {kind!r} already")
            self.handlers[kind] = Handler(function, attempts, backoff, max_backoff, timeout)
            return function

        return register

    async def run(self, **settings: Any) -> None:
        """Run tasks until `drain`, through outages of Redis.

        Cancelling ends it at once; other workers take its tasks over when their lease has run out.

        Args:
            settings: Arguments of the worker, which take precedence over those it was made with.

        Raises:
            ValueError: The settings, or the environment, cannot be right, or there are no handlers.
            relay_client.DeliveryRefused: This Redis cannot be used at all.
            RuntimeError: The worker runs already.
        """
        if not self.handlers:
            raise ValueError("this worker has no handlers: register some with @worker.task(kind)")
        if self._current is not None:
            raise RuntimeError("this worker runs already")
        self._current = WorkerRun(self.handlers, replace(self.settings, **settings))
        try:
            await self._current.run()
        finally:
            self._current = None

    def drain(self) -> None:
        """Take no more tasks, give those that run ``grace`` seconds, and hand the others over. From the event loop's thread."""
        if self._current is not None:
            self._current.drain()
