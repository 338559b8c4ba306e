"""Error handling in a reporter's block; the same for every runtime."""

import logging

from relay_client import environment
from relay_client.errors import NotDelivered
from relay_client.progress.task import Task

_log = logging.getLogger("relay_client")

#: Seconds before the end of a task is queued again for which there was no room.
BUFFER_FULL_PAUSE = 0.1


def checked_on_error(on_error: str | None) -> str:
    """Return ``log`` or ``raise``; None: as the environment says. Raises ValueError."""
    if on_error is None:
        return environment.on_error()
    if on_error not in environment.ON_ERROR:
        raise ValueError(f"on_error must be 'log' or 'raise', not {on_error!r}")
    return on_error


def report_lost_end(task: Task, error: BaseException | None, lost: NotDelivered) -> None:
    """Log that the end of a task was not delivered; raise it where the reporter does, and nothing else is being raised."""
    if error is None and task.raises:
        raise lost
    _log.error("task %s: its end was not delivered: %s", task.id, lost)
    if error is not None:
        error.add_note(f"Relay was not notified of the task's end: {lost}")


def report_failure(task: Task, error: BaseException | None) -> None:
    """Log, or raise, why a part of a task's fields was not published for good."""
    if task.failure is None:
        return
    if error is None and task.raises:
        raise task.failure
    _log.error("task %s: a report was not published: %s", task.id, task.failure)
