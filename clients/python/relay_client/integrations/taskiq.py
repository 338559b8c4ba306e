"""taskiq: every task of a broker as a task of the relay.

from relay_client.integrations.taskiq import install

install(broker)
"""

import asyncio
from collections.abc import Callable
from typing import Any, Unpack

from relay_client.integrations.job import Job, JobOptions, named
from relay_client.integrations.job_reporter import JobReporter, never_raises
from relay_client.integrations.missing import missing
from relay_client.integrations.patching import wrap_method
from relay_client.integrations.progress_fields import progress_fields
from relay_client.progress.outcome import TaskCancelled

try:
    import taskiq
    from taskiq.depends.progress_tracker import ProgressTracker
    from taskiq.exceptions import NoResultError
except ModuleNotFoundError as error:
    raise missing("taskiq 0.11.12 or newer", "taskiq") from error

#: Label of messages whose tasks were announced by the process that sent them.
_ANNOUNCED = "relay_announced"

#: Label in which taskiq's own middleware counts retries.
_RETRIES = "_retries"


def install(broker: taskiq.AsyncBroker, **options: Unpack[JobOptions]) -> JobReporter:
    """Have the tasks of a broker reported: those that it sends, and those that it runs.

    Args:
        broker: The broker.
        options: See `relay_client.integrations.job.JobOptions`.

    Returns:
        What reports on them.

    Raises:
        ValueError: An option, or the environment, cannot be right.
    """
    middleware = RelayMiddleware(JobReporter(options))
    broker.add_middlewares(middleware)
    wrap_method(ProgressTracker, "set_progress", _reporting_progress)
    return middleware.jobs


class RelayMiddleware(taskiq.TaskiqMiddleware):
    """Reports on tasks.

    Attributes:
        jobs: Reports on them.
    """

    def __init__(self, jobs: JobReporter) -> None:
        super().__init__()
        self.jobs = jobs
        self._begun: dict[int, Job] = {}  # by the message that is worked on; its labels change when it is sent again
        self._resent: set[str] = set()
        self._errors: dict[str, BaseException] = {}

    def _job(self, message: taskiq.TaskiqMessage) -> Job:
        task = self.broker.find_task(message.task_name)
        most = message.labels.get("max_retries")
        return Job(
            message.task_id,
            message.task_name,
            lambda: named(task.original_func if task else None, message.args, message.kwargs),
            queue=str(message.labels.get("queue_name") or ""),
            attempt=int(message.labels.get(_RETRIES) or 0) + 1,
            max_attempts=None if most is None else int(most),
            is_announced=bool(message.labels.get(_ANNOUNCED)),
        )

    def pre_send(self, message: taskiq.TaskiqMessage) -> taskiq.TaskiqMessage:
        """Note in a new message that it is announced."""
        job = self._job(message)
        if job.attempt == 1 and not job.is_announced and self.jobs.mapping.is_selected(job):
            message.labels[_ANNOUNCED] = 1
        return message

    @never_raises
    def post_send(self, message: taskiq.TaskiqMessage) -> None:
        """Report that a task waits."""
        job = self._job(message)
        if job.attempt > 1 or self.jobs.is_running(job.id):
            self._resent.add(job.id)
        elif job.is_announced:
            self.jobs.enqueued(job)

    def pre_execute(self, message: taskiq.TaskiqMessage) -> taskiq.TaskiqMessage:
        """Report that a task runs."""
        job = self._begun[id(message)] = self._job(message)
        self.jobs.started(job)
        return message

    def on_error(self, message: taskiq.TaskiqMessage, result: Any, exception: BaseException) -> None:  # noqa: ARG002
        """Keep the error of a task until it is known whether it is sent again; one that was cancelled is not."""
        if isinstance(exception, TaskCancelled):
            message.labels["retry_on_error"] = False
        if self.jobs.is_running(message.task_id):
            self._errors[message.task_id] = exception

    @never_raises
    def post_execute(self, message: taskiq.TaskiqMessage, result: taskiq.TaskiqResult[Any]) -> None:
        """Report the outcome of a task."""
        self.jobs.leave()
        job = self._begun.pop(id(message), None)
        error = self._errors.pop(message.task_id, result.error)
        is_resent = message.task_id in self._resent
        self._resent.discard(message.task_id)
        if job is None:
            return
        if is_resent:
            self.jobs.retrying(job, error)
        elif not self.jobs.runs(job):
            return
        elif result.is_err:
            self.jobs.failed(job.id, error or "failed")
        elif isinstance(error, NoResultError):
            self.jobs.handed_over(job.id)
        else:
            self.jobs.succeeded(job.id)

    async def shutdown(self) -> None:
        """Send what is not sent yet."""
        await asyncio.to_thread(self.jobs.flush)


def _reporting_progress(set_progress: Callable[..., Any]) -> Callable[..., Any]:
    async def reporting(self: ProgressTracker[Any], state: Any, meta: Any = None) -> None:
        for middleware in self.context.broker.middlewares:
            if isinstance(middleware, RelayMiddleware):
                middleware.jobs.progress(self.context.message.task_id, **progress_fields(meta))
        await set_progress(self, state, meta)

    return reporting
