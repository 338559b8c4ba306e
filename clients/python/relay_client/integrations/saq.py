"""SAQ: every job of a queue as a task of the relay.

from relay_client.integrations.saq import install

queue = Queue.from_url("redis://localhost")
settings = {"queue": queue, "functions": [resize]}

install(queue, settings)

Where jobs are only enqueued there are no settings: ``install(queue)``.
"""

import asyncio
from collections.abc import Callable, Collection
from typing import Any, Unpack

from relay_client.integrations.job import Job, JobOptions, named
from relay_client.integrations.job_reporter import JobReporter, never_raises
from relay_client.integrations.missing import missing
from relay_client.integrations.patching import wrap_method
from relay_client.progress.outcome import TaskCancelled

try:
    import saq
    from saq.queue import Queue
except ModuleNotFoundError as error:
    raise missing("SAQ 0.26 or newer", "saq") from error

#: Key in a job's ``meta``: it was announced by the process that has enqueued it.
_ANNOUNCED = "relay_announced"


def install(queue: Queue, settings: dict[str, Any] | None = None, **options: Unpack[JobOptions]) -> JobReporter:
    """Have the jobs of a queue reported.

    Args:
        queue: The queue.
        settings: The settings of its worker; the integration's hooks are added to those that are there.
        options: See `relay_client.integrations.job.JobOptions`.

    Returns:
        What reports on them.

    Raises:
        ValueError: An option, or the environment, cannot be right.
    """
    hooks = _Hooks(JobReporter(options))
    queue.register_before_enqueue(hooks.before_enqueue)
    queue.enqueue = hooks.enqueuing(queue.enqueue)  # type: ignore[method-assign]
    if settings is not None:
        settings["before_process"] = [hooks.before_process, *_as_list(settings.get("before_process"))]
        settings["after_process"] = [*_as_list(settings.get("after_process")), hooks.after_process]
        settings["shutdown"] = [*_as_list(settings.get("shutdown")), hooks.shutdown]
        _progress_reporters.append(hooks.jobs)
        wrap_method(saq.Job, "update", _reporting_progress)
    return hooks.jobs


#: What reports on jobs that run in this process.
_progress_reporters: list[JobReporter] = []


def _as_list(hooks: Any) -> list[Any]:
    if hooks is None:
        return []
    return list(hooks) if isinstance(hooks, Collection) else [hooks]


def _job(job: saq.Job) -> Job:
    return Job(
        job.key,
        job.function,
        lambda: named(None, (), job.kwargs),
        queue=job.queue.name if job.queue is not None else "",
        attempt=max(1, job.attempts),
        max_attempts=job.retries,
        is_announced=bool((job.meta or {}).get(_ANNOUNCED)),
    )


class _Hooks:
    def __init__(self, jobs: JobReporter) -> None:
        self.jobs = jobs

    async def before_enqueue(self, job: saq.Job) -> None:
        if self.jobs.mapping.is_selected(_job(job)):
            job.meta = {**(job.meta or {}), _ANNOUNCED: True}

    def enqueuing(self, enqueue: Callable[..., Any]) -> Callable[..., Any]:
        async def reporting(*args: Any, **kwargs: Any) -> Any:
            job = await enqueue(*args, **kwargs)
            if job is not None and _job(job).is_announced:
                self.jobs.enqueued(_job(job))
            return job

        return reporting

    async def before_process(self, ctx: Any) -> None:
        # On the event loop, not in a thread: the job inherits this task's context.
        job, loop = ctx["job"], asyncio.get_running_loop()

        def abort(reason: str) -> None:
            asyncio.run_coroutine_threadsafe(job.abort(reason or "cancelled"), loop)

        self.jobs.started(_job(job), abort)

    async def after_process(self, ctx: Any) -> None:
        self._report_end(ctx)

    @never_raises
    def _report_end(self, ctx: Any) -> None:
        self.jobs.leave()
        job = ctx["job"]
        described = _job(job)
        if not self.jobs.runs(described) and job.status != saq.Status.QUEUED:
            return
        error = ctx.get("exception") or (job.error or "").strip().rpartition("\n")[2]
        match job.status:
            case _ if isinstance(error, TaskCancelled):
                self.jobs.cancelled(job.key)
            case saq.Status.COMPLETE:
                self.jobs.succeeded(job.key)
            case saq.Status.ABORTED | saq.Status.ABORTING:
                self.jobs.cancelled(job.key, job.error)
            case saq.Status.FAILED:
                self.jobs.failed(job.key, error or "failed")
            case _:
                self.jobs.retrying(described, error)

    async def shutdown(self, ctx: Any) -> None:  # noqa: ARG002
        await asyncio.to_thread(self.jobs.flush)


def _reporting_progress(update: Callable[..., Any]) -> Callable[..., Any]:
    async def reporting(self: saq.Job, **kwargs: Any) -> Any:
        if "progress" in kwargs:
            for jobs in _progress_reporters:
                jobs.progress(self.key, 100 * kwargs["progress"])
        return await update(self, **kwargs)

    return reporting
