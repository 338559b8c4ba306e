"""RQ: every job as a task of the relay.

from relay_client.integrations.rq import install

install()

Call it where jobs are enqueued, and in the module of settings that workers get: ``rq worker -c settings``. A worker that needs
no options can be named on its command line instead: ``rq worker -w relay_client.integrations.rq.Worker``.
"""

from collections.abc import Callable
from typing import Any

from relay_client.integrations.job import Job, named
from relay_client.integrations.job_reporter import JobReporter, never_raises
from relay_client.integrations.missing import missing
from relay_client.integrations.patching import wrap_method
from relay_client.integrations.progress_fields import progress_fields
from relay_client.integrations.whole_process import installed_once

try:
    import rq.job
    import rq.worker
    from rq.command import send_stop_job_command
except ModuleNotFoundError as error:
    raise missing("RQ 2.0 or newer", "rq") from error

_Method = Callable[..., Any]

#: Key in a job's ``meta``: whether it was announced, and which attempt comes next.
_META = "relay"


@installed_once
def install(jobs: JobReporter) -> None:
    """Have the jobs that this process enqueues or runs reported; see `relay_client.integrations.whole_process.Install`."""
    for name in ("enqueue_job", "schedule_job"):
        wrap_method(rq.Queue, name, _enqueuing(jobs))
    wrap_method(rq.Queue, "enqueue_many", _enqueuing_many(jobs))
    wrap_method(rq.job.Job, "save_meta", _saving_meta(jobs))
    wrap_method(rq.job.Job, "cancel", _cancelling(jobs))
    wrap_method(rq.worker.BaseWorker, "handle_exception", _noting_the_error)
    wrap_method(rq.worker.BaseWorker, "handle_job_failure", _failing(jobs))
    wrap_method(_definer(rq.worker.Worker, "perform_job"), "perform_job", _performing(jobs))
    wrap_method(_definer(rq.worker.Worker, "monitor_work_horse"), "monitor_work_horse", _monitoring(jobs))


def _definer(worker: type, method: str) -> type:
    return next(each for each in worker.__mro__ if method in vars(each))


class Worker(rq.worker.Worker):
    """RQ's worker with the integration installed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        install()
        super().__init__(*args, **kwargs)


def _job_of(job: rq.job.Job, worker: str = "") -> Job:
    facts = job.meta.get(_META) or {}
    attempt = max(facts.get("attempt", 1), _returned_retries(job) + 1)
    left = job.retries_left
    return Job(
        job.id,
        job.func_name or "",
        lambda: named(None if job.instance is not None else _function(job), job.args, job.kwargs),
        queue=job.origin or "",
        attempt=attempt,
        max_attempts=None if left is None else attempt + left,
        worker=worker,
        is_announced=bool(facts.get("announced")),
    )


def _returned_retries(job: rq.job.Job) -> int:
    """Return how often a job has returned a ``Retry``, which versions before 2.1 do not know."""
    return getattr(job, "number_of_retries", None) or 0


def _function(job: rq.job.Job) -> Any:
    try:
        return job.func
    except (ImportError, AttributeError, ValueError):  # a process that only enqueues may not have it
        return None


def _announce(jobs: JobReporter, job: rq.job.Job, call: Callable[[], Any]) -> Any:
    """Enqueue a job by `call`, and announce it unless that was done."""
    is_new = _META not in job.meta and not _returned_retries(job) and jobs.mapping.is_selected(_job_of(job))
    if is_new:
        job.meta[_META] = {"announced": True}
    result = call()
    if is_new:
        jobs.enqueued(_job_of(job))
    return result


def _enqueuing(jobs: JobReporter) -> Callable[[_Method], _Method]:
    def make(enqueue: _Method) -> _Method:
        def reporting(self: rq.Queue, job: rq.job.Job, *args: Any, **kwargs: Any) -> Any:
            return _announce(jobs, job, lambda: enqueue(self, job, *args, **kwargs))

        return reporting

    return make


def _enqueuing_many(jobs: JobReporter) -> Callable[[_Method], _Method]:
    def make(enqueue_many: _Method) -> _Method:
        def reporting(self: rq.Queue, *args: Any, **kwargs: Any) -> Any:
            created = enqueue_many(self, *args, **kwargs)
            for job in created:
                if _META not in job.meta:  # else it went by enqueue_job
                    jobs.enqueued(_job_of(job))
            return created

        return reporting

    return make


def _saving_meta(jobs: JobReporter) -> Callable[[_Method], _Method]:
    def make(save_meta: _Method) -> _Method:
        def reporting(self: rq.job.Job, *args: Any, **kwargs: Any) -> Any:
            jobs.progress(self.id, **progress_fields(self.meta))
            return save_meta(self, *args, **kwargs)

        return reporting

    return make


def _cancelling(jobs: JobReporter) -> Callable[[_Method], _Method]:
    def make(cancel: _Method) -> _Method:
        def reporting(self: rq.job.Job, *args: Any, **kwargs: Any) -> Any:
            result = cancel(self, *args, **kwargs)
            if jobs.mapping.is_selected(_job_of(self)):
                jobs.cancelled(self.id)
            return result

        return reporting

    return make


def _performing(jobs: JobReporter) -> Callable[[_Method], _Method]:
    """In the work horse, or in the worker itself where it has none."""

    def make(perform_job: _Method) -> _Method:
        def reporting(self: rq.worker.Worker, job: rq.job.Job, *args: Any, **kwargs: Any) -> Any:
            described = _job_of(job, self.name)
            jobs.started(described, watched=not self.is_horse)
            result = perform_job(self, job, *args, **kwargs)
            jobs.leave()
            _report_end(jobs, described, job, getattr(job, "_relay_error", None))
            if self.is_horse:
                jobs.flush()  # it ends by os._exit
            return result

        return reporting

    return make


def _monitoring(jobs: JobReporter) -> Callable[[_Method], _Method]:
    """In the worker, while its work horse runs."""

    def make(monitor: _Method) -> _Method:
        def reporting(self: rq.worker.Worker, job: rq.job.Job, *args: Any, **kwargs: Any) -> Any:
            described = _job_of(job)
            if described.is_announced or jobs.mapping.is_selected(described):
                jobs.watch(job.id, lambda _: send_stop_job_command(self.connection, job.id, self.serializer))
            try:
                return monitor(self, job, *args, **kwargs)
            finally:
                jobs.unwatch(job.id)

        return reporting

    return make


def _noting_the_error(handle_exception: _Method) -> _Method:
    def reporting(self: rq.worker.Worker, job: rq.job.Job, *exc_info: Any) -> Any:
        job._relay_error = exc_info[1]  # type: ignore[attr-defined]
        return handle_exception(self, job, *exc_info)

    return reporting


def _failing(jobs: JobReporter) -> Callable[[_Method], _Method]:
    def make(handle_job_failure: _Method) -> _Method:
        def reporting(
            self: rq.worker.Worker, job: rq.job.Job, queue: rq.Queue, *args: Any, exc_string: str = "", **kwargs: Any
        ) -> Any:
            described = _job_of(job, self.name)
            if job.retries_left and self._stopped_job_id != job.id:
                job.meta[_META] = {
                    **(job.meta.get(_META) or {}),
                    "attempt": described.attempt + 1,
                }  # saved by the retry
            result = handle_job_failure(self, job, queue, *args, exc_string=exc_string, **kwargs)
            if not jobs.is_running(job.id) and (described.is_announced or jobs.mapping.is_selected(described)):
                # The horse did not live to say it.
                _report_end(jobs, described, job, exc_string.strip().rpartition("\n")[2].strip("; "))
            return result

        return reporting

    return make


@never_raises
def _report_end(jobs: JobReporter, described: Job, job: rq.job.Job, error: BaseException | str | None) -> None:
    match job.get_status(refresh=False):
        case rq.job.JobStatus.FINISHED:
            jobs.succeeded(job.id)
        case rq.job.JobStatus.QUEUED | rq.job.JobStatus.SCHEDULED:
            jobs.retrying(described, error)
        case rq.job.JobStatus.STOPPED | rq.job.JobStatus.CANCELED:
            jobs.cancelled(job.id)
        case _:
            jobs.failed(job.id, error or "failed")
