"""Progress bars as progress of a task: of the current one, or of one that lives as long as the bar.

in a task, the only open bar     its counts are the task's progress
in a task, inside another bar    nothing: the outer one counts
outside of any task              a task of its own, completed when the bar is closed
"""

import logging
from collections.abc import Mapping
from contextvars import ContextVar
from functools import cache
from typing import Any
from uuid import uuid4
from weakref import ReferenceType, ref

from relay_wire.statuses import CANCELLED, IN_PROGRESS, PENDING

from relay_client.integrations.job_reporter import default_worker, never_raises, step
from relay_client.integrations.progress_fields import fraction
from relay_client.progress.background import BackgroundReporter
from relay_client.progress.background_task import BackgroundTask, Opening
from relay_client.progress.current import current_task
from relay_client.progress.outcome import terminal_fields
from relay_client.progress.task import Task
from relay_client.progress.values import utc_now_iso

_log = logging.getLogger("relay_client")

#: The outermost bar of this context.
_outermost: ContextVar["ReferenceType[Bar] | None"] = ContextVar("relay_client.outermost_bar", default=None)


@cache
def _reporter() -> BackgroundReporter | None:
    """Return what reports on bars outside of tasks; None, and logged, where the environment is wrong."""
    try:
        return BackgroundReporter()
    except ValueError as error:
        _log.warning("progress bars are not reported to the relay: %s", error)
        return None


class Bar:
    """A progress bar that is open. None of its methods raises or waits."""

    def __init__(self, title: str | None, total: float | None) -> None:
        """Open a bar.

        Args:
            title: What it is about.
            total: How many items there are; None where that is not known.
        """
        self._total = total or None
        self._done = 0.0
        self._is_open = True
        self._task: Task | None = None
        self._own: BackgroundTask | None = None
        self._begin(title)

    @never_raises
    def _begin(self, title: str | None) -> None:
        outermost = _outermost.get()
        outer = None if outermost is None else outermost()
        if outer is not None and outer._is_open:
            return
        _outermost.set(ref(self))
        self._task = current_task()
        if self._task.id:
            self._report(title or None)
            return
        reporter = _reporter()
        if reporter is not None:
            about = {"title": title or "Progress", "kind": "progress bar"}
            opening = Opening(step(1), {**about, "status": PENDING, "created_at": utc_now_iso()})
            fields = {**about, "status": IN_PROGRESS, "started_at": utc_now_iso(), "worker": default_worker()}
            self._task = self._own = reporter.begin(uuid4().hex, fields, opening)
            self._report(None)

    def set(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Report how many items are done.

        Args:
            done: Their number.
            total: How many there are, where that has changed.
            message: What it is about just now.

        Raises:
            TaskCancelled: The cancellation of the task was requested.
        """
        self._done = done
        self._total = total or self._total
        self._report(message)

    def report(self, fields: Mapping[str, Any]) -> None:
        """Report further fields of the task; raises as `set`."""
        if self._task is not None and self._is_open:
            self._task.update(**fields)

    def _report(self, message: str | None) -> None:
        if self._task is not None and self._is_open:
            counts: dict[str, Any] = (
                {"done": self._done} if self._total is None else {"done": self._done, "total": self._total}
            )
            self._task.progress(fraction(self._done, self._total), message, **counts)

    @never_raises
    def close(self, error: BaseException | None = None) -> None:
        """Close it. Closing twice is no error.

        Args:
            error: Why it is closed before its end. GeneratorExit: its loop was left.
        """
        if not self._is_open:
            return
        self._is_open = False
        reporter = _reporter() if self._own is not None else None
        if reporter is None or self._own is None:
            return
        is_complete = self._total is None or self._done >= self._total
        if isinstance(error, GeneratorExit) and not is_complete:
            status, fields = CANCELLED, {"completed_at": utc_now_iso()}
        else:
            status, fields = terminal_fields(None if isinstance(error, GeneratorExit) else error)
        reporter.release(self._own, {**fields, "status": status})
