"""A queue under test: its real worker, its broker, a process that enqueues, and the relay's Redis, which may be away."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relay_wire import keys

from relay.processes import Child, start_child
from tests.harness import ROOT, RedisServer, eventually
from tests.integration.client.reading import log_of, state_of

#: An argument of every task, which must never be seen in the relay's Redis.
SECRET = "s3cret"

APPS = "tests.integration.client.integrations.apps"


@dataclass(frozen=True)
class Queue:
    """A row of the table in docs/integrations.md.

    Attributes:
        module: Of its application, in `apps`.
        worker: Command of its worker, of the name of that module; after ``python -m``. ``BROKER_URL`` stands for the broker's.
        can: What it reports, as the row says.
    """

    module: str
    worker: Callable[[str], list[str]]
    can: frozenset[str] = field(default_factory=frozenset)


class Running:
    """The processes of one queue."""

    def __init__(self, queue: Queue, directory: Path, relay_redis: RedisServer, broker: RedisServer) -> None:
        self.queue = queue
        self.directory = directory
        self.redis = relay_redis
        self.log = directory / "worker.log"
        self._count = 0
        self._is_ready = False
        self._environ = {name: value for name, value in os.environ.items() if not name.startswith(("RELAY_", "REDIS_"))}
        self._environ |= {
            "REDIS_URL": relay_redis.url,
            "BROKER_URL": broker.url,
            "BROKER_FILE": str(directory / "broker.db"),
            "STORY_DIRECTORY": str(directory),
            "STORY_SECRET": SECRET,
            "PYTHONPATH": str(ROOT),
        }
        with self.log.open("ab") as log:
            self._producer = subprocess.Popen(
                [sys.executable, "-m", f"{APPS}.produce", queue.module],
                env=self._environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=directory,
            )
        self._worker: Child | None = None

    def start_worker(self) -> None:
        """Start the worker, or start it again where it has ended."""
        if self._worker is not None and self._worker.poll() is None:
            return
        with self.log.open("ab") as log:
            arguments = self.queue.worker(f"{APPS}.{self.queue.module}")
            command = [sys.executable, "-m", *(self._environ.get(each, each) for each in arguments)]
            self._worker = start_child(command, env=self._environ, stdout=log, stderr=log, cwd=self.directory)

    def enqueue(self, kind: str) -> "RunningJob":
        """Enqueue a task, which the worker runs when it comes to it."""
        self._count += 1
        token = f"{kind}-{self._count}"
        return RunningJob(self, token, self._ask(f"{kind} {token}"))

    def stop(self, job: "RunningJob") -> None:
        """Stop a task by the queue's own means."""
        self._ask(f"stop {job.id}")

    def _ask(self, line: str) -> str:
        assert self._producer.stdin is not None
        assert self._producer.stdout is not None
        if not self._is_ready:
            assert self._producer.stdout.readline() == "ready\n", self.logged()
            self._is_ready = True
        self._producer.stdin.write(f"{line}\n")
        self._producer.stdin.flush()
        answer = self._producer.stdout.readline().strip()
        assert answer, self.logged()
        return answer

    def end_worker(self) -> None:
        """End the worker as an operator does, and wait for it."""
        if self._worker is not None and self._worker.poll() is None:
            self._worker.terminate()
            self._worker.wait(60)

    def logged(self) -> str:
        return self.log.read_text(errors="replace")

    def close(self) -> None:
        for child in (self._producer, self._worker):
            if child is not None and child.poll() is None:
                if child is self._worker:
                    os.killpg(child.pid, signal.SIGKILL)
                child.kill()
                child.wait()
        for stream in (self._producer.stdin, self._producer.stdout):
            if stream is not None:
                stream.close()


class RunningJob:
    """A task of the queue, as its files and the relay's Redis show it."""

    def __init__(self, running: Running, token: str, job_id: str) -> None:
        self._running = running
        self.token = token
        self.id = job_id

    def state(self) -> dict[str, Any]:
        return state_of(self._running.redis, self.id)

    def updates(self) -> list[dict[str, Any]]:
        return [data for _, _, data in log_of(self._running.redis, f"task:{self.id}")]

    def meta(self) -> dict[str, str]:
        with self._running.redis.client() as client:
            found: Any = client.hgetall(keys.meta(f"task:{self.id}"))
        return {name.decode(): value.decode() for name, value in found.items()}

    def waits_for(self, **expected: Any) -> dict[str, Any]:
        """Wait until the relay knows all of this about the task; return all that it knows then."""
        try:
            return eventually(lambda: (state := self.state()) and expected.items() <= state.items() and state)
        except AssertionError as error:
            raise AssertionError(f"{expected} not in {self.state()}; log:\n{self._running.logged()[-6000:]}") from error

    def marked(self, name: str) -> str:
        """Wait until the task has left a file, and return its text."""
        path = self._running.directory / f"{self.token}.{name}"
        try:
            eventually(path.exists)
        except AssertionError as error:
            raise AssertionError(f"no {name} of {self.token}; log:\n{self._running.logged()[-6000:]}") from error
        return path.read_text()

    def open_gate(self) -> None:
        (self._running.directory / f"{self.token}.gate").touch()

    def kill_process(self) -> None:
        """Kill the process in which the task runs, as the kernel does when memory runs out."""
        os.kill(int(self.marked("pid")), signal.SIGKILL)
