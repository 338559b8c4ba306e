"""Reporting on tasks from asyncio.

async with TaskReporter() as reporter:
    async with reporter("task-123", title="A picture") as task:
        task.progress(40, "Rendering", stage="image_started")
        async for line in task.atrack(lines):
            ...
"""

from relay_client.aio.publisher import Publisher
from relay_client.cancellation.aio import CancelListener
from relay_client.progress.async_base import AsyncTaskReporter


class TaskReporter(AsyncTaskReporter[Publisher]):
    """`relay_client.TaskReporter` for asyncio: the same arguments and rules."""

    _publisher_class = Publisher
    _listener_class = CancelListener
