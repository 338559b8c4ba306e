"""The load: one or more generator processes behind one interface, and what their clients received, added up.

Commands and results are pickled over a pipe to each process.
"""

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import reduce
from multiprocessing import Pipe
from operator import add
from typing import Any, Self, TypeVar

from benchmarks.latency import Latencies
from benchmarks.machine import LOAD_CORES, pinned
from benchmarks.protocol import Endpoint
from relay.processes import start_child

#: Clients of one generator process, far enough below the 20,000 files that a process may open.
_MAX_CLIENTS = 15_000

#: Above so many clients further load cores get a generator of their own, where the machine has them.
_CLIENTS_PER_PROCESS = 2_000

#: Source addresses, from 127.0.0.1 up: each has some 28,000 ports, and those of closed connections rest for a minute.
_SOURCES = 8

#: Seconds added to a command's own time before its process counts as stuck.
_SLACK = 30.0


class LoadFailed(Exception):
    """Clients could not connect, or a generator failed; says how."""


@dataclass
class Connected:
    """The result of connecting. Times are in nanoseconds of the monotonic clock, ``cpu`` in seconds.

    ``failed`` counts attempts; ``ready`` has the time from connect to the last reply; ``noted`` counts texts in replies.
    """

    clients: int
    failed: int
    started: int = field(metadata={"combine": min})
    ended: int = field(metadata={"combine": max})
    cpu: float
    stalled_ports: list[int]
    ready: Latencies
    noted: Counter[str]

    @property
    def seconds(self) -> float:
        """The time that it took."""
        return (self.ended - self.started) / 1e9


@dataclass
class Received:
    """The updates that arrived. ``last`` is when the last reader had its last update, in nanoseconds of the monotonic clock.

    ``done`` readers have what is expected, ``wrong`` ones more or fewer; ``disordered`` updates did not follow the one before;
    ``fragments`` of messages were not counted; the server ended the connections of ``closed`` readers.
    """

    expected: int = field(default=0, metadata={"combine": max})
    readers: int = 0
    last: int = field(default=0, metadata={"combine": max})
    updates: int = 0
    done: int = 0
    wrong: int = 0
    disordered: int = 0
    fragments: int = 0
    closed: int = 0
    cpu: float = 0.0
    latency: Latencies = field(default_factory=Latencies)

    @property
    def missing(self) -> int:
        """Updates that readers who stayed did not receive."""
        return max(0, self.expected * self.readers - self.updates)

    @property
    def is_complete(self) -> bool:
        """Every reader stayed and has every update once; in order, where order was checked."""
        return not (self.wrong or self.disordered or self.fragments or self.closed)


T = TypeVar("T", Connected, Received)


def combine(results: Sequence[T]) -> T:
    """Add up the results of several generators."""

    def both(one: T, other: T) -> T:
        pairs = ((field, getattr(one, field.name), getattr(other, field.name)) for field in fields(one))
        return type(one)(*(field.metadata.get("combine", add)(mine, theirs) for field, mine, theirs in pairs))

    return reduce(both, results)


class _Process:
    """One generator process; `benchmarks.generator` has the other end."""

    def __init__(self, core: int) -> None:
        self._pipe, theirs = Pipe()
        with theirs, pinned(core):
            command = [sys.executable, "-m", "benchmarks.generator", str(theirs.fileno())]
            self._child = start_child(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])

    def stop(self) -> None:
        self._child.kill()
        self._child.wait()
        self._pipe.close()

    def send(self, command: str, **arguments: Any) -> None:
        try:
            self._pipe.send((command, arguments))
        except OSError:
            raise LoadFailed("a load generator has ended") from None

    def receive(self, timeout: float) -> Any:
        try:
            if self._pipe.poll(timeout):
                return self._pipe.recv()
        except (EOFError, OSError):
            raise LoadFailed("a load generator has ended") from None
        raise LoadFailed(f"a load generator did not answer within {timeout:.0f} s")


class Load:
    """Generator processes for up to so many clients; a context manager that ends them. Calls wait for all results.

    Options are those of the command of the same name in `benchmarks.generator`.
    """

    def __init__(self, clients: int) -> None:
        count = max(1, min(len(LOAD_CORES), clients // _CLIENTS_PER_PROCESS), -(-clients // _MAX_CLIENTS))
        self._processes = [_Process(LOAD_CORES[i % len(LOAD_CORES)]) for i in range(count)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.stop()

    def _call(self, command: str, within: float = 0.0, **arguments: Any) -> list[Any]:
        for process in self._processes:
            process.send(command, **arguments)
        return [process.receive(within + _SLACK) for process in self._processes]

    def connect(
        self, endpoint: Endpoint, port: int, tasks: Sequence[str], *, stalled: int = 0, in_flight: int = 64,
        timeout: float = 60.0, must: bool = True, **options: Any,
    ) -> Connected:  # fmt: skip
        """Connect one client for each task named; without tasks all that were dropped reconnect, with their positions.

        So many of them as are ``stalled``, the last ones, never read again. Raises LoadFailed when one ``must`` get in and
        does not.
        """
        count, called = len(self._processes), []
        for i, process in enumerate(self._processes):
            part = list(tasks[i * len(tasks) // count : (i + 1) * len(tasks) // count])
            if part or not tasks:
                called.append(process)
                process.send(
                    "connect", endpoint=endpoint, port=port, tasks=part, in_flight=max(1, in_flight // count),
                    stalled=stalled if i == count - 1 else 0, timeout=timeout,
                    sources=[f"127.0.0.{1 + i * _SOURCES + k}" for k in range(_SOURCES)], **options,
                )  # fmt: skip
        done: Connected = combine([process.receive(timeout + _SLACK) for process in called])
        if must and done.failed:
            raise LoadFailed(f"{done.failed} of {done.failed + done.clients} clients could not connect")
        return done

    def drop(self) -> int:
        """Close the connections of all readers at once; returns how many of them know a position."""
        return sum(self._call("drop"))

    def arm(self, expected: int, **options: Any) -> int:
        """Expect so many updates at each reader from now on; returns the readers."""
        return sum(self._call("arm", expected=expected, **options))

    def collect(self, timeout: float, *, quiet: float = 2.0) -> Received:
        """Wait for what is expected: until it has come, or nothing has come for `quiet` seconds, or time is up."""
        received: Received = combine(self._call("collect", timeout, timeout=timeout, quiet=quiet))
        return received

    def closings(self, timeout: float) -> dict[int, float | None]:
        """Wait until the server has closed all stalled clients; returns when, by port, or None. Closes what is left."""
        return {port: at for part in self._call("closings", timeout, timeout=timeout) for port, at in part.items()}
