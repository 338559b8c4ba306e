"""Handlers for the tests, run by `relay-worker tests.integration.jobs.handlers:worker`."""

import asyncio
import os
import time
from typing import Any

from relay_client.progress.current import current_task
from relay_client.progress.task import Task
from relay_jobs.errors import TaskFailed
from relay_jobs.handlers import Params
from relay_jobs.worker import Worker

worker = Worker()
empty = Worker()

_active = 0
_most_active = 0


@worker.task("slow")
async def slow(_task: Task, params: Params) -> None:
    """Reports every 50 ms."""
    steps = int(params["seconds"] / 0.05)
    for _ in current_task().track(range(steps), stage="working"):
        await asyncio.sleep(0.05)


@worker.task("slow_thread")
def slow_thread(_task: Task, params: Params) -> None:
    """The same in a thread."""
    steps = int(params["seconds"] / 0.05)
    for _ in current_task().track(range(steps), stage="working"):
        time.sleep(0.05)


@worker.task("asleep")
async def asleep(_task: Task, params: Params) -> None:
    """Says nothing."""
    await asyncio.sleep(params["seconds"])


class _Mute(Exception):
    """Has no text."""

    def __str__(self) -> str:
        return str([][0])


@worker.task("bad", attempts=1)
async def bad(_task: Task, params: Params) -> dict[str, Any]:
    """Ends in ways that nobody can be told of as they are."""
    match params["how"]:
        case "big":
            return {"text": "x" * 2_000_000}
        case "many fields":
            return {f"field{number}": number for number in range(1000)}
        case "nested":
            nested: list[Any] = []
            for _ in range(5000):
                nested = [nested]
            return {"nested": nested}
        case "surrogate":
            raise ValueError("cannot read caf\udce9.txt")
        case "mute":
            raise _Mute
    raise TaskFailed("x" * 2_000_000)


@worker.task("fails_later", attempts=3, backoff=0.1)
async def fails_later(_task: Task, params: Params) -> None:
    """Would be tried again."""
    await asyncio.sleep(params["seconds"])
    raise RuntimeError("try again")


@worker.task("deaf")
def deaf(_task: Task, params: Params) -> None:
    """A thread that never reports, and so never hears that it is to end."""
    time.sleep(params["seconds"])


@worker.task("counted")
async def counted(_task: Task, _params: Params) -> dict[str, Any]:
    """How many ran at once."""
    global _active, _most_active
    _active += 1
    _most_active = max(_most_active, _active)
    await asyncio.sleep(0.15)
    _active -= 1
    return {"most_active": _most_active}


@worker.task("counted_thread")
def counted_thread(task: Task, params: Params) -> dict[str, Any]:
    """The same in threads."""
    global _active, _most_active
    _active += 1
    _most_active = max(_most_active, _active)
    time.sleep(0.15)
    _active -= 1
    return {"most_active": _most_active}


@worker.task("flaky", attempts=3, backoff=0.1)
async def flaky(task: Task, params: Params) -> dict[str, Any]:
    """Succeeds at the attempt that is asked for; a file counts them."""
    with open(params["file"], "a+") as file:  # noqa: ASYNC230, PTH123 - a byte
        file.write("x")
        attempt = file.tell()
    if attempt < params["succeeds"]:
        raise OSError(f"trouble {attempt}")
    return {"tried": attempt}


@worker.task("hopeless")
async def hopeless(_task: Task, _params: Params) -> None:
    """No use to try again."""
    raise TaskFailed("out of paint")


@worker.task("exits", backoff=0.1, attempts=2)
def exits(_task: Task, _params: Params) -> None:
    """Must not end the worker."""
    raise SystemExit(3)


class Abort(BaseException):
    """Like the time limits and exits of some libraries."""

    def __init__(self) -> None:
        super().__init__("no text")

    def __repr__(self) -> str:
        raise ZeroDivisionError


@worker.task("aborts", attempts=1)
async def aborts(_task: Task, _params: Params) -> None:
    """Raises what is no Exception."""
    await asyncio.sleep(0)
    raise Abort


@worker.task("aborts_in_thread", attempts=1)
def aborts_in_thread(_task: Task, _params: Params) -> None:
    """Raises what is no Exception, in a thread."""
    raise Abort


@worker.task("exits_async", attempts=1)
async def exits_async(_task: Task, _params: Params) -> None:
    """Must not end the worker."""
    raise SystemExit(4)


@worker.task("odd")
async def odd(_task: Task, _params: Params) -> Any:
    """Returns what cannot be published."""
    return {"what": object()}


@worker.task("deadly", attempts=2)
async def deadly(task: Task, _params: Params) -> None:
    """Kills its worker."""
    task.progress(50)
    os._exit(9)


@worker.task("hanging", attempts=2, backoff=0.1, timeout=0.3)
async def hanging(_task: Task, _params: Params) -> None:
    """Takes too long."""
    await asyncio.Event().wait()


@worker.task("stubborn")
async def stubborn(task: Task, _params: Params) -> None:
    """Ignores its cancellation."""
    task.progress(1)
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            continue
