"""Prefect 3: every run of a flow or a task as a task of the relay.

from relay_client.integrations.prefect import install

install()

Call it in the module that defines the flows. A task's run has its flow's run as parent.
"""

from collections.abc import Callable
from typing import Any

from relay_client.integrations.job import Job
from relay_client.integrations.job_reporter import JobReporter, never_raises
from relay_client.integrations.missing import missing
from relay_client.integrations.patching import wrap_method
from relay_client.integrations.whole_process import installed_once
from relay_client.progress.current import current_task, set_current
from relay_client.progress.task import Task

try:
    from prefect import flow_engine, task_engine
except ModuleNotFoundError as error:
    raise missing("Prefect 3.2 or newer", "prefect") from error

_Method = Callable[..., Any]


@installed_once
def install(jobs: JobReporter) -> None:
    """Have the runs of this process reported; see `relay_client.integrations.whole_process.Install`."""
    states = _States(jobs)
    wrap_method(flow_engine.FlowRunEngine, "set_state", states.setting)
    if hasattr(flow_engine, "AsyncFlowRunEngine"):  # older ones have one engine for both kinds of flows
        wrap_method(flow_engine.AsyncFlowRunEngine, "set_state", states.setting_async)
    wrap_method(task_engine.SyncTaskRunEngine, "set_state", states.setting)
    wrap_method(task_engine.AsyncTaskRunEngine, "set_state", states.setting_async)


class _States:
    """Receives the states of runs, in the context that runs them."""

    def __init__(self, jobs: JobReporter) -> None:
        self._jobs = jobs
        self._outer: dict[str, Task] = {}  # the current task before a run began
        self._failed: dict[str, int] = {}  # attempts of the runs that are tried again: Prefect counts them elsewhere

    def setting(self, set_state: _Method) -> _Method:
        def reporting(engine: Any, *args: Any, **kwargs: Any) -> Any:
            state = set_state(engine, *args, **kwargs)
            self._report(engine, state)
            return state

        return reporting

    def setting_async(self, set_state: _Method) -> _Method:
        async def reporting(engine: Any, *args: Any, **kwargs: Any) -> Any:
            state = await set_state(engine, *args, **kwargs)
            self._report(engine, state)
            return state

        return reporting

    @never_raises
    def _report(self, engine: Any, state: Any) -> None:
        job = _job(engine)
        job = job._replace(attempt=self._failed.get(job.id, 0) + 1)
        if state.is_running():
            self._begin(job, is_retry=state.name == "Retrying")
            return
        if not self._jobs.is_running(job.id):
            return
        message = state.message or state.name
        if state.is_completed():
            self._jobs.succeeded(job.id)
        elif state.is_cancelled() or (state.is_final() and _reason(message).startswith("TaskCancelled")):
            self._jobs.cancelled(job.id)
        elif state.is_failed() or state.is_crashed():
            error = getattr(engine, "_raised", None)
            self._jobs.failed(job.id, error if isinstance(error, BaseException) else _reason(message))
        elif state.is_scheduled():  # "AwaitingRetry"
            self._jobs.retrying(job, _reason(message))
            self._failed[job.id] = job.attempt
        else:
            return
        if state.is_final():
            self._failed.pop(job.id, None)
        outer = self._outer.pop(job.id, None)
        if outer is not None:
            set_current(outer)

    def _begin(self, job: Job, *, is_retry: bool) -> None:
        if not self._jobs.mapping.is_selected(job):
            return
        if not self._jobs.is_running(job.id):
            self._outer[job.id] = current_task()
            self._jobs.started(job)
        elif is_retry:  # at once: this run does not wait between
            self._jobs.retrying(job, "tried again at once")
            self._failed[job.id] = job.attempt
            self._jobs.started(job._replace(attempt=job.attempt + 1))


def _reason(message: str) -> str:
    """Return the error of a message such as "Flow run encountered an exception: ValueError: broken"."""
    return message.partition("exception: ")[2] or message


def _job(engine: Any) -> Job:
    """Describe a run."""
    run = getattr(engine, "task_run", None)
    if run is None:
        run, function = engine.flow_run, engine.flow
        parent = run.parent_task_run_id
    else:
        function = engine.task
        parent = run.flow_run_id
    parameters = engine.parameters or {}
    return Job(
        str(run.id),
        function.name,
        lambda: dict(parameters),
        max_attempts=function.retries + 1 if function.retries else None,
        parent_id=None if parent is None else str(parent),
    )
