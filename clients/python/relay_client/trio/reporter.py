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

    def __init__(
        self,
        publisher: Publisher | str | None = None,
        *,
        rate: float = 10.0,
        heartbeat: float | None = None,
        on_error: str | None = None,
        cancel_timeout: float = 2.0,
        end_timeout: float = 120.0,
        cancellable: bool = False,
    ) -> None:
        """Make a reporter; the arguments are those of `relay_client.TaskReporter`."""
        either = publisher if isinstance(publisher, Publisher) else Publisher(publisher)
        super().__init__(
            either,
            rate,
            heartbeat,
            on_error,
            cancel_timeout,
            end_timeout,
            CancelListener(either.target) if cancellable else None,
            owns_publisher=either is not publisher,
        )
