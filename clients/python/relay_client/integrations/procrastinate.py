"""Procrastinate: every job as a task of the relay.

from relay_client.integrations.procrastinate import install

install()

Call it in the module of the application, which workers and the processes that defer jobs import. The id of a task is
``procrastinate-`` and the job's number.
"""

import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from relay_client.integrations.job import Job
from relay_client.integrations.job_reporter import JobReporter, never_raises
from relay_client.integrations.missing import missing
from relay_client.integrations.patching import wrap_method
from relay_client.integrations.whole_process import installed_once
from relay_client.progress.outcome import TaskCancelled

try:
    from procrastinate.jobs import Status
    from procrastinate.manager import JobManager
    from procrastinate.tasks import Task
    from procrastinate.worker import Worker
except ModuleNotFoundError as error:
    raise missing("Procrastinate 3.0.2 or newer", "procrastinate") from error

_Method = Callable[..., Any]


@installed_once
def install(jobs: JobReporter) -> None:
    """Have the jobs that this process defers or runs reported; see `relay_client.integrations.whole_process.Install`."""
    hooks = _Hooks(jobs)
    several = hasattr(JobManager, "batch_defer_jobs")  # newer ones defer one job as a batch
    defer, defer_async = ("batch_defer_jobs", "batch_defer_jobs_async") if several else ("defer_job", "defer_job_async")
    wrap_method(JobManager, defer, hooks.deferring)
    wrap_method(JobManager, defer_async, hooks.deferring_async)
    wrap_method(JobManager, "cancel_job_by_id", hooks.cancelling)
    wrap_method(JobManager, "cancel_job_by_id_async", hooks.cancelling_async)
    wrap_method(Task, "get_retry_exception", hooks.deciding)
    wrap_method(Worker, "_process_job", hooks.processing)
    wrap_method(Worker, "_log_job_outcome", hooks.ending)
    wrap_method(Worker, "run", hooks.running)


def _task_id(job_id: int | None) -> str:
    return f"procrastinate-{job_id}"


def _described(job: Any) -> Job:
    return Job(
        _task_id(job.id), job.task_name, lambda: dict(job.task_kwargs), queue=job.queue, attempt=job.attempts + 1
    )


class _Hooks:
    def __init__(self, jobs: JobReporter) -> None:
        self._jobs = jobs

    # In the process that defers a job

    def deferring(self, defer: _Method) -> _Method:
        def reporting(manager: JobManager, *args: Any, **kwargs: Any) -> Any:
            deferred = defer(manager, *args, **kwargs)
            self._announce(deferred, kwargs)
            return deferred

        return reporting

    def deferring_async(self, defer: _Method) -> _Method:
        async def reporting(manager: JobManager, *args: Any, **kwargs: Any) -> Any:
            deferred = await defer(manager, *args, **kwargs)
            self._announce(deferred, kwargs)
            return deferred

        return reporting

    @never_raises
    def _announce(self, deferred: Any, kwargs: dict[str, Any]) -> None:
        if kwargs.get("connection") is not None:
            return  # within a transaction of the application, which may be rolled back
        for job in deferred if isinstance(deferred, Iterable) else [deferred]:
            self._jobs.enqueued(_described(job))

    def cancelling(self, cancel: _Method) -> _Method:
        def reporting(manager: JobManager, job_id: int, *args: Any, **kwargs: Any) -> Any:
            is_done = cancel(manager, job_id, *args, **kwargs)
            if is_done and manager.get_job_status(job_id) == Status.CANCELLED:
                self._jobs.cancelled(_task_id(job_id))
            return is_done

        return reporting

    def cancelling_async(self, cancel: _Method) -> _Method:
        async def reporting(manager: JobManager, job_id: int, *args: Any, **kwargs: Any) -> Any:
            is_done = await cancel(manager, job_id, *args, **kwargs)
            if is_done and await manager.get_job_status_async(job_id) == Status.CANCELLED:
                self._jobs.cancelled(_task_id(job_id))
            return is_done

        return reporting

    # In the worker

    def processing(self, process: _Method) -> _Method:
        async def reporting(worker: Worker, context: Any) -> Any:
            job, loop = context.job, asyncio.get_running_loop()

            def stop(_: str) -> None:
                manager = worker.app.job_manager
                asyncio.run_coroutine_threadsafe(manager.cancel_job_by_id_async(job.id, abort=True), loop)

            described = _described(job)
            if self._jobs.mapping.is_selected(described):
                self._jobs.started(described, stop)
            try:
                return await process(worker, context)
            finally:
                self._jobs.leave()

        return reporting

    def deciding(self, decide: _Method) -> _Method:
        def reporting(task: Any, exception: BaseException, job: Any) -> Any:
            # Whatever the task's retry strategy says: a watcher has cancelled it.
            return None if isinstance(exception, TaskCancelled) else decide(task, exception=exception, job=job)

        return reporting

    def ending(self, log_outcome: _Method) -> _Method:
        def reporting(worker: Worker, **outcome: Any) -> Any:
            self._report_end(**outcome)
            return log_outcome(worker, **outcome)

        return reporting

    @never_raises
    def _report_end(self, status: Status, context: Any, job_retry: Any, exc_info: Any = False, **_: Any) -> None:
        described = _described(context.job)
        if not self._jobs.runs(described):
            return
        error = exc_info if isinstance(exc_info, BaseException) else None
        if job_retry is not None:
            seconds = (job_retry.retry_decision.retry_at or datetime.now(UTC)) - datetime.now(UTC)
            self._jobs.retrying(described, error, max(0.0, seconds.total_seconds()))
        elif status == Status.SUCCEEDED:
            self._jobs.succeeded(described.id)
        elif status == Status.ABORTED:
            self._jobs.cancelled(described.id)
        else:
            self._jobs.failed(described.id, error or "failed")

    def running(self, run: _Method) -> _Method:
        async def reporting(worker: Worker) -> Any:
            try:
                return await run(worker)
            finally:
                await asyncio.to_thread(self._jobs.flush)

        return reporting
