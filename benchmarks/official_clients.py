"""Clients that are made with a server's own client library, in a process of Node, behind networks that can fail."""

import json
import select
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from benchmarks.load import LoadFailed
from benchmarks.machine import LOAD_CORES, pinned
from benchmarks.peers.base import DIRECTORY
from relay.processes import start_child

#: Seconds for what should take no time, and for each thousand of clients that connect.
_TIMEOUT = 30.0
_TIMEOUT_CONNECT = 60.0


class Delivered(msgspec.Struct):
    """What all clients have received, see ``peers/node/sdk/driver.mjs``.

    Attributes:
        expected: Updates that should have been delivered, over all clients.
        delivered: Those that were, each counted once.
        doubled: Those that came again.
        reordered: Those that came after a later one.
        complete: Clients that have everything.
        failures: Failures of networks so far.
        unrecovered: Failures after which a client received nothing new.
        connects: The most WebSockets that one server opened in any second.
        refused: Handshakes that a server refused since there were too many.
        recoveries: Milliseconds from the end of each failure until something newer was received, in order of length.
        last: When the last update arrived, in nanoseconds of the monotonic clock.
        cpu: CPU seconds of the process so far.
    """

    expected: int
    delivered: int
    doubled: int
    reordered: int
    complete: int
    failures: int
    unrecovered: int
    recoveries: list[float]
    connects: int
    refused: int
    last: int
    cpu: float


class OfficialClients:
    """The process; a context manager that ends it. Its methods raise LoadFailed if it does not answer.

    Args:
        library: Which client: a file of ``peers/node/sdk``.
        ports: Where the servers listen.
        tasks: The channels that the clients follow in turn, one each.
        clients: How many clients.
        networks: Behind how many networks, each of which fails by itself.
        log: Where its errors go.
    """

    def __init__(
        self, library: str, ports: Sequence[int], tasks: Sequence[str], clients: int, networks: int, log: Path
    ) -> None:
        self._options = {
            "library": library, "ports": list(ports), "tasks": list(tasks), "clients": clients, "networks": networks,
        }  # fmt: skip
        self._connect_timeout = _TIMEOUT + _TIMEOUT_CONNECT * clients / 1000
        self._log = log
        self._buffer = b""
        #: Seconds in which all clients were connected.
        self.startup_seconds = 0.0

    def __enter__(self) -> Self:
        command = ["node", str(DIRECTORY / "node" / "sdk" / "driver.mjs"), json.dumps(self._options)]
        with self._log.open("wb") as errors, pinned(LOAD_CORES[-1]):
            self._child = start_child(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
        try:
            answer = self._answer(self._connect_timeout)
        except BaseException:
            self._end()
            raise
        self.startup_seconds = float(answer["ready"])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._child.kill()
        self._child.wait()

    def fail(self, seconds: float, every: float, milliseconds: int, seed: int) -> None:
        """Let each network fail from now on, for some seconds; returns at once. `wait_failed` waits for the end."""
        self._tell({"fail": seconds, "every": every, "milliseconds": milliseconds, "seed": seed})
        self._fails_until = time.monotonic() + seconds + milliseconds / 1000

    def wait_failed(self) -> int:
        """Wait until the networks work again; returns how often one failed."""
        return int(self._answer(max(0.0, self._fails_until - time.monotonic()) + _TIMEOUT)["failed"])

    def use(self, ports: Sequence[int]) -> None:
        """Lead new connections to these servers."""
        self._tell({"use": list(ports)})

    def collect(self, count: int, timeout: float) -> Delivered:
        """Wait until every client has so many updates, or for some seconds."""
        self._tell({"collect": count, "timeout": timeout})
        return msgspec.convert(self._answer(timeout + _TIMEOUT), Delivered, strict=False)

    def _tell(self, command: dict[str, Any]) -> None:
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(command).encode() + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            raise LoadFailed(f"the clients' process ended: {self._last_output()}") from None

    def _answer(self, timeout: float) -> dict[str, Any]:
        assert self._child.stdout is not None
        deadline = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            readable, _, _ = select.select([self._child.stdout], [], [], max(0.0, deadline - time.monotonic()))
            data = self._child.stdout.read1(1 << 20) if readable else b""  # type: ignore[attr-defined]
            if not data:
                what = "ended" if readable else f"did not answer within {timeout:.0f} s"
                raise LoadFailed(f"the clients' process {what}: {self._last_output()}")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return dict(json.loads(line))

    def _last_output(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]
