"""Huey: every task as a task of the relay.

from relay_client.integrations.huey import install

install(huey)
"""

import sys
from typing import Any, Unpack

from relay_client.integrations.job import Job, JobOptions, named
from relay_client.integrations.job_reporter import JobReporter, never_raises
from relay_client.integrations.missing import missing
from relay_client.progress.outcome import TaskCancelled

try:
    import huey.api
    from huey import signals
except ModuleNotFoundError as error:
    raise missing("Huey 2.5.3 or newer", "huey") from error


def install(app: huey.api.Huey, **options: Unpack[JobOptions]) -> JobReporter:
    """Have the tasks of a Huey reported: those that this process enqueues or runs.

    Args:
        app: The Huey.
        options: See `relay_client.integrations.job.JobOptions`.

    Returns:
        What reports on them.

    Raises:
        ValueError: An option, or the environment, cannot be right.
    """
    jobs = JobReporter(options)
    app.signal()(_Signals(app, jobs))
    app.on_shutdown("relay")(jobs.flush)
    return jobs


def _function(task: Any) -> Any:
    """Return the function of a task, where the module that defines it has it under its name; None elsewhere."""
    module = sys.modules.get(type(task).__module__)
    return getattr(getattr(module, type(task).__name__, None), "func", None)


#: Signals after which a task may be tried again, as its ``retries`` say.
_ENDS = frozenset({signals.SIGNAL_ERROR, signals.SIGNAL_LOCKED, "timeout", "rate-limited"})


class _Signals:
    """Receives all signals; a task's signals come one after the other, in one thread."""

    def __init__(self, app: huey.api.Huey, jobs: JobReporter) -> None:
        self._app = app
        self._jobs = jobs
        self._retrying: set[str] = set()
        self._errors: dict[str, BaseException | str] = {}

    def _job(self, task: Any) -> Job:
        function = _function(task)
        total = type(task).default_retries + 1
        return Job(
            task.id,
            task.name,
            lambda: named(function, task.args, task.kwargs),
            queue=self._app.name,
            attempt=max(1, total - task.retries),
            max_attempts=total,
        )

    @never_raises
    def __call__(self, signal: str, task: Any, error: BaseException | None = None) -> None:
        if not self._jobs.is_running(task.id) and not self._jobs.mapping.is_selected(self._job(task)):
            return
        if signal in (signals.SIGNAL_ENQUEUED, signals.SIGNAL_SCHEDULED):
            self._on_enqueued(task)
        elif signal == signals.SIGNAL_EXECUTING:
            self._jobs.started(self._job(task))
        elif signal == signals.SIGNAL_COMPLETE:
            self._jobs.leave()
            self._jobs.succeeded(task.id)
        elif signal == signals.SIGNAL_RETRYING:
            self._retry(task)
        elif signal in _ENDS:
            self._on_error(task, error or signal)
        elif signal == signals.SIGNAL_CANCELED:
            self._on_cancelled(task)
        elif signal == signals.SIGNAL_INTERRUPTED:
            self._jobs.failed(task.id, "interrupted: the worker has ended")
        elif signal == signals.SIGNAL_REVOKED:
            self._jobs.cancelled(task.id)
        elif signal == signals.SIGNAL_EXPIRED:
            self._jobs.cancelled(task.id, "expired")

    def _on_enqueued(self, task: Any) -> None:
        if task.id in self._retrying:
            self._retrying.discard(task.id)
        elif not self._jobs.is_running(task.id):
            self._jobs.enqueued(self._job(task))

    def _on_error(self, task: Any, error: BaseException | str) -> None:
        self._jobs.leave()
        if isinstance(error, TaskCancelled):
            task.retries = 0
        if task.retries:
            self._errors[task.id] = error  # it is tried again
        else:
            self._jobs.failed(task.id, error)

    def _on_cancelled(self, task: Any) -> None:
        self._jobs.leave()
        if not task.retries:
            self._jobs.cancelled(task.id)

    def _retry(self, task: Any) -> None:
        self._jobs.leave()
        self._retrying.add(task.id)
        job = self._jobs.job(task.id) or self._job(task)
        self._jobs.retrying(job, self._errors.pop(task.id, None), float(task.retry_delay))
