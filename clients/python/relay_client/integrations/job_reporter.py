"""What happens to a job, as its integration reports it: the part that all integrations share.

    producer        enqueued
    worker          started -> progress ... -> succeeded | failed | cancelled | retrying
    worker's main   lost: its child did not live to say what happened
    process

Nothing here waits for Redis, and nothing raises into the queue's own code.
"""

import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping
from functools import lru_cache, partial, wraps
from time import time
from typing import Any, ParamSpec
from weakref import WeakSet

from relay_wire.statuses import CANCELLED, FAILED, IN_PROGRESS, PENDING

from relay_client.cancellation.threads import CancelListener
from relay_client.cancellation.watches import Watch
from relay_client.integrations.job import NOTHING_GIVEN, Given, Job, JobMapping, JobOptions, described
from relay_client.progress.background import BackgroundReporter
from relay_client.progress.background_task import BackgroundTask, Opening
from relay_client.progress.current import clear_current, set_current
from relay_client.progress.outcome import error_text, outcome
from relay_client.progress.values import utc_iso

_log = logging.getLogger("relay_client")

_P = ParamSpec("_P")

#: Stops a job; of the reason.
Stop = Callable[[str], None]


def never_raises(function: Callable[_P, None]) -> Callable[_P, None]:
    """Decorate a hook of a queue: an error in it is logged, and does not reach the queue."""

    @wraps(function)
    def hook(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except Exception:  # noqa: BLE001 - reporting must not break a job
            _log.exception("a job is not reported to the relay as it should be")

    return hook


def step(attempt: int) -> str:
    """Return the name of the step that an attempt is; see `relay_client.progress.background_task`."""
    return f"attempt:{attempt}"


class JobReporter:
    """Reports on the jobs of one queue, from all of its processes.

    Attributes:
        reporter: By which it reports.
        mapping: Makes owners, titles and fields.
    """

    def __init__(self, options: JobOptions, reporter: BackgroundReporter | None = None) -> None:
        """Make a reporter, which does not connect yet.

        Args:
            options: What the application wants.
            reporter: By which it reports; by default one of its own.

        Raises:
            ValueError: An option, or the environment, cannot be right.
        """
        exit_timeout = options.get("exit_timeout", 3.0)
        self.reporter = reporter or BackgroundReporter(options.get("publisher"), exit_timeout=exit_timeout)
        self.mapping = JobMapping(options)
        self._running: dict[str, BackgroundTask] = {}
        self._attempts: dict[str, Job] = {}
        self._is_cancellable = options.get("cancellable", True)
        self._listener = CancelListener(self.reporter.publisher.target)
        self._watched: dict[str, object] = {}
        self._watches: dict[str, Watch] = {}  # the sender's thread's: to wake the listener's takes longer than a report
        _job_reporters.add(self)

    def forget_running(self) -> None:
        """In a forked child: what runs is the parent's."""
        self._running, self._attempts = {}, {}
        self._watched, self._watches = {}, {}

    def is_running(self, job_id: str) -> bool:
        """Return whether a job that is reported runs in this process."""
        return job_id in self._running

    def enqueued(self, job: Job) -> bool:
        """Report that a job waits; return whether it is reported. The worker is to know that: ``Job.is_announced``."""
        try:
            if not self.mapping.is_selected(job):
                return False
            given, now = self.mapping.given(job), time()
            return self.reporter.report(job.id, opening=partial(_waiting, job, given, now))
        except Exception:  # noqa: BLE001 - reporting must not keep a job from being enqueued
            _log.exception("job %s is not reported to the relay", job.id)
            return False

    @never_raises
    def started(self, job: Job, stop: Stop | None = None, *, watched: bool = True) -> None:
        """Report that a job runs in this process, and make its task the current one of this context.

        Args:
            job: The job.
            stop: Stops it, when its cancellation is requested. Where there is nothing the job ends at its next report.
            watched: Whether requests for its cancellation are received here. Else another process does, by `watch`.
        """
        if not job.is_announced and not self.mapping.is_selected(job):
            return
        given, now = self.mapping.given(job), time()
        # The attempt before may not be over: its retry was sent, and taken up here, while it waited for the broker's answer.
        if job.id in self._running:
            self.handed_over(job.id)
        fields = partial(_started, job, given, now, is_cancellable=self._is_cancellable)
        # What the application gives may change, and so is copied at once. All else is made where nobody waits for it.
        first = fields if given is NOTHING_GIVEN else fields()
        watch = self._watch(job.id, stop) if watched and self._is_cancellable else None
        task = self.reporter.begin(job.id, first, partial(_opening, job, given, now), watch)
        if task is not None:
            self._running[job.id] = task
            self._attempts[job.id] = job
            set_current(task)
        elif watch is not None:
            del self._watched[job.id]

    @never_raises
    def watch(self, job_id: str, stop: Stop | None = None) -> None:
        """Receive requests to cancel a job, until it has ended here or `unwatch` is called.

        Args:
            job_id: The job. If it runs in this process, it is ended at its next report as well.
            stop: Called with the reason, in a thread of its own; it may wait for the broker.
        """
        if self._is_cancellable:
            self.reporter.run_soon(self._watch(job_id, stop))

    def _watch(self, job_id: str, stop: Stop | None) -> Callable[[], None]:
        """Return a function that opens the watch, in the sender's thread."""
        token = self._watched[job_id] = object()
        return partial(self._open_watch, job_id, stop, token)

    @never_raises
    def _open_watch(self, job_id: str, stop: Stop | None, token: object) -> None:
        def on_cancel(reason: str) -> None:
            if self._watched.get(job_id) is not token:
                return  # it has ended, and what would be stopped is another job
            task = self._running.get(job_id)
            if task is not None:
                task.request_cancel(reason or "cancelled")
            if stop is not None:
                threading.Thread(target=never_raises(stop), args=(reason,), name="relay-stop", daemon=True).start()

        self._close_watch(job_id)
        self._watches[job_id] = self._listener.watch(job_id, on_cancel)

    def unwatch(self, job_id: str) -> None:
        """Receive requests to cancel a job no longer."""
        if self._watched.pop(job_id, None) is not None:
            self.reporter.run_soon(partial(self._close_watch, job_id))

    @never_raises
    def _close_watch(self, job_id: str) -> None:
        watch = self._watches.pop(job_id, None)
        if watch is not None:
            watch.close()

    @never_raises
    def progress(self, job_id: str, progress: float | None = None, message: str | None = None, **fields: Any) -> None:
        """Report the progress of a job that runs in this process; of any other, nothing."""
        task = self._running.get(job_id)
        if task is not None and not task.cancelled:
            task.progress(progress, message, **fields)

    @never_raises
    def note(self, job_id: str, message: str) -> None:
        """Report a message on a job that runs elsewhere, or nowhere just now. Its status stays."""
        self.reporter.report(job_id, {"message": message})

    def succeeded(self, job_id: str) -> None:
        """Report that a job has ended well."""
        self._end(job_id, *outcome(None))

    def failed(self, job_id: str, error: BaseException | str) -> None:
        """Report that a job has failed, and is not tried again; or that it was cancelled, if the error says so."""
        if isinstance(error, str):
            self._end(job_id, FAILED, {"error": error})
        else:
            self._end(job_id, *outcome(error))

    def cancelled(self, job_id: str, message: str | None = None) -> None:
        """Report that a job was cancelled: while it ran, or before."""
        self._end(job_id, CANCELLED, {} if message is None else {"message": message})

    @never_raises
    def retrying(self, job: Job, error: BaseException | str | None, seconds: float | None = None) -> None:
        """Report that a job waits for another attempt.

        Args:
            job: The job, with the attempt that has failed.
            error: Why it has.
            seconds: When the next attempt begins.
        """
        total = "" if job.max_attempts is None else f" of {job.max_attempts}"
        when = "" if seconds is None else f" in {seconds:.1f} s"
        reason = error if isinstance(error, str) else "" if error is None else error_text(error)
        message = (
            f"Attempt {job.attempt}{total} failed, the next is{when or ' to come'}{f': {reason}' if reason else ''}"
        )
        self.requeued(job, message)

    @never_raises
    def requeued(self, job: Job, message: str) -> None:
        """Report that a job waits again, for the attempt after this one."""
        fields = {"status": PENDING, "message": message}
        task = self._taken(job.id) if self.runs(job) else None
        if task is None:
            self.reporter.report(job.id, fields, key=step(job.attempt + 1))
        else:
            self.reporter.release(task, fields, key=step(job.attempt + 1), is_final=False)

    @never_raises
    def handed_over(self, job_id: str, message: str | None = None) -> None:
        """Report nothing more of a job that runs in this process: something else goes on with it."""
        task = self._taken(job_id)
        if task is not None:
            self.reporter.release(task, {} if message is None else {"message": message}, is_final=False)

    def job(self, job_id: str) -> Job | None:
        """Return a job that runs in this process, as it was started."""
        return self._attempts.get(job_id)

    def runs(self, job: Job) -> bool:
        """Return whether this attempt of a job runs in this process. The next one may have begun before it is over."""
        running = self._attempts.get(job.id)
        return running is not None and running.attempt == job.attempt

    def task(self, job_id: str) -> BackgroundTask | None:
        """Return the task of a job that runs in this process."""
        return self._running.get(job_id)

    @never_raises
    def _end(self, job_id: str, status: str, fields: Mapping[str, Any]) -> None:
        task, last = self._taken(job_id), partial(_ended, status, fields, time())
        if task is None:
            self.reporter.report(job_id, last, is_final=True)
        else:
            self.reporter.release(task, last)

    def _taken(self, job_id: str) -> BackgroundTask | None:
        self.unwatch(job_id)
        self._attempts.pop(job_id, None)
        return self._running.pop(job_id, None)

    def leave(self) -> None:
        """Have no current task in this context any more: the job's code is over."""
        clear_current()

    @never_raises
    def flush(self) -> None:
        """Wait until all that was reported has arrived, for ``exit_timeout`` seconds at most: before a process ends."""
        self.reporter.flush()


# What is published of a job: made in the sender's thread.


def _waiting(job: Job, given: Given, now: float) -> Opening:
    return Opening(step(job.attempt), _announcement(job, given, now), options=given.options)


def _opening(job: Job, given: Given, now: float) -> Opening:
    is_new = not job.is_announced and job.attempt == 1
    announcement = _announcement(job, given, now) if is_new else None
    return Opening(step(job.attempt), announcement, {"attempt": job.attempt}, given.options)


def _announcement(job: Job, given: Given, now: float) -> dict[str, Any]:
    return {**described(job, given), "status": PENDING, "created_at": utc_iso(now)}


def _started(job: Job, given: Given, now: float, *, is_cancellable: bool) -> dict[str, Any]:
    fields = {**described(job, given), "status": IN_PROGRESS, "started_at": utc_iso(now)}
    fields["worker"] = job.worker or default_worker()
    if is_cancellable:
        fields["cancellable"] = True
    if job.attempt > 1:
        fields |= {"attempt": job.attempt, "progress": 0, "message": None}
    return fields


def _ended(status: str, fields: Mapping[str, Any], now: float) -> dict[str, Any]:
    return {**fields, "completed_at": utc_iso(now), "status": status}


def default_worker() -> str:
    """Return a name for this process as the one that works on a job."""
    return _worker_name(os.getpid())


@lru_cache(maxsize=1)
def _worker_name(pid: int) -> str:
    return f"{socket.gethostname()}:{pid}"


_job_reporters: "WeakSet[JobReporter]" = WeakSet()


def _forget_running() -> None:
    for reporter in tuple(_job_reporters):
        reporter.forget_running()


os.register_at_fork(after_in_child=_forget_running)
