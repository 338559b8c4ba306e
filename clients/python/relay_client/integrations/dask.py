"""Dask: the states of every task of a cluster, as its scheduler sees them.

from relay_client.integrations.dask import install

install(client)

The id of a task is its key. It is shown as running from the moment the scheduler has given it to a worker.
"""

from typing import Any, Unpack

from relay_client.integrations.job import Job, JobOptions
from relay_client.integrations.job_reporter import JobReporter, never_raises
from relay_client.integrations.missing import missing

try:
    from distributed import Client
    from distributed.diagnostics.plugin import SchedulerPlugin
    from distributed.utils import key_split
except ModuleNotFoundError as error:
    raise missing("Dask's distributed 2024.4 or newer", "dask") from error


class RelayPlugin(SchedulerPlugin):  # type: ignore[misc]
    """Reports from the process of the scheduler, which finds Redis by its own environment unless the options say where."""

    name = "relay"
    idempotent = True

    def __init__(self, **options: Unpack[JobOptions]) -> None:
        """Make a plugin, which is sent to the scheduler.

        Args:
            options: See `relay_client.integrations.job.JobOptions`. Tasks have no arguments by name.
        """
        # A task that a worker runs cannot be stopped.
        self._options: JobOptions = {**options, "cancellable": False}
        self._jobs: list[JobReporter] = []
        self._scheduler: Any = None

    async def start(self, scheduler: Any) -> None:
        """Begin to report. Raises ValueError if an option, or the environment, cannot be right."""
        self._scheduler = scheduler
        self._jobs.append(JobReporter(self._options))

    @never_raises
    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Report that a task has another state."""
        jobs, task = self._jobs[0], self._scheduler.tasks.get(key)
        worker = getattr(task, "processing_on", None)
        described = Job(str(key), key_split(key), worker="" if worker is None else worker.address)
        if finish == "processing":
            jobs.started(described, watched=False)
            jobs.leave()
        elif finish == "memory" and jobs.is_running(described.id):
            jobs.succeeded(described.id)
        elif finish == "erred" and (jobs.is_running(described.id) or start == "waiting"):
            jobs.failed(described.id, (task.exception_text if task is not None else "") or "failed")
        elif finish == "waiting" and start == "processing":
            jobs.handed_over(described.id, "its worker is lost, another one goes on")
        elif finish in ("released", "forgotten") and start in ("waiting", "queued", "no-worker", "processing"):
            if jobs.mapping.is_selected(described):
                jobs.cancelled(described.id)
        elif finish == "waiting" and start == "released":
            jobs.enqueued(described)

    async def close(self) -> None:
        """Send what waits: the scheduler ends."""
        self._jobs[0].flush()


def install(client: Client, **options: Unpack[JobOptions]) -> None:
    """Have the tasks of a cluster reported, by its scheduler.

    Args:
        client: A client of the cluster.
        options: See `relay_client.integrations.job.JobOptions`. They are pickled.
    """
    client.register_plugin(RelayPlugin(**options))
