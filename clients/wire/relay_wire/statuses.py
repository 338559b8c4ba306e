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
