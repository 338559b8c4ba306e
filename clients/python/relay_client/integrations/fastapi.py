"""FastAPI: background tasks as tasks of the relay, through a dependency.

from relay_client.integrations.fastapi import RelayBackgroundTasks, relay_tasks

Tasks = Annotated[RelayBackgroundTasks, Depends(relay_tasks())]

@app.post("/pictures")
async def resize_picture(name: str, tasks: Tasks) -> dict[str, str]:
    return {"task_id": tasks.add_task(resize, name)}
"""

from collections.abc import Callable
from typing import Unpack

from relay_client.integrations.job import JobOptions
from relay_client.integrations.missing import missing
from relay_client.integrations.starlette import RelayBackgroundTasks as RelayBackgroundTasks
from relay_client.integrations.starlette import install

try:
    from fastapi import BackgroundTasks
except ModuleNotFoundError as error:
    raise missing("FastAPI 0.115 or newer", "fastapi") from error


def relay_tasks(**options: Unpack[JobOptions]) -> Callable[[BackgroundTasks], RelayBackgroundTasks]:
    """Return a dependency; make one for each application.

    Args:
        options: See `relay_client.integrations.job.JobOptions`.

    Raises:
        ValueError: An option, or the environment, cannot be right.
    """
    jobs = install(**options)

    def dependency(background_tasks: BackgroundTasks) -> RelayBackgroundTasks:
        return RelayBackgroundTasks(jobs, background_tasks)

    return dependency
