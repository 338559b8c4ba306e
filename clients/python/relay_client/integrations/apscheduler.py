"""APScheduler 3: every run of a job as a task of the relay.

from relay_client.integrations.apscheduler import install

install(scheduler)

The id of a run is the job's id and the time for which it was scheduled.
"""

from collections.abc import Callable
from datetime import datetime
from importlib import import_module
from typing import Any, Unpack
from weakref import WeakKeyDictionary

from relay_client.integrations.job import Job, JobOptions, named
from relay_client.integrations.job_reporter import JobReporter, never_raises
from relay_client.integrations.missing import missing

try:
    from apscheduler import events
    from apscheduler.executors import base
    from apscheduler.schedulers.base import BaseScheduler
except ModuleNotFoundError as error:
    raise missing("APScheduler 3.10 or newer", "apscheduler") from error

#: The executors that call these functions of `apscheduler.executors.base` by a name of their own.
_EXECUTORS = ("pool", "debug", "asyncio", "gevent")

_run_job: Callable[..., Any] = base.run_job
_run_coroutine_job: Callable[..., Any] | None = getattr(base, "run_coroutine_job", None)

#: What reports on the jobs of each scheduler.
_installed: "WeakKeyDictionary[BaseScheduler, JobReporter]" = WeakKeyDictionary()


def install(scheduler: BaseScheduler, **options: Unpack[JobOptions]) -> JobReporter:
    """Have the jobs of a scheduler reported, those of its executors in threads and on event loops.

    Jobs of a process pool are not: their processes know nothing of the scheduler.

    Args:
        scheduler: The scheduler.
        options: See `relay_client.integrations.job.JobOptions`.

    Returns:
        What reports on them.

    Raises:
        ValueError: An option, or the environment, cannot be right.
    """
    jobs = _installed[scheduler] = JobReporter(options)
    for name in _EXECUTORS:
        try:
            module: Any = import_module(f"apscheduler.executors.{name}")
        except ImportError:  # its library is not installed
            continue
        if hasattr(module, "run_job"):
            module.run_job = run_job
        if _run_coroutine_job is not None and hasattr(module, "run_coroutine_job"):
            module.run_coroutine_job = run_coroutine_job
    return jobs


def run_job(job: Any, jobstore_alias: str, run_times: list[datetime], logger_name: str) -> Any:
    """Run a job as APScheduler does, and report each run."""
    jobs = _jobs_of(job)
    if jobs is None:
        return _run_job(job, jobstore_alias, run_times, logger_name)
    result = []
    for run_time in run_times:
        described = _begin(jobs, job, run_time)
        happened = _run_job(job, jobstore_alias, [run_time], logger_name)
        _end(jobs, described, happened)
        result += happened
    return result


async def run_coroutine_job(job: Any, jobstore_alias: str, run_times: list[datetime], logger_name: str) -> Any:
    """Run a job that is a coroutine, as APScheduler does, and report each run."""
    assert _run_coroutine_job is not None
    jobs = _jobs_of(job)
    if jobs is None:
        return await _run_coroutine_job(job, jobstore_alias, run_times, logger_name)
    result = []
    for run_time in run_times:
        described = _begin(jobs, job, run_time)
        happened = await _run_coroutine_job(job, jobstore_alias, [run_time], logger_name)
        _end(jobs, described, happened)
        result += happened
    return result


def _jobs_of(job: Any) -> JobReporter | None:
    scheduler = getattr(job, "_scheduler", None)
    return None if scheduler is None else _installed.get(scheduler)


def _begin(jobs: JobReporter, job: Any, run_time: datetime) -> Job:
    function = job.func
    described = Job(
        f"{job.id}@{run_time.isoformat()}",
        job.name if job.name != getattr(function, "__name__", "") else f"{function.__module__}.{job.name}",
        lambda: named(function, job.args, job.kwargs),
    )
    jobs.started(described)
    return described


@never_raises
def _end(jobs: JobReporter, described: Job, happened: list[Any]) -> None:
    jobs.leave()
    if not jobs.is_running(described.id):
        return
    event = happened[0]
    if event.code == events.EVENT_JOB_EXECUTED:
        jobs.succeeded(described.id)
    elif event.code == events.EVENT_JOB_MISSED:
        jobs.cancelled(described.id, "missed: it could not be begun in time")
    else:
        jobs.failed(described.id, event.exception)
