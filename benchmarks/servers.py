"""The processes of a server under test and of the Redis that feeds it: real ones, on free ports, each on its core."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

from benchmarks.doors import Door
from benchmarks.feeds import Feed
from benchmarks.machine import LOAD_CORE, SERVER_CORE, Cpu, cpu_of, memory_of, pinned, quick_memory_of, tree_of
from relay.broker.embedded import free_port, start_server
from relay.processes import Child, start_child

_PATIENCE = 30.0
_STOP_TIMEOUT = 8.0
ROOT = Path(__file__).parent.parent


class ServerFailed(Exception):
    """A server ended or did not come up; has the end of its log."""


class Process:
    """A child that ends with the block, and all that descend from it."""

    child: Child

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self.log = log

    def wait_until(self, check: Callable[[], bool]) -> None:
        """Wait until it is up. Raises ServerFailed when it is not in time, and ends it."""
        deadline = time.monotonic() + _PATIENCE
        while not check():
            if self.child.poll() is not None or time.monotonic() > deadline:
                self.__exit__(None, None, None)
                tail = self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""
                raise ServerFailed(f"{self.name} did not come up; the end of its log:\n{tail}")
            time.sleep(0.02)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.child.poll() is None:
            self.child.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.child.wait(_STOP_TIMEOUT)
        with suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)  # it leads a session of its own
        self.child.wait()


class Valkey(Process):
    """A real Valkey, without persistence."""

    def __init__(self, directory: Path, *, core: int = LOAD_CORE) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        super().__init__("valkey", directory / "server.log")
        self.port = free_port()
        with pinned(core):
            self.child = start_server(self.port, directory, "--save", "", "--appendonly", "no")
        self.wait_until(self._answers)

    @property
    def url(self) -> str:
        """For clients."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Of the process."""
        return self.child.pid

    def _answers(self) -> bool:
        with redis.Redis(port=self.port) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    def has_listener(self) -> bool:
        """Somebody follows a pattern or a channel."""
        with redis.Redis(port=self.port, decode_responses=True) as client:
            return bool(client.pubsub_numpat() or client.pubsub_channels())


class ServerProcess(Process):
    """A server: any command, on the server's core, with none of our own settings in its environment."""

    def __init__(
        self, name: str, directory: Path, command: Sequence[str], *, environ: Mapping[str, str] | None = None,
        core: int = SERVER_CORE,
    ) -> None:  # fmt: skip
        directory.mkdir(parents=True, exist_ok=True)
        super().__init__(name, directory / f"{name}.log")
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("RELAY_", "REDIS_"))}
        clean["PYTHONPATH"] = str(ROOT)
        with self.log.open("wb") as log, pinned(core):
            self.child = start_child(
                command, env=clean | dict(environ or {}), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                cwd=directory,
            )  # fmt: skip


def accepts(port: int) -> bool:
    """Somebody listens there."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass
class Running:
    """A server under test that is up; a context manager that ends it with all that belongs to it.

    task, everyone:  the doors of clients that follow one task, and of those that get what is for everyone
    feed, feed_port: how updates are published to it, and where
    brokers:         processes on the load's core that work for it, Redis as a rule
    """

    name: str
    port: int
    task: Door
    everyone: Door
    feed: type[Feed]
    feed_port: int
    processes: list[Process]
    feed_options: dict[str, Any] = field(default_factory=dict)
    brokers: list[int] = field(default_factory=list)
    stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.close()

    @property
    def pids(self) -> list[int]:
        """All processes of the server."""
        return [pid for process in self.processes for pid in tree_of(process.child.pid)]

    @property
    def log(self) -> Path:
        """Where the first process writes."""
        return self.processes[0].log

    def cpu(self) -> Cpu:
        """CPU time of the server so far."""
        return total_cpu(self.pids)

    def broker_cpu(self) -> float:
        """CPU seconds of what feeds it so far."""
        return total_cpu(self.brokers).ran

    def memory(self) -> int:
        """Resident bytes of the server."""
        return sum(memory_of(pid) for pid in self.pids)

    def quick_memory(self) -> int:
        """The same, cheap enough to be asked while measuring."""
        total = 0
        for pid in self.pids:
            with suppress(OSError):
                total += quick_memory_of(pid)
        return total

    def freeze(self) -> None:
        """Stop the server where it is."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def total_cpu(pids: Sequence[int]) -> Cpu:
    """CPU time of several processes so far; those that have ended do not count."""
    ran = waited = 0.0
    for pid in pids:
        with suppress(OSError):
            one = cpu_of(pid)
            ran += one.ran
            waited += one.waited
    return Cpu(ran, waited)
