"""A queue under test: its real worker, its broker, a process that enqueues, and the relay's Redis, which may be away."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relay_wire import keys
from relay_wire.cancellation import cancel_call, read_outcome

from relay.processes import Child, start_child
from tests.harness import ROOT, RedisServer, eventually
from tests.integration.client.reading import log_of, state_of
from tests.ports import free_port

#: An argument of every task, which must never be seen in the relay's Redis.
SECRET = "s3cret"

APPS = "tests.integration.client.integrations.apps"

#: The Python of the queue's processes: that of a virtual environment that has the library, where it is not in the tests' own.
PYTHON = os.environ.get("STORY_PYTHON") or sys.executable

#: The steps of the story, as the columns of the table in docs/integrations.md.
STEPS = ("waits", "retry", "killed process", "stopped", "stopped while it waits", "a watcher's cancel")


def _table() -> dict[str, frozenset[str]]:
    """The steps that each queue of the table tells."""
    page = (ROOT / "docs" / "integrations.md").read_text()
    lines = page.partition("<!-- begin table -->\n")[2].partition("<!-- end table -->")[0].splitlines()
    columns, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert tuple(columns[1:]) == STEPS
    return {
        name: frozenset(step for step, cell in zip(STEPS, cells, strict=True) if cell != "no") for name, *cells in rows
    }


TABLE = _table()


@contextmanager
def redis_broker(directory: Path) -> Iterator[str]:
    """Run a Redis; yields its URL."""
    with RedisServer(directory, "--save", "") as redis:
        yield redis.url


@dataclass(frozen=True)
class Queue:
    """A queue with its real worker.

    Attributes:
        module: Of its application, in `apps`.
        worker: Command of its worker, of the name of that module; after ``python -m``. ``BROKER_URL`` stands for the broker's.
            None: the process that enqueues runs the tasks.
        row: Its name in the table of docs/integrations.md.
        retries_at_once: The next attempt may begin before the one before it is over, and then nobody sees that it waited.
        end: The signal after which the worker ends when its tasks have.
        broker: Runs its broker in a directory, and gives its URL.
    """

    module: str
    worker: Callable[[str], list[str]] | None
    row: str
    end: signal.Signals = signal.SIGTERM
    retries_at_once: bool = False
    broker: Callable[[Path], AbstractContextManager[str]] = redis_broker

    @property
    def can(self) -> frozenset[str]:
        """The steps that it tells."""
        return TABLE[self.row]


class Running:
    """The processes of one queue."""

    def __init__(self, queue: Queue, directory: Path, relay_redis: RedisServer, broker_url: str) -> None:
        self.queue = queue
        self.directory = directory
        self.redis = relay_redis
        self.log = directory / "worker.log"
        self._count = 0
        self._is_ready = False
        #: Those that were enqueued one by one.
        self.jobs: list[RunningJob] = []
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith(("RELAY_", "REDIS_"))}
        self.environ |= {
            "REDIS_URL": relay_redis.url,
            "BROKER_URL": broker_url,
            "BROKER_PORT": str(free_port()),
            "BROKER_FILE": str(directory / "broker.db"),
            "STORY_DIRECTORY": str(directory),
            "STORY_SECRET": SECRET,
            "PYTHONPATH": str(ROOT),
        }
        with self.log.open("ab") as log:
            self._producer = subprocess.Popen(
                [PYTHON, "-m", f"{APPS}.produce", queue.module],
                env=self.environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=directory,
            )
        self._worker: Child | None = None

    def start_worker(self) -> None:
        """Start the worker, or start it again where it has ended."""
        if self.queue.worker is None or (self._worker is not None and self._worker.poll() is None):
            return
        self._wait_for_producer()
        with self.log.open("ab") as log:
            arguments = self.queue.worker(f"{APPS}.{self.queue.module}")
            command = [PYTHON, "-m", *(self.environ.get(each, each) for each in arguments)]
            self._worker = start_child(command, env=self.environ, stdout=log, stderr=log, cwd=self.directory)
        if "BROKER_PORT" in arguments:
            eventually(self._accepts)

    def _wait_for_producer(self) -> None:
        """Wait until the process that enqueues has set everything up."""
        assert self._producer.stdout is not None
        if not self._is_ready:
            assert self._producer.stdout.readline() == "ready\n", self.logged()
            self._is_ready = True

    def _accepts(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", int(self.environ["BROKER_PORT"]))) == 0

    def enqueue(self, kind: str) -> "RunningJob":
        """Enqueue a task, which the worker runs when it comes to it."""
        self._count += 1
        token = f"{kind}-{self._count}"
        job = RunningJob(self, token, self._ask(f"{kind} {token}"))
        self.jobs.append(job)
        return job

    def enqueue_several(self, kind: str) -> list["RunningJob"]:
        """Enqueue tasks that belong together."""
        return [RunningJob(self, kind, each) for each in self._ask(f"{kind} {kind}").split(",")]

    def stop(self, job: "RunningJob") -> None:
        """Stop a task by the queue's own means."""
        self._ask(f"stop {job.id}")

    def _ask(self, line: str) -> str:
        assert self._producer.stdin is not None
        assert self._producer.stdout is not None
        self._wait_for_producer()
        self._producer.stdin.write(f"{line}\n")
        self._producer.stdin.flush()
        answer = self._producer.stdout.readline().strip()
        assert answer, self.logged()
        return answer

    def end_worker(self) -> None:
        """End the worker as an operator does, and wait for it."""
        if self.queue.worker is None:
            assert self._producer.stdin is not None
            self._producer.stdin.close()
            assert self._producer.wait(60) == 0
        if self._worker is not None and self._worker.poll() is None:
            self._worker.send_signal(self.queue.end)
            self._worker.wait(60)

    def logged(self) -> str:
        return self.log.read_text(errors="replace")

    def close(self) -> None:
        if self._worker is not None and self._worker.poll() is None:
            os.killpg(self._worker.pid, signal.SIGKILL)
            self._worker.wait()
        self._producer.kill()
        self._producer.wait()
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
            return eventually(lambda: state if expected.items() <= (state := self.state()).items() else {})
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

    def request_cancel(self) -> None:
        """Request its cancellation, as the relay's HTTP API does."""
        script, names, values = cancel_call(self.id, "no longer needed")
        with self._running.redis.client() as client:
            answer: Any = client.eval(script.source, len(names), *names, *values)
        assert read_outcome(answer) == "requested"

    def open_gate(self) -> None:
        (self._running.directory / f"{self.token}.gate").touch()

    def kill_process(self) -> None:
        """Kill the process in which the task runs, as the kernel does when memory runs out."""
        os.kill(int(self.marked("pid")), signal.SIGKILL)
