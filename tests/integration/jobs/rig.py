"""Worker processes for the tests."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from relay_client.updates import task_channel
from relay_jobs.manager import TaskManager
from relay_jobs.operations import TaskState
from relay_wire import keys
from relay_wire.creation import PARENT_FIELD, owner_of

from tests.harness import PATIENCE, ROOT, Client, RedisServer, Server, eventually
from tests.preloaded import start_program

HANDLERS = "tests.integration.jobs.handlers:worker"


class WorkerProcess(Server):
    """A `relay-worker`; options are its command's, without dashes."""

    name = "worker"

    def __init__(self, directory: Path, redis_url: str, place: str, environ: dict[str, str], **options: Any) -> None:
        super().__init__(directory)
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RELAY_", "REDIS_"))}
        with self.log.open("ab") as log:
            environ = inherited | {"REDIS_URL": redis_url} | environ
            self._child = start_program(["relay_jobs.command", place, *arguments], environ, log, ROOT)

    def is_up(self) -> bool:
        if "takes tasks" in self.logged():  # first: a task may have killed the worker already
            return True
        assert self.child.poll() is None, f"the worker ended with {self.child.returncode}:\n{self.logged()}"
        return False


class StartWorker(Protocol):
    """Starts a worker on the test's Redis and waits until it takes tasks."""

    def __call__(
        self, place: str = HANDLERS, *, environ: dict[str, str] | None = None, **options: Any
    ) -> WorkerProcess: ...


def state_when(manager: TaskManager, task_id: str, check: Callable[[TaskState], object]) -> TaskState:
    """The task's state, once it is as the check wants it."""

    def look() -> TaskState | None:
        state = manager.get(task_id)
        return state if state is not None and check(state) else None

    state = eventually(look)
    assert state is not None
    return state


def owner_and_parent(redis_server: RedisServer, task_id: str) -> tuple[list[str] | None, str | None]:
    """Who owns a task, and which task it is a part of, as Redis has it."""
    with redis_server.client() as client:
        owner, parent = client.hmget(keys.meta(task_channel(task_id)), ["owner", PARENT_FIELD])
    return owner and sorted(owner_of(owner)), parent and parent.decode()


def has_begun(state: TaskState) -> bool:
    """Its handler has reported something."""
    return bool(state.fields.get("progress", 0) > 0)


def updates_until(client: Client, task_id: str, check: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """A task's updates, up to one that the check wants."""
    updates: list[dict[str, Any]] = []
    while not updates or not check(updates[-1]):
        message = client.receive(PATIENCE)
        if message["type"] == "task_update" and message["task_id"] == task_id:
            updates.append(message["data"])
    return updates


def left_in_redis(redis_server: RedisServer) -> dict[str, int]:
    """What the queue still holds, without empty streams: nothing, when all has ended, but what goes by itself."""
    with redis_server.client() as client:
        held = {}
        for raw in client.keys("relay:{jobs}:*"):
            name = raw.decode()
            if ":kept:" in name and client.ttl(name) > 0:
                continue
            length = client.xlen(name) if ":queue:" in name else client.zcard(name) if ":delayed:" in name else 1
            if length:
                held[name] = int(length)
        return held
