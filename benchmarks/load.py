"""The load: one or more generator processes behind one interface, and what their clients received, added up."""

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from functools import reduce
from operator import add
from typing import Any, Self, TypeVar

from benchmarks.latency import Latencies
from benchmarks.machine import LOAD_CORES
from benchmarks.protocol import Endpoint
from benchmarks.remote import Remote

#: Clients of one generator process, far enough below the 20,000 files that a process may open.
_MAX_CLIENTS = 15_000

#: Above so many clients further load cores get a generator of their own, where the machine has them.
_ENOUGH_CLIENTS = 2_000

#: Source addresses, from 127.0.0.1 up: each has some 28,000 ports, and those of closed connections rest for a minute.
_SOURCES = 8

#: Seconds added to a command's own time before its process counts as stuck.
_SLACK = 30.0


class LoadFailed(Exception):
    """Clients could not connect; says how many."""


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
    """What arrived. ``last`` is when the last reader had its last update, in nanoseconds of the monotonic clock.

    ``wrong`` readers have more or fewer updates than expected; ``disordered`` updates did not follow the one before;
    ``fragments`` of messages were not counted; the server ended the connections of ``closed`` readers.
    """

    expected: int = field(metadata={"combine": max})
    last: int = field(metadata={"combine": max})
    readers: int
    updates: int
    wrong: int
    disordered: int
    fragments: int
    closed: int
    cpu: float
    latency: Latencies

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
        return type(one)(*(
            field.metadata.get("combine", add)(getattr(one, field.name), getattr(other, field.name))
            for field in fields(one)
        ))  # fmt: skip

    return reduce(both, results)


class Load:
    """Generator processes for up to so many clients; a context manager that ends them. Calls wait for all results."""

    def __init__(self, clients: int) -> None:
        count = max(1, min(len(LOAD_CORES), clients // _ENOUGH_CLIENTS), -(-clients // _MAX_CLIENTS))
        self._stack = ExitStack()
        self._generators = [
            self._stack.enter_context(Remote("benchmarks.generator", LOAD_CORES[i % len(LOAD_CORES)]))
            for i in range(count)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _call(self, command: str, *, within: float = 0.0, **arguments: Any) -> list[Any]:
        for generator in self._generators:
            generator.send(command, **arguments)
        return [generator.receive(within + _SLACK) for generator in self._generators]

    def connect(
        self, endpoint: Endpoint, port: int, tasks: Sequence[str], *, stalled: int = 0, in_flight: int = 64,
        notes: Sequence[str] = (), retry: float = 0.0, timeout: float = 60.0, must: bool = True,
    ) -> Connected:  # fmt: skip
        """Connect one client for each task named; without tasks all that were dropped reconnect, with their positions.

        Args:
            endpoint: How they subscribe.
            port: Of the server.
            tasks: One for each client.
            stalled: So many, the last ones, never read again.
            in_flight: Clients that connect at a time.
            notes: Texts to count in the replies.
            retry: Seconds after which a failed client tries again, and that attempt counts as failed; 0 for never.
            timeout: Seconds for all of them.
            must: Whether to raise LoadFailed when a client does not get in.
        """
        count, called = len(self._generators), []
        for i, generator in enumerate(self._generators):
            part = list(tasks[i * len(tasks) // count : (i + 1) * len(tasks) // count])
            if part or not tasks:
                called.append(generator)
                generator.send(
                    "connect", endpoint=endpoint, port=port, tasks=part, in_flight=max(1, in_flight // count),
                    stalled=stalled if i == count - 1 else 0, notes=list(notes), timeout=timeout, retry=retry,
                    sources=[f"127.0.0.{1 + i * _SOURCES + k}" for k in range(_SOURCES)],
                )  # fmt: skip
        done: Connected = combine([generator.receive(timeout + _SLACK) for generator in called])
        if must and done.failed:
            raise LoadFailed(f"{done.failed} of {done.failed + done.clients} clients could not connect")
        return done

    def drop(self) -> int:
        """Close the connections of all readers at once; returns how many of them know a position."""
        return sum(self._call("drop"))

    def arm(
        self, expected: int, *, sample: int = 1, is_continued: bool = False, keep_last: bool = False,
        all_reconnect: bool = False,
    ) -> int:  # fmt: skip
        """Expect so many updates at each reader from now on; returns the readers. `Generator.arm` describes the arguments."""
        return sum(self._call(
            "arm", expected=expected, sample=sample, is_continued=is_continued, keep_last=keep_last,
            all_reconnect=all_reconnect,
        ))  # fmt: skip

    def collect(self, timeout: float, *, quiet: float = 2.0) -> Received:
        """Wait for what is expected: until it has come, or nothing has come for `quiet` seconds, or time is up."""
        received: Received = combine(self._call("collect", within=timeout, timeout=timeout, quiet=quiet))
        return received

    def closings(self, timeout: float) -> dict[int, float | None]:
        """Wait until the server has closed all stalled clients; returns when, by port, and None for those it did not close."""
        return {
            port: at for part in self._call("closings", within=timeout, timeout=timeout) for port, at in part.items()
        }

    def forget_stalled(self) -> None:
        """Close the stalled clients that are left."""
        self._call("forget_stalled")
