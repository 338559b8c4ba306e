"""Django's tasks, of Django 6.0 or of the package django-tasks: every task as a task of the relay.

INSTALLED_APPS = [..., "relay_client.integrations.django"]

The setting ``RELAY_TASKS`` has options, if any are wanted: see `relay_client.integrations.job.JobOptions`.
"""

from typing import Any

from relay_client.progress.current import current_task


def task_progress(progress: float | None = None, message: str | None = None, **fields: Any) -> None:
    """Report how far the task is that calls this; see `relay_client.Task.progress`."""
    current_task().progress(progress, message, **fields)
