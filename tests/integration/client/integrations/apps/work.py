"""What the tasks of every application do. The test directs them by files in a directory."""

import asyncio
import os
import time
from pathlib import Path

from relay_client import current_task

DIRECTORY = Path(os.environ["STORY_DIRECTORY"])

#: An argument of every task, which must never be seen in the relay's Redis.
SECRET = os.environ["STORY_SECRET"]


def begin(kind: str, token: str) -> bool:
    """What happens at once; whether the task then waits for its gate."""
    mark(token, "pid", str(os.getpid()))
    if kind == "fail":
        raise ValueError("broken")
    if kind == "flaky":
        if not (DIRECTORY / f"{token}.tried").exists():
            mark(token, "tried")
            raise ConnectionError("try again")
        return False
    current_task().progress(40, "Rendering", stage="image")
    return True


def do(kind: str, token: str) -> None:
    """Do what a kind of task does."""
    if begin(kind, token):
        while not (DIRECTORY / f"{token}.gate").exists():
            time.sleep(0.01)
            report_if_cancellable(kind)
        end(token)


async def do_async(kind: str, token: str) -> None:
    """The same on an event loop."""
    if begin(kind, token):
        while not (DIRECTORY / f"{token}.gate").exists():
            await asyncio.sleep(0.01)
            report_if_cancellable(kind)
        end(token)


def report_if_cancellable(kind: str) -> None:
    """A report ends a task whose queue has no way to stop it."""
    if kind == "cancellable":
        current_task().progress(50)


def end(token: str) -> None:
    current_task().message("Rendered")
    mark(token, "done")


def mark(token: str, name: str, text: str = "") -> None:
    """Leave a file for the test, in one step."""
    path = DIRECTORY / f"{token}.{name}"
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").rename(path)
