"""Reporting on tasks from Trio.

async with TaskReporter() as reporter:
    async with reporter("task-123", title="A picture") as task:
        task.progress(40, "Rendering", stage="image_started")
        async for line in task.atrack(lines):
            ...
"""

from relay_client.cancellation.trio import CancelListener
from relay_client.progress.async_base import AsyncTaskReporter
from relay_client.trio.publisher import Publisher


class TaskReporter(AsyncTaskReporter[Publisher]):
    """`relay_client.TaskReporter` for Trio: the same arguments and rules."""

    _publisher_class = Publisher
    _listener_class = CancelListener
