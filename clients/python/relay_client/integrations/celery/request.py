"""The requests of a worker's main process: they report for a child that could not, because it was killed.

They also end the watch for requests to cancel the task, which begins when the worker receives it.
"""

from typing import Any

from billiard.einfo import ExceptionInfo
from billiard.exceptions import WorkerLostError
from celery.worker.request import Request

from relay_client.integrations.celery.hooks import hooks_of
from relay_client.integrations.job_reporter import never_raises


class ReportingRequest(Request):
    """A task in the hands of a worker."""

    def on_success(self, *args: Any, **kwargs: Any) -> Any:
        """Watch it no longer."""
        self._unwatch()
        return super().on_success(*args, **kwargs)

    def on_retry(self, exc_info: ExceptionInfo) -> Any:
        """Watch it no longer."""
        self._unwatch()
        return super().on_retry(exc_info)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Report the hard time limit, after which the child is killed."""
        super().on_timeout(soft, timeout)
        if not soft:
            self._unwatch()
            self._report_failure(f"TimeLimitExceeded: {timeout:g} s")

    def on_failure(self, exc_info: ExceptionInfo, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """Report a child that was lost with its task, which another worker gets again."""
        self._unwatch()
        result = super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)
        is_lost = isinstance(exc_info.exception, WorkerLostError)
        if is_lost and self.task.acks_late and self.task.reject_on_worker_lost:
            self._report_redelivery(str(exc_info.exception))
        return result

    def _unwatch(self) -> None:
        hooks = hooks_of(self.app)
        if hooks is not None:
            hooks.jobs.unwatch(self.id)

    @never_raises
    def _report_failure(self, error: str) -> None:
        hooks = hooks_of(self.app)
        if hooks is not None and hooks.is_reported(hooks.job_of(self.task, self)):
            hooks.jobs.failed(self.id, error)

    @never_raises
    def _report_redelivery(self, error: str) -> None:
        hooks = hooks_of(self.app)
        if hooks is not None and hooks.is_reported(hooks.job_of(self.task, self)):
            # Without a status: the worker that gets it may have begun already.
            hooks.jobs.note(self.id, f"{error} It is delivered again.")
