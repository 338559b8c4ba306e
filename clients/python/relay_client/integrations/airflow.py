"""Airflow: every run of a task, and of a DAG, as a task of the relay. In a file of Airflow's folder `plugins`:

from relay_client.integrations.airflow import RelayPlugin

Or, with options: ``RelayPlugin = make_plugin(title=...)``.
"""

from typing import Any, Unpack

from relay_client.integrations.job import Job, JobOptions
from relay_client.integrations.job_reporter import JobReporter, never_raises
from relay_client.integrations.missing import missing

try:
    from airflow.listeners import hookimpl
    from airflow.plugins_manager import AirflowPlugin
except ModuleNotFoundError as error:
    raise missing("Airflow 3.0 or newer", "airflow") from error


class RelayListener:
    """Reports what Airflow passes to its listeners: tasks in the processes that run them, DAGs in the scheduler's."""

    def __init__(self, **options: Unpack[JobOptions]) -> None:
        """Make a listener. Raises ValueError if an option, or the environment, cannot be right.

        Args:
            options: See `relay_client.integrations.job.JobOptions`. Tasks have the arguments ``dag_id``, ``run_id`` and the
                parameters of the DAG's run.
        """
        self.jobs = JobReporter(options)

    @hookimpl
    def on_task_instance_running(self, task_instance: Any) -> None:
        """A task begins, in this process."""
        self._begin(task_instance)

    @never_raises
    def _begin(self, task_instance: Any) -> None:
        job = _task_job(task_instance)
        if self.jobs.mapping.is_selected(job):
            self.jobs.started(job)

    @hookimpl
    def on_task_instance_success(self, task_instance: Any) -> None:
        """A task has ended well."""
        self._end(task_instance)

    @hookimpl
    def on_task_instance_failed(self, task_instance: Any, error: Any) -> None:
        """An attempt of a task has failed."""
        self._fail(task_instance, error)

    @hookimpl
    def on_task_instance_skipped(self, task_instance: Any) -> None:
        """A task has skipped itself."""
        self._skip(task_instance)

    @never_raises
    def _end(self, task_instance: Any) -> None:
        job = _task_job(task_instance)
        if self.jobs.is_running(job.id):
            self.jobs.leave()
            self.jobs.succeeded(job.id)
            self.jobs.flush()  # the process ends without its exit handlers

    @never_raises
    def _fail(self, task_instance: Any, error: Any) -> None:
        job = _task_job(task_instance)
        if not self.jobs.is_running(job.id):
            return
        self.jobs.leave()
        if str(getattr(task_instance, "state", "")).endswith("up_for_retry") or job.attempt < (job.max_attempts or 1):
            self.jobs.retrying(job, error)
        else:
            self.jobs.failed(job.id, error or "failed")
        self.jobs.flush()

    @never_raises
    def _skip(self, task_instance: Any) -> None:
        job = _task_job(task_instance)
        if self.jobs.is_running(job.id):
            self.jobs.leave()
            self.jobs.cancelled(job.id, "skipped")
            self.jobs.flush()

    @hookimpl
    def on_dag_run_running(self, dag_run: Any) -> None:
        """A DAG's run begins, which the scheduler says."""
        self._begin_dag(dag_run)

    @never_raises
    def _begin_dag(self, dag_run: Any) -> None:
        job = _dag_job(dag_run)
        if self.jobs.mapping.is_selected(job):
            self.jobs.started(job, watched=False)
            self.jobs.leave()

    @hookimpl
    def on_dag_run_success(self, dag_run: Any) -> None:
        """A DAG's run has ended well."""
        self.jobs.succeeded(_dag_job(dag_run).id)

    @hookimpl
    def on_dag_run_failed(self, dag_run: Any, msg: str) -> None:
        """A DAG's run has failed."""
        self.jobs.failed(_dag_job(dag_run).id, msg or "failed")


def _run_id(dag_id: str, run_id: str) -> str:
    return f"{dag_id}/{run_id}"


def _task_job(task_instance: Any) -> Job:
    run = _run_id(task_instance.dag_id, task_instance.run_id)
    part = "" if task_instance.map_index < 0 else f"/{task_instance.map_index}"
    facts = {"dag_id": task_instance.dag_id, "run_id": task_instance.run_id}
    task = getattr(task_instance, "task", None)
    total = getattr(task_instance, "max_tries", None)
    conf = getattr(getattr(task_instance, "_ti_context_from_server", None), "dag_run", None)
    return Job(
        f"{run}/{task_instance.task_id}{part}",
        f"{task_instance.dag_id}.{task_instance.task_id}",
        lambda: {**(getattr(conf, "conf", None) or {}), **facts},
        queue=getattr(task, "queue", None) or "",
        attempt=max(1, task_instance.try_number),
        max_attempts=None if total is None else total + 1,
        parent_id=run,
    )


def _dag_job(dag_run: Any) -> Job:
    facts = {"dag_id": dag_run.dag_id, "run_id": dag_run.run_id}
    return Job(_run_id(dag_run.dag_id, dag_run.run_id), dag_run.dag_id, lambda: {**(dag_run.conf or {}), **facts})


def make_plugin(**options: Unpack[JobOptions]) -> type[AirflowPlugin]:
    """Return a plugin with options, for a file of Airflow's folder `plugins`.

    Args:
        options: See `relay_client.integrations.job.JobOptions`.

    Raises:
        ValueError: An option, or the environment, cannot be right.
    """
    return type("RelayPlugin", (AirflowPlugin,), {"name": "relay", "listeners": [RelayListener(**options)]})


class RelayPlugin(AirflowPlugin):
    """The plugin without options."""

    name = "relay"
    listeners = [RelayListener()]  # noqa: RUF012 - Airflow's own form
