"""arq: every job as a task of the relay.

from relay_client.integrations.arq import install

install()

Call it in the module of the worker's settings, and where jobs are enqueued.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from relay_client.integrations.job import Job, named, was_enqueued_long_ago
from relay_client.integrations.job_reporter import JobReporter, never_raises
from relay_client.integrations.missing import missing
from relay_client.integrations.patching import wrap_method
from relay_client.integrations.whole_process import installed_once

try:
    import arq.connections
    import arq.worker
except ModuleNotFoundError as error:
    raise missing("arq 0.25 or newer", "arq") from error

_Method = Callable[..., Any]


@installed_once
def install(jobs: JobReporter) -> None:
    """Have the jobs that this process enqueues or runs reported; see `relay_client.integrations.whole_process.Install`."""
    outcomes = _Outcomes(jobs)
    wrap_method(arq.connections.ArqRedis, "enqueue_job", outcomes.enqueuing)
    wrap_method(arq.worker.Worker, "main", outcomes.beginning_work)
    wrap_method(arq.worker.Worker, "finish_job", outcomes.finishing)
    wrap_method(arq.worker.Worker, "finish_failed_job", outcomes.finishing_unrun)
    wrap_method(arq.worker.Worker, "close", outcomes.closing)


class _Outcomes:
    """What became of the jobs that run in this process. A worker does not pass it to its hooks."""

    def __init__(self, jobs: JobReporter) -> None:
        self._jobs = jobs
        self._errors: dict[str, BaseException] = {}
        self._aborted: set[str] = set()

    def enqueuing(self, enqueue_job: _Method) -> _Method:
        async def reporting(self_: Any, function: str, *args: Any, **kwargs: Any) -> Any:
            enqueued = await enqueue_job(self_, function, *args, **kwargs)
            if enqueued is not None:
                queue = kwargs.get("_queue_name") or self_.default_queue_name
                own = {name: value for name, value in kwargs.items() if name not in _OPTIONS}
                self._jobs.enqueued(Job(enqueued.job_id, function, lambda: named(None, args, own), queue=queue))
            return enqueued

        return reporting

    def beginning_work(self, main: _Method) -> _Method:
        async def reporting(worker: arq.worker.Worker) -> None:
            for function in worker.functions.values():
                function.coroutine = self._reporting(worker, function.name, function.coroutine)
            await main(worker)

        return reporting

    def _reporting(self, worker: arq.worker.Worker, name: str, coroutine: _Method) -> _Method:
        async def run(ctx: dict[Any, Any], *args: Any, **kwargs: Any) -> Any:
            job_id = ctx["job_id"]
            described = Job(
                job_id,
                name,
                lambda: named(coroutine, (ctx, *args), kwargs),
                queue=worker.queue_name,
                attempt=ctx["job_try"],
                max_attempts=worker.max_tries,
                is_announced=was_enqueued_long_ago(ctx["enqueue_time"]),
            )
            if self._jobs.mapping.is_selected(described):
                self._jobs.started(described, lambda _: self._abort(worker, job_id))
            try:
                return await coroutine(ctx, *args, **kwargs)
            except BaseException as error:
                self._errors[job_id] = error
                if isinstance(error, asyncio.CancelledError) and job_id in worker.aborting_tasks:
                    self._aborted.add(job_id)
                raise
            finally:
                self._jobs.leave()

        return run

    def _abort(self, worker: arq.worker.Worker, job_id: str) -> None:
        """As the worker does when ``Job.abort`` was called, but also where it does not allow that."""

        def abort() -> None:
            running = worker.job_tasks.get(job_id)
            if running is not None and running.cancel():
                worker.aborting_tasks.add(job_id)

        worker.loop.call_soon_threadsafe(abort)

    def finishing(self, finish_job: _Method) -> _Method:
        async def reporting(self_: Any, job_id: str, finish: bool, *args: Any, **kwargs: Any) -> Any:
            self._report_end(job_id, finish=finish)
            return await finish_job(self_, job_id, finish, *args, **kwargs)

        return reporting

    @never_raises
    def _report_end(self, job_id: str, *, finish: bool) -> None:
        job, error = self._jobs.job(job_id), self._errors.pop(job_id, None)
        is_aborted = job_id in self._aborted
        self._aborted.discard(job_id)
        if job is None:
            return
        if not finish:
            seconds = (getattr(error, "defer_score", None) or 0) / 1000
            if isinstance(error, asyncio.CancelledError):
                error = None
            elif isinstance(error, arq.worker.Retry):
                error = error.__cause__ or error
            self._jobs.retrying(job, error, seconds)
        elif is_aborted:
            self._jobs.cancelled(job_id)
        elif isinstance(error, asyncio.CancelledError):
            self._jobs.failed(job_id, "TimeoutError: not done in time")
        elif error is None:
            self._jobs.succeeded(job_id)
        else:
            self._jobs.failed(job_id, error)

    def finishing_unrun(self, finish_failed_job: _Method) -> _Method:
        async def reporting(self_: Any, job_id: str, result_data: Any) -> Any:
            self._report_unrun(self_, job_id, result_data)
            return await finish_failed_job(self_, job_id, result_data)

        return reporting

    @never_raises
    def _report_unrun(self, worker: arq.worker.Worker, job_id: str, result_data: bytes | None) -> None:
        """A job that the worker gives up without running it: expired, aborted before, or tried too often."""
        if result_data is None:
            self._jobs.failed(job_id, "arq has given the job up")
            return
        error = arq.jobs.deserialize_result(result_data, deserializer=worker.job_deserializer).result
        if isinstance(error, asyncio.CancelledError):
            self._jobs.cancelled(job_id)
        else:
            self._jobs.failed(job_id, error)

    def closing(self, close: _Method) -> _Method:
        async def reporting(self_: Any) -> None:
            await close(self_)
            await asyncio.to_thread(self._jobs.flush)

        return reporting


#: Arguments of ``enqueue_job`` that are arq's own.
_OPTIONS = frozenset({"_job_id", "_queue_name", "_defer_until", "_defer_by", "_expires", "_job_try"})
