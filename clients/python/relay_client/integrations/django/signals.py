"""Signals of Django's tasks as reports."""

from importlib import import_module
from typing import Any

from relay_client.integrations.job import Job, named, was_enqueued_long_ago
from relay_client.integrations.job_reporter import JobReporter, never_raises
from relay_client.integrations.missing import missing

#: Django 6.0's own, and the package for older versions of Django.
_MODULES = ("django.tasks.signals", "django_tasks.signals")


def connect(jobs: JobReporter) -> None:
    """Report on the tasks of all backends. Raises ModuleNotFoundError where there is no framework for tasks."""
    receivers = _Receivers(jobs)
    found = 0
    for name in _MODULES:
        try:
            signals = import_module(name)
        except ModuleNotFoundError:
            continue
        found += 1
        signals.task_enqueued.connect(receivers.on_enqueued, weak=False)
        signals.task_started.connect(receivers.on_started, weak=False)
        signals.task_finished.connect(receivers.on_finished, weak=False)
    if not found:
        raise missing("Django 6.0 or newer, or django-tasks", "django")


class _Receivers:
    def __init__(self, jobs: JobReporter) -> None:
        self._jobs = jobs

    def _job(self, result: Any) -> Job:
        task = result.task
        return Job(
            str(result.id),
            task.module_path,
            lambda: named(task.func, result.args, result.kwargs),
            queue=task.queue_name,
            attempt=max(1, len(getattr(result, "worker_ids", ()))),
        )

    @never_raises
    def on_enqueued(self, task_result: Any, **_: Any) -> None:
        self._jobs.enqueued(self._job(task_result))

    @never_raises
    def on_started(self, task_result: Any, **_: Any) -> None:
        job = self._job(task_result)
        if not self._jobs.mapping.is_selected(job):
            return
        self._jobs.started(job._replace(is_announced=was_enqueued_long_ago(task_result.enqueued_at)))

    @never_raises
    def on_finished(self, task_result: Any, **_: Any) -> None:
        self._jobs.leave()
        job_id = str(task_result.id)
        if not self._jobs.is_running(job_id):
            return
        errors = task_result.errors
        if task_result.status.name == "SUCCESSFUL":
            self._jobs.succeeded(job_id)
        elif errors and errors[-1].exception_class_path.endswith(".TaskCancelled"):
            self._jobs.cancelled(job_id)
        else:
            self._jobs.failed(job_id, errors[-1].traceback.strip().rpartition("\n")[2] if errors else "failed")
