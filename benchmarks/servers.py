"""The servers under test, and the Redis that feeds them: real processes on free ports, each on the server's core.

A `Server` is anything that answers WebSocket clients on /ws/tasks and passes on what Redis publishes. Further ones are
added to `PEERS`.
"""

import importlib.util
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import redis

from benchmarks.machine import LOAD_CORE, SERVER_CORE, Cpu, cpu_of, memory_of, pinned
from benchmarks.wire import TASK_CHANNEL
from relay.broker.embedded import free_port, start_server
from relay.processes import Child, start_child

_PATIENCE = 30.0
_ROOT = Path(__file__).parent.parent


class ServerFailed(Exception):
    """A server ended or did not come up; has the end of its log."""


def _eventually(check: Callable[[], bool], what: str, child: Child, log: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not check():
        if child.poll() is not None or time.monotonic() > deadline:
            tail = log.read_text(errors="replace")[-2000:] if log.exists() else ""
            raise ServerFailed(f"{what} did not come up; the end of its log:\n{tail}")
        time.sleep(0.02)


class _Process:
    """A child that ends with the block."""

    child: Child

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(5)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()


class Valkey(_Process):
    """A real Valkey, without persistence."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        with pinned(LOAD_CORE):
            self.child = start_server(self.port, directory, "--save", "", "--appendonly", "no")
        _eventually(self._answers, "valkey", self.child, directory / "server.log")

    @property
    def url(self) -> str:
        """For clients."""
        return f"redis://127.0.0.1:{self.port}/0"

    def _answers(self) -> bool:
        with redis.Redis(port=self.port) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    def has_subscriber(self) -> bool:
        """Somebody listens to task updates."""
        with redis.Redis(port=self.port) as client:
            return any(count for _, count in client.pubsub_numsub(TASK_CHANNEL))


class Server(_Process):
    """A server under test. `pid` is the process that serves."""

    def __init__(
        self, name: str, directory: Path, valkey: Valkey, arguments: Callable[[int], list[str]], ready_path: str | None
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.port = free_port()
        self.log = directory / f"{name}.log"
        environ = {key: value for key, value in os.environ.items() if not key.startswith(("RELAY_", "REDIS_"))}
        environ["REDIS_URL"] = valkey.url
        environ["PYTHONPATH"] = str(_ROOT)
        with self.log.open("wb") as log, pinned(SERVER_CORE):
            command = [sys.executable, "-m", *arguments(self.port)]
            self.child = start_child(command, env=environ, stdout=log, stderr=subprocess.STDOUT, cwd=directory)
        try:
            _eventually(lambda: self._is_ready(valkey, ready_path), name, self.child, self.log)
        except ServerFailed:
            self.__exit__(None, None, None)
            raise
        self.pid = self._serving_pid()

    def _is_ready(self, valkey: Valkey, ready_path: str | None) -> bool:
        if not valkey.has_subscriber():
            return False
        if ready_path is None:
            return True
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{ready_path}", timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _serving_pid(self) -> int:
        """Hypercorn's command is a supervisor: the last child that multiprocessing spawned is the one that serves."""
        children = Path(f"/proc/{self.child.pid}/task/{self.child.pid}/children").read_text().split()
        spawned = [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        return spawned[-1] if spawned else self.child.pid

    def cpu(self) -> Cpu:
        """CPU time of the serving process so far."""
        return cpu_of(self.pid)

    def memory(self) -> int:
        """Resident bytes of the serving process."""
        return memory_of(self.pid)


def start_relay(directory: Path, valkey: Valkey) -> Server:
    """Relay as its users run it: the stock Hypercorn command, default settings."""

    def arguments(port: int) -> list[str]:
        return ["hypercorn", "-k", "trio", "-b", f"127.0.0.1:{port}", "relay.asgi:app"]

    return Server("relay", directory, valkey, arguments, "/readyz")


class Peer(NamedTuple):
    """Another server for comparison: its module in benchmarks/peers, and the packages that it needs."""

    name: str
    module: str
    needs: tuple[str, ...]

    @property
    def missing(self) -> list[str]:
        """Packages that are not installed."""
        return [package for package in self.needs if importlib.util.find_spec(package) is None]

    def start(self, directory: Path, valkey: Valkey) -> Server:
        """Run it."""

        def arguments(port: int) -> list[str]:
            return [f"benchmarks.peers.{self.module}", str(port), valkey.url]

        return Server(self.name, directory, valkey, arguments, None)


PEERS = (
    Peer("picows", "picows_peer", ("picows", "uvloop")),
    Peer("websockets", "websockets_peer", ("websockets", "uvloop")),
)
