"""The statuses of a task."""

PENDING = "pending"
IN_PROGRESS = "in_progress"
COMPLETED = "completed"
FAILED = "failed"
CANCELLED = "cancelled"

#: A task with one of these has ended.
TERMINAL = frozenset({COMPLETED, FAILED, CANCELLED})

#: A task with one of these is expected to publish updates or heartbeats.
RUNNING = frozenset({IN_PROGRESS})


def status_class(status: str | None) -> str:
    """Return the class of a status as the scripts take it."""
    return "" if status is None else "ended" if status in TERMINAL else "running" if status in RUNNING else "other"
