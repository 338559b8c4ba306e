"""Celery's event stream as reports: for apps in which nothing is installed, as Flower does it.

    task-sent, task-received          waits             (task-sent only where task_send_sent_event is on)
    task-started                      runs
    task-succeeded, -failed, ...      has ended
    worker-heartbeat, -offline        the worker of what runs is there, or not

Nothing is known of progress: tasks that report it do so themselves.
"""

import logging
from collections import OrderedDict
from collections.abc import Mapping
from time import monotonic, sleep
from typing import Any

from relay_client.backoff import full_jitter
from relay_client.integrations.job import Job, JobOptions
from relay_client.integrations.job_reporter import JobReporter, never_raises
from relay_client.integrations.missing import missing

try:
    from celery import Celery
    from celery.events import EventReceiver
except ModuleNotFoundError as error:
    raise missing("Celery 5.4 or newer", "celery") from error

_log = logging.getLogger("relay_client")

#: Tasks that wait or run, of which the name is kept.
_MAX_KNOWN = 20_000

#: A worker that has sent nothing for so many seconds, which sends a heartbeat every 2 s, is taken for lost.
_SILENT_SECONDS = 60.0

#: Seconds between two looks for silent workers.
_CHECK_SECONDS = 5.0

#: Seconds between two tries to reach the broker: at first, and at most.
_BASE_DELAY, _MAX_DELAY = 0.1, 5.0


class EventReporter:
    """Reports on the tasks in an event stream."""

    def __init__(self, app: Celery, jobs: JobReporter) -> None:
        """Make it without tasks; app: reaches the broker."""
        self._app = app
        self._jobs = jobs
        self._known: OrderedDict[str, Job] = OrderedDict()
        self._workers: dict[str, float] = {}  # when each last sent an event
        self._running: dict[str, set[str]] = {}  # by worker
        self._next_check = 0.0

    @never_raises
    def on_event(self, event: Mapping[str, Any]) -> None:
        """Report what an event says."""
        kind, hostname = event["type"], event.get("hostname", "")
        if kind == "worker-offline":
            self._on_lost_worker(hostname, "its worker has ended")
        elif kind.startswith("worker-") or kind in ("task-received", "task-started"):
            self._workers[hostname] = monotonic()
        if kind.startswith("task-"):
            self._on_task(kind, event, self._job(event))

    def _job(self, event: Mapping[str, Any]) -> Job:
        """Return the task of an event: its first ones have its name, all others only its id."""
        task_id = event["uuid"]
        known = self._known.get(task_id)
        root = event.get("root_id")
        if known is None or event.get("name"):
            known = Job(
                task_id,
                event.get("name") or (known.name if known else "task"),
                queue=event.get("queue") or (known.queue if known else ""),
                attempt=(event.get("retries") or 0) + 1,
                parent_id=None if root == task_id else root,
                is_announced=known is not None,
            )
        self._known[task_id] = known
        self._known.move_to_end(task_id)
        if len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)
        return known

    def _on_task(self, kind: str, event: Mapping[str, Any], job: Job) -> None:
        match kind:
            case "task-sent" | "task-received":
                if not job.is_announced and job.attempt == 1:
                    self._jobs.enqueued(job)
                self._known[job.id] = job._replace(is_announced=True)
            case "task-started":
                self._begin(job, event["hostname"])
            case "task-succeeded":
                self._jobs.succeeded(job.id)
            case "task-failed":
                self._jobs.failed(job.id, _error(event))
            case "task-retried":
                self._jobs.retrying(job, str(event.get("exception") or ""))
            case "task-revoked":
                self._jobs.cancelled(job.id, "expired" if event.get("expired") else None)
            case "task-rejected":
                self._jobs.handed_over(job.id)
            case _:
                return
        if kind in ("task-succeeded", "task-failed", "task-revoked"):
            self._forget(job.id)

    def _begin(self, job: Job, hostname: str) -> None:
        def revoke(_: str) -> None:
            self._app.control.revoke(job.id, terminate=True)

        self._jobs.started(job._replace(worker=hostname), revoke)
        self._jobs.leave()  # it does not run here
        self._running.setdefault(hostname, set()).add(job.id)

    def _forget(self, job_id: str) -> None:
        self._known.pop(job_id, None)
        for running in self._running.values():
            running.discard(job_id)

    def _on_lost_worker(self, hostname: str, message: str) -> None:
        self._workers.pop(hostname, None)
        for job_id in self._running.pop(hostname, set()):
            self._jobs.handed_over(job_id, message)

    def check_workers(self) -> None:
        """Have workers send events that do not, and end the heartbeats of tasks whose worker is silent.

        The relay then shows these as stalled.
        """
        now = monotonic()
        if now < self._next_check:
            return
        self._next_check = now + _CHECK_SECONDS
        self._app.control.enable_events()  # a worker that has begun meanwhile, without -E
        for hostname in [each for each, last in self._workers.items() if now - last > _SILENT_SECONDS]:
            self._on_lost_worker(hostname, "its worker is silent")


def _error(event: Mapping[str, Any]) -> str:
    """Return why a task has failed."""
    text = str(event.get("exception") or "failed")
    if text.startswith("ExceptionWithTraceback("):  # of a child that was lost; the traceback ends in the error itself
        lines = [line for line in str(event.get("traceback") or "").splitlines() if line and line[0].isalpha()]
        return lines[-1] if lines else "WorkerLostError"
    return text


def report_events(broker: str, options: JobOptions) -> None:
    """Report on all tasks of a broker until interrupted; it always reconnects.

    Args:
        broker: URL of Celery's broker.
        options: What of the tasks is reported. Events have no arguments: functions of these get none.

    Raises:
        ValueError: An option, or the environment, cannot be right.
        KeyboardInterrupt: It was interrupted.
    """
    app = Celery(broker=broker)
    app.conf.update(broker_connection_retry_on_startup=True, broker_transport_options={"socket_timeout": 10})
    jobs = JobReporter(options)
    reporter = EventReporter(app, jobs)
    failures = 0
    try:
        while True:
            try:
                with app.connection_for_read() as connection:
                    connection.ensure_connection(max_retries=1, timeout=10)
                    failures = 0
                    _capture(app, connection, reporter)
            except (OSError, *app.connection_for_read().recoverable_connection_errors) as error:
                if not failures:
                    _log.warning("Celery's broker cannot be reached, tried again: %s", error)
                failures += 1
                sleep(full_jitter(failures, _BASE_DELAY, _MAX_DELAY))
    finally:
        jobs.flush()


class _Receiver(EventReceiver):
    """Receives events, and looks after the workers about once a second."""

    def __init__(self, connection: Any, app: Celery, reporter: EventReporter) -> None:
        super().__init__(connection, handlers={"*": reporter.on_event}, app=app)
        self._reporter = reporter

    def on_iteration(self) -> None:
        self._reporter.check_workers()


def _capture(app: Celery, connection: Any, reporter: EventReporter) -> None:
    _Receiver(connection, app, reporter).capture(limit=None, timeout=None, wakeup=True)
