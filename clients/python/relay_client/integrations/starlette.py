"""Background tasks of Starlette and FastAPI as tasks of the relay.

from relay_client.integrations.starlette import RelayBackgroundTasks, install

relay = install()

In Starlette::

    tasks = RelayBackgroundTasks(relay)
    task_id = tasks.add_task(resize, path)
    return JSONResponse({"task_id": task_id}, background=tasks)

For FastAPI there is a dependency: see `relay_client.integrations.fastapi`.
"""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, Unpack
from uuid import uuid4

from relay_client.integrations.job import Job, JobOptions, named
from relay_client.integrations.job_reporter import JobReporter
from relay_client.integrations.missing import missing

try:
    from starlette.background import BackgroundTasks
    from starlette.concurrency import run_in_threadpool
except ModuleNotFoundError as error:
    raise missing("Starlette 0.38 or newer", "starlette") from error


def install(**options: Unpack[JobOptions]) -> JobReporter:
    """Return what reports on background tasks; make one for each application.

    Args:
        options: See `relay_client.integrations.job.JobOptions`.

    Raises:
        ValueError: An option, or the environment, cannot be right.
    """
    return JobReporter(options)


class RelayBackgroundTasks(BackgroundTasks):
    """Background tasks that are reported."""

    def __init__(self, jobs: JobReporter, tasks: BackgroundTasks | None = None) -> None:
        """Make it without tasks.

        Args:
            jobs: What `install` has returned.
            tasks: To which the tasks are added, where something else runs them.
        """
        super().__init__()
        self._jobs = jobs
        if tasks is not None:
            self.tasks = tasks.tasks

    def add_task(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> str:  # type: ignore[override]
        """Add a task, which runs after the response was sent.

        Returns:
            The task's id, by which it can be watched.
        """
        job = Job(uuid4().hex, f"{func.__module__}.{func.__qualname__}", lambda: named(func, args, kwargs))
        is_reported = self._jobs.enqueued(job)
        runner = _reported(self._jobs, job, func) if is_reported else func
        super().add_task(runner, *args, **kwargs)
        return job.id


def _reported(jobs: JobReporter, job: Job, func: Callable[..., Any]) -> Callable[..., Any]:
    async def run(*args: Any, **kwargs: Any) -> None:
        jobs.started(job)
        try:
            if inspect.iscoroutinefunction(func):
                await func(*args, **kwargs)
            else:
                await run_in_threadpool(func, *args, **kwargs)
        except asyncio.CancelledError:
            jobs.failed(job.id, "the server has ended, or given the request up")
            raise
        except BaseException as error:
            jobs.failed(job.id, error)
            raise
        finally:
            jobs.leave()
        jobs.succeeded(job.id)

    return run
