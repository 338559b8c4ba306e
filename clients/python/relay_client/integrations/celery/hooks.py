"""Celery's signals as reports.

producer   before_task_publish, after_task_publish
pool       task_prerun, update_state, task_success, task_failure, task_retry, task_postrun
main       task_revoked; and by the worker's requests: hard time limit, lost child (`.request`)
"""

from collections.abc import Mapping, Sequence
from functools import wraps
from typing import Any
from weakref import WeakKeyDictionary

from celery import Celery, signals, states
from celery import Task as CeleryTask
from celery.exceptions import Reject, TimeLimitExceeded

from relay_client.integrations.job import Job, named
from relay_client.integrations.job_reporter import JobReporter, never_raises
from relay_client.integrations.progress_fields import progress_fields

#: Header of messages whose tasks were announced by the process that sent them.
ANNOUNCED = "relay_announced"

#: Seconds from one look for children that have died to the next.
LOOK_SECONDS = 0.5

#: The hooks of each app in which they are installed.
_installed: "WeakKeyDictionary[Celery, CeleryHooks]" = WeakKeyDictionary()


def hooks_of(app: Celery) -> "CeleryHooks | None":
    """Return the hooks that are installed in an app."""
    return _installed.get(app)


class CeleryHooks:
    """Receives the signals of one app.

    Attributes:
        app: The app.
        jobs: Reports on its tasks.
    """

    def __init__(self, app: Celery, jobs: JobReporter) -> None:
        """Make hooks that are not connected. Raises RuntimeError if the app has some."""
        if app in _installed:
            raise RuntimeError("the relay's integration is installed in this Celery app already")
        self.app = app
        self.jobs = jobs
        self._replaced: set[str] = set()

    def connect(self) -> None:
        """Receive signals from now on."""
        _installed[self.app] = self
        for signal, receiver in (
            (signals.before_task_publish, self._before_publish),
            (signals.after_task_publish, self._after_publish),
            (signals.task_prerun, self._on_prerun),
            (signals.task_success, self._on_success),
            (signals.task_retry, self._on_retry),
            (signals.task_failure, self._on_failure),
            (signals.task_postrun, self._on_postrun),
            (signals.task_revoked, self._on_revoked),
            (signals.task_received, self._on_received),
            (signals.worker_process_shutdown, self._on_process_end),
            (signals.worker_shutdown, self._on_process_end),
        ):
            signal.connect(receiver, weak=False)
        signals.worker_init.connect(_use_reporting_requests, weak=False)
        signals.worker_ready.connect(look_for_dead_children, weak=False)
        _report_state_updates()

    def job_of(self, task: CeleryTask, request: Any, args: Any = None, kwargs: Any = None) -> Job:
        """Return the job that a request is.

        Args:
            task: The task.
            request: A request, or its context.
            args: Its arguments, where the request has none.
            kwargs: The same by name.
        """
        context = getattr(request, "_context", request)
        args = context.args if args is None else args
        kwargs = context.kwargs if kwargs is None else kwargs
        headers = {name: getattr(context, name, None) for name in ("id", "root_id", "parent_id", "group")}
        retries, most = context.retries or 0, task.max_retries
        return Job(
            context.id,
            task.name,
            lambda: named(task.run, args, kwargs),
            queue=(context.delivery_info or {}).get("routing_key") or "",
            attempt=retries + 1,
            max_attempts=None if most is None else most + 1,
            worker=context.hostname or "",
            parent_id=_parent_id(headers),
            is_announced=bool(getattr(context, ANNOUNCED, False)),
        )

    def is_reported(self, job: Job) -> bool:
        """Return whether a job is reported that does not run in this process."""
        return job.is_announced or self.jobs.mapping.is_selected(job)

    def _is_ours(self, task: Any) -> bool:
        return getattr(task, "app", None) is self.app

    # In the process that sends a task

    def _is_sent_by_us(self, name: str) -> bool:
        return len(_installed) == 1 or name in self.app.tasks

    @never_raises
    def _before_publish(self, sender: str, headers: dict[str, Any], body: Any, **_: Any) -> None:
        if not self._is_sent_by_us(sender):
            return
        job = self._sent_job(sender, headers, body)
        if self.jobs.is_running(job.id):
            if job.attempt == 1:
                self._replaced.add(job.id)
            headers[ANNOUNCED] = True
        elif self.jobs.mapping.is_selected(job):
            headers[ANNOUNCED] = True

    @never_raises
    def _after_publish(self, sender: str, headers: dict[str, Any], body: Any, routing_key: str, **_: Any) -> None:
        # After, not before: a task whose message no broker has taken does not wait.
        if self._is_sent_by_us(sender) and headers.get(ANNOUNCED):
            job = self._sent_job(sender, headers, body, routing_key)
            if job.attempt == 1 and not self.jobs.is_running(job.id):
                self.jobs.enqueued(job)

    def _sent_job(self, name: str, headers: Mapping[str, Any], body: Any, queue: str = "") -> Job:
        facts = headers if "id" in headers else body  # of protocol 1
        args, kwargs = (body[0], body[1]) if isinstance(body, Sequence) else (body.get("args"), body.get("kwargs"))
        task = self.app.tasks.get(name)
        run = None if task is None else task.run
        return Job(
            facts["id"],
            name,
            lambda: named(run, args, kwargs),
            queue=queue,
            attempt=(facts.get("retries") or 0) + 1,
            parent_id=_parent_id(facts),
        )

    # In the process that runs a task

    @never_raises
    def _on_prerun(self, task: CeleryTask, args: Any, kwargs: Any, **_: Any) -> None:
        if self._is_ours(task):
            # The main process receives requests to cancel it, see `.request`.
            self.jobs.started(self.job_of(task, task.request, args, kwargs), watched=False)

    @never_raises
    def _on_success(self, sender: CeleryTask, **_: Any) -> None:
        if self._is_ours(sender) and self.jobs.is_running(sender.request.id):
            self.jobs.succeeded(sender.request.id)

    @never_raises
    def _on_retry(self, sender: CeleryTask, request: Any, reason: Any, **_: Any) -> None:
        if self._is_ours(sender):
            job = self.job_of(sender, request)  # not what runs here: that may be the next attempt already
            if self.jobs.is_running(job.id) or self.is_reported(job):
                when = reason.when if isinstance(reason.when, int | float) else None
                self.jobs.retrying(job, reason.exc, when)

    @never_raises
    def _on_failure(self, sender: CeleryTask, task_id: str, exception: Any, args: Any, kwargs: Any, **_: Any) -> None:
        """In the pool, or in the main process for a child that could not say it."""
        if not self._is_ours(sender) or isinstance(exception, TimeLimitExceeded):
            return  # a time limit is reported by the request, in all versions
        if self.jobs.is_running(task_id) or self.is_reported(self._job_in_main(sender, task_id, args, kwargs)):
            self.jobs.failed(task_id, exception)

    def _job_in_main(self, task: CeleryTask, task_id: str, args: Any, kwargs: Any) -> Job:
        context = task.request
        is_announced = context.id == task_id and bool(getattr(context, ANNOUNCED, False))
        return Job(task_id, task.name, lambda: named(task.run, args, kwargs), is_announced=is_announced)

    @never_raises
    def _on_postrun(self, task_id: str, task: CeleryTask, state: str, retval: Any, **_: Any) -> None:
        if not self._is_ours(task):
            return
        self.jobs.leave()
        is_replaced = task_id in self._replaced
        self._replaced.discard(task_id)
        if not self.jobs.runs(self.job_of(task, task.request)):
            return  # it was reported; the next attempt may run here already
        if state == states.REJECTED and not (isinstance(retval, Reject) and retval.requeue):
            self.jobs.failed(task_id, f"rejected: {retval}")
        elif state == states.IGNORED and not is_replaced:
            self.jobs.succeeded(task_id)
        else:
            self.jobs.handed_over(task_id)

    # In the worker's main process

    @never_raises
    def _on_received(self, request: Any, **_: Any) -> None:
        if request.app is self.app and self.is_reported(self.job_of(request.task, request)):
            self.jobs.watch(request.id, lambda _: self._revoke(request))

    def _revoke(self, request: Any) -> None:
        self.app.control.revoke(request.id, terminate=True, destination=[request.hostname])

    @never_raises
    def _on_revoked(self, sender: CeleryTask, request: Any, expired: bool, **_: Any) -> None:
        if self._is_ours(sender) and self.is_reported(self.job_of(sender, request)):
            self.jobs.unwatch(request.id)
            self.jobs.cancelled(request.id, "expired" if expired else None)

    def _on_process_end(self, **_: Any) -> None:
        self.jobs.flush()


def _parent_id(facts: Mapping[str, Any]) -> str | None:
    """Return the id of what a task is a part of.

    That is the first task of its chain, or the one that has sent it; and for a member of a group or a chord the group, which is
    no task itself.
    """
    root = facts.get("root_id")
    return facts.get("group") if root == facts.get("id") else root


def _use_reporting_requests(**_: Any) -> None:
    """Have a worker report what only its main process gets to know."""
    CeleryTask.Request = "relay_client.integrations.celery.request:ReportingRequest"


@never_raises
def look_for_dead_children(sender: Any, **_: Any) -> None:
    """Have a prefork worker look often for children that have died, and replace them, as it does by itself every 5 s.

    It is woken when the files of a child are closed. At times that is before the child can be waited for, and then it would
    notice only by that timer.
    """
    hub, maintain_pool = getattr(sender, "hub", None), getattr(sender.pool, "maintain_pool", None)
    if hub is not None and maintain_pool is not None:
        hub.call_repeatedly(LOOK_SECONDS, maintain_pool)


def _report_state_updates() -> None:
    """Have ``update_state`` report the progress, also for libraries that call it, such as celery-progress."""
    update_state = CeleryTask.update_state
    if hasattr(update_state, "_is_reporting"):
        return

    @wraps(update_state)
    def reporting(
        self: CeleryTask, task_id: str | None = None, state: str | None = None, meta: Any = None, **kw: Any
    ) -> Any:
        hooks = _installed.get(self.app)
        if hooks is not None and state not in states.ALL_STATES:
            hooks.jobs.progress(task_id or self.request.id, **progress_fields(meta))
        return update_state(self, task_id=task_id, state=state, meta=meta, **kw)

    reporting._is_reporting = True  # type: ignore[attr-defined]
    CeleryTask.update_state = reporting
