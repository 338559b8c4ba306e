"""The processes of a server under test and of the Redis that feeds it: real ones, on free ports, each on its core."""

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import redis
import trustme

from benchmarks.machine import CORES, LOAD_CORE, SERVER_CORE, Cpu, cpu_of, descendants, memory_of, pinned
from benchmarks.peers.base import Peer
from benchmarks.protocol import TLS_CONTEXT
from relay.broker.embedded import free_port, start_server
from relay.processes import Child, start_child

_START_TIMEOUT = 60.0
_STOP_TIMEOUT = 8.0
_ROOT = Path(__file__).parent.parent


class ServerFailed(Exception):
    """A server ended or did not become ready; has the end of its log."""


class Process:
    """A process that can be started again.

    Args:
        name: For errors.
        start: Starts it.
        log: Where it writes.
        is_ready: Says whether it is ready.
    """

    def __init__(self, name: str, start: Callable[[], Child], log: Path, is_ready: Callable[[], bool]) -> None:
        self._name = name
        self._start = start
        self._log = log
        self._is_ready = is_ready
        self._child: Child | None = None

    @property
    def pid(self) -> int:
        """Its process id; 0 while it does not run."""
        return self._child.pid if self._child is not None else 0

    def start(self) -> None:
        """Start it, and wait until it is ready. Raises ServerFailed."""
        child = self._child = self._start()
        deadline = time.monotonic() + _START_TIMEOUT
        while not self._is_ready():
            if child.poll() is not None or time.monotonic() > deadline:
                tail = self._log.read_text(errors="replace")[-3000:] if self._log.exists() else ""
                raise ServerFailed(f"{self._name} did not become ready; the end of its log:\n{tail}")
            time.sleep(0.02)

    def stop(self, timeout: float = _STOP_TIMEOUT) -> None:
        """Ask it to end, wait for so many seconds, then kill it with all that descend from it."""
        child, self._child = self._child, None
        if child is None:
            return
        if child.poll() is None:
            child.terminate()
            with suppress(subprocess.TimeoutExpired):
                child.wait(timeout)
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # it leads a session of its own
        child.wait()


@contextmanager
def _running(process: Process) -> Iterator[Process]:
    """Run a process as long as the block lasts. Raises ServerFailed."""
    try:
        process.start()
        yield process
    finally:
        process.stop()


@contextmanager
def valkey(directory: Path) -> Iterator[tuple[int, int]]:
    """Run a real Valkey without persistence on the load's core; its port and pid."""
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()

    def start() -> Child:
        with pinned(LOAD_CORE):
            return start_server(port, directory, "--save", "", "--appendonly", "no")

    def is_ready() -> bool:
        with suppress(redis.RedisError), redis.Redis(port=port) as client:
            return bool(client.ping())
        return False

    with _running(Process("valkey", start, directory / "server.log", is_ready)) as process:
        yield port, process.pid


def _write_certificate(key: Path, chain: Path) -> None:
    issued = trustme.CA().issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(str(key))
    chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))


def _has_subscriber(redis_port: int) -> bool:
    with redis.Redis(port=redis_port, decode_responses=True) as client:
        return bool(client.pubsub_numpat() or client.pubsub_channels())


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _answers(url: str) -> bool:
    with (
        suppress(urllib.error.URLError, OSError),
        urllib.request.urlopen(url, timeout=5, context=TLS_CONTEXT) as reply,
    ):
        return bool(reply.status == 200)
    return False


def _start(command: list[str], environ: dict[str, str], log: Path, cores: Iterable[int]) -> Child:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RELAY_", "REDIS_"))}
    with log.open("ab") as output, pinned(*cores):
        return start_child(
            command, env={**clean, "PYTHONPATH": str(_ROOT), **environ}, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, cwd=log.parent,
        )  # fmt: skip


@dataclass
class Server:
    """A server under test that is ready. Publish to ``publish_port``; ``redis_pid`` is that of the Redis that feeds it."""

    ports: list[int]
    publish_port: int
    processes: list[Process]
    redis_pid: int | None

    @property
    def pids(self) -> list[int]:
        """All processes of the server."""
        return [pid for process in self.processes if process.pid for pid in descendants(process.pid)]

    def cpu(self) -> Cpu:
        """CPU time of the server so far."""
        return cpu_of(self.pids)

    def redis_cpu(self) -> float:
        """CPU seconds of its Redis so far, 0 where there is none."""
        return cpu_of([self.redis_pid] if self.redis_pid else []).ran

    def memory(self) -> int:
        """Resident bytes of the server."""
        return memory_of(self.pids)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all processes."""
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


@contextmanager
def started(peer: Peer, directory: Path) -> Iterator[Server]:
    """Run a server, and the Redis that feeds it, as long as the block lasts. Raises ServerFailed."""
    directory.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        redis_port, redis_pid = stack.enter_context(valkey(directory / "valkey")) if peer.redis else (0, None)
        key, chain = directory / "key.pem", directory / "chain.pem"
        if peer.endpoint.tls:
            _write_certificate(key, chain)
        server = Server([], redis_port, [], redis_pid)
        for number in range(peer.processes):
            port, publish_port = free_port(), free_port()
            command, environ = peer.prepare(
                directory, port=port, publish_port=publish_port, redis_url=f"redis://127.0.0.1:{redis_port}/0",
                key=str(key), chain=str(chain),
            )  # fmt: skip
            log = directory / f"{peer.name}-{number}.log"
            start = partial(_start, command, environ, log, CORES if peer.has_all_cores else (SERVER_CORE,))

            def is_ready(port: int = port, publish_port: int = publish_port) -> bool:
                if peer.ready_path:
                    return _answers(f"http{'s' * peer.endpoint.tls}://127.0.0.1:{port}{peer.ready_path}")
                if peer.subscribes_at_start and not _has_subscriber(redis_port):
                    return False
                return _accepts(port) and (not peer.has_publish_port or _accepts(publish_port))

            server.processes.append(stack.enter_context(_running(Process(peer.name, start, log, is_ready))))
            server.ports.append(port)
            if not peer.redis or peer.spare_processes:
                server.publish_port = publish_port if peer.has_publish_port else port
        yield server
