"""The load: one or more generator processes behind one face, and what they have received, as one."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from benchmarks.doors import Door
from benchmarks.histogram import Histogram
from benchmarks.machine import LOAD_CORES
from benchmarks.remote import Remote

#: Clients of one generator process, far enough below the 20,000 files that a process may open.
_MOST_CLIENTS = 15_000

#: Above so many clients further load cores get a generator of their own, where the machine has them.
_ENOUGH_CLIENTS = 2_000

#: Source addresses, from 127.0.0.1 up: each has some 28,000 ports, and those of closed connections rest for a minute.
_SOURCES = 8

#: Added to a command's own time before its process counts as stuck.
_SLACK = 30.0


class LoadFailed(Exception):
    """Clients could not connect; says how many."""


@dataclass
class Connected:
    """What connecting took. ``failed``: attempts; ``ready``: from a client's connect to its last answer; ``noted``: answers
    with given texts."""

    clients: int = 0
    failed: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
    started: int = 0
    ended: int = 0
    stalled_ports: list[int] = field(default_factory=list)
    ready: Histogram = field(default_factory=Histogram)
    noted: dict[str, int] = field(default_factory=dict)


@dataclass
class Received:
    """What arrived. ``last`` is when the last reader had its last update, in nanoseconds of the monotonic clock.

    missing:    updates that did not come
    wrong:      readers that have more or less than they should
    disordered: updates that were not the next one, among those looked at
    closed:     readers whose connection the server ended
    """

    expected: int
    last: int = 0
    readers: int = 0
    frames: int = 0
    wrong: int = 0
    disordered: int = 0
    strange: int = 0
    closed: int = 0
    cpu: float = 0.0
    latency: Histogram = field(default_factory=Histogram)

    @property
    def missing(self) -> int:
        """Updates that readers who stayed did not get."""
        return max(0, self.expected * self.readers - self.frames)

    @property
    def is_whole(self) -> bool:
        """Every reader stayed and has every update, once; in order, where order was looked at."""
        return not (self.wrong or self.disordered or self.strange or self.closed)


class Load:
    """Generator processes for up to so many clients; a context manager that ends them. Calls wait for all answers."""

    def __init__(self, clients: int) -> None:
        wanted = min(len(LOAD_CORES), clients // _ENOUGH_CLIENTS)
        count = max(1, wanted, -(-clients // _MOST_CLIENTS))
        self._stack = ExitStack()
        self._generators = [
            self._stack.enter_context(Remote("benchmarks.generator", LOAD_CORES[i % len(LOAD_CORES)]))
            for i in range(count)
        ]
        self._expected = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _ask(self, do: str, *, within: float = 0.0, **arguments: Any) -> list[dict[str, Any]]:
        for generator in self._generators:
            generator.tell(do, **arguments)
        return [generator.answer(within + _SLACK) for generator in self._generators]

    def connect(
        self, door: Door, port: int, tasks: Sequence[str], *, stalled: int = 0, in_flight: int = 64,
        notes: Sequence[str] = (), timeout: float = 60.0, must: bool = True,
    ) -> Connected:  # fmt: skip
        """Connect one client for each task named, `in_flight` at a time; each is connected when it has all its answers.

        stalled: so many, the last ones, never read again
        notes:   texts to count in the answers
        must:    raise LoadFailed when a client does not get in
        """
        return self._connect(door, port, list(tasks), stalled, in_flight, notes, timeout, must)

    def come_back(
        self, door: Door, port: int, *, in_flight: int, retry: float, notes: Sequence[str] = (), timeout: float = 60.0
    ) -> Connected:
        """Connect again all clients that were dropped, with the positions that they have. Who is not let in tries again
        after `retry` seconds, and that attempt counts as failed."""
        return self._connect(door, port, [], 0, in_flight, notes, timeout, False, retry)

    def _connect(
        self, door: Door, port: int, tasks: list[str], stalled: int, in_flight: int, notes: Sequence[str],
        timeout: float, must: bool, retry: float = 0.0,
    ) -> Connected:  # fmt: skip
        generators = self._generators
        count = len(generators)
        for i, generator in enumerate(generators):
            part = tasks[i * len(tasks) // count : (i + 1) * len(tasks) // count]
            if tasks and not part:
                continue
            first = 1 + i * _SOURCES
            generator.tell(
                "connect", door=door.plain(), port=port, tasks=part, in_flight=max(1, in_flight // count),
                stalled=stalled if i == count - 1 else 0, notes=list(notes), timeout=timeout, retry=retry,
                sources=[f"127.0.0.{first + k}" for k in range(_SOURCES)],
            )  # fmt: skip
        done = Connected(started=2**63)
        for i, generator in enumerate(generators):
            if tasks and not tasks[i * len(tasks) // count : (i + 1) * len(tasks) // count]:
                continue
            answer = generator.answer(timeout + _SLACK)
            done.clients += answer["connected"]
            done.failed += answer["failed"]
            done.cpu += answer["cpu"]
            done.started = min(done.started, answer["started"])
            done.ended = max(done.ended, answer["ended"])
            done.stalled_ports += answer["stalled_ports"]
            done.ready.merge(Histogram.of(answer["ready"]))
            for note, times in answer["noted"].items():
                done.noted[note] = done.noted.get(note, 0) + times
        done.seconds = (done.ended - done.started) / 1e9
        if must and done.failed:
            raise LoadFailed(f"{done.failed} of {done.failed + done.clients} clients could not connect")
        return done

    def drop(self) -> int:
        """End the connections of all readers at once; returns how many of them know a position."""
        return sum(answer["positions"] for answer in self._ask("drop"))

    def arm(
        self, expected: int, *, look_every: int = 1, is_continued: bool = False, keep_last: bool = False,
        all_come_back: bool = False,
    ) -> int:  # fmt: skip
        """Expect so many updates at each reader from now on; returns the readers.

        look_every:    one client in so many looks at order and age; with 0 updates are only counted
        is_continued:  sequence numbers go on where they were
        keep_last:     keep the positions of the last updates
        all_come_back: those who are gone count as readers, too
        """
        self._expected = expected
        readers = 0
        for generator in self._generators:
            answer = generator.ask(
                "arm", expected=expected, look_every=look_every, is_continued=is_continued, keep_last=keep_last,
                all_come_back=all_come_back,
            )  # fmt: skip
            readers += answer["readers"]
        return readers

    def collect(self, timeout: float, *, quiet: float = 2.0) -> Received:
        """Wait for what was expected: until it is there, or nothing has come for `quiet` seconds, or time is up."""
        received = Received(self._expected)
        for answer in self._ask("collect", within=timeout, timeout=timeout, quiet=quiet):
            received.last = max(received.last, answer["last"])
            for name in ("readers", "frames", "wrong", "disordered", "strange", "closed", "cpu"):
                setattr(received, name, getattr(received, name) + answer[name])
            received.latency.merge(Histogram.of(answer["latency"]))
        return received

    def hang_ups(self, timeout: float) -> dict[int, float | None]:
        """Wait until all stalled clients were hung up on; by port, when each was, and None for those that were not."""
        gone: dict[int, float | None] = {}
        for answer in self._ask("hang_ups", within=timeout, timeout=timeout):
            gone |= {int(port): at for port, at in answer.items()}
        return gone

    def forget_stalled(self) -> None:
        """Close the stalled clients that are left."""
        self._ask("forget_stalled")
