"""FastAPI: background tasks as tasks of the relay, through a dependency.

from relay_client.integrations.fastapi import RelayTasks, relay_tasks

Tasks = Annotated[RelayTasks, Depends(relay_tasks())]

@app.post("/pictures")
async def resize_picture(name: str, tasks: Tasks) -> dict[str, str]:
    return {"task_id": tasks.add_task(resize, name)}
"""

from collections.abc import Callable
from typing import Any, Unpack

from relay_client.integrations.missing import missing

try:
    from fastapi import BackgroundTasks
except ModuleNotFoundError as error:
    raise missing("FastAPI 0.115.2 or newer", "fastapi") from error

from relay_client.integrations.job import JobOptions
from relay_client.integrations.starlette import RelayBackgroundTasks, install


class RelayTasks:
    """The background tasks of one request. FastAPI takes no subclass of its own ``BackgroundTasks`` from a dependency."""

    def __init__(self, tasks: RelayBackgroundTasks) -> None:
        self._tasks = tasks

    def add_task(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
        """Add a task, which runs after the response was sent; return its id, by which it can be watched."""
        return self._tasks.add_task(func, *args, **kwargs)


def relay_tasks(**options: Unpack[JobOptions]) -> Callable[[BackgroundTasks], RelayTasks]:
    """Return a dependency; make one for each application.

    Args:
        options: See `relay_client.integrations.job.JobOptions`.

    Raises:
        ValueError: An option, or the environment, cannot be right.
    """
    jobs = install(**options)

    def dependency(background_tasks: BackgroundTasks) -> RelayTasks:
        return RelayTasks(RelayBackgroundTasks(jobs, background_tasks))

    return dependency
