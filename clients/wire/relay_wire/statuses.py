"""The statuses of a task."""

PENDING = "pending"
IN_PROGRESS = "in_progress"
COMPLETED = "completed"
FAILED = "failed"
CANCELLED = "cancelled"

#: With one of these a task has ended.
TERMINAL = frozenset({COMPLETED, FAILED, CANCELLED})

#: With one of these a task is expected to show signs of life.
RUNNING = frozenset({IN_PROGRESS})
