"""The suite's side of a load generator: starts the process, asks it, and judges whether it was fast enough itself."""

import json
import subprocess
import sys
from types import TracebackType
from typing import Any, NamedTuple, Self

from benchmarks.histogram import Histogram
from benchmarks.machine import LOAD_CORE, pinned
from benchmarks.wire import Form
from relay.processes import start_child

#: A generator that used more of a core than this may have been what was measured.
SATURATED = 0.9


class LoadFailed(Exception):
    """The clients did not come about or got no answer; says how many."""


class Connected(NamedTuple):
    """What connecting took."""

    clients: int
    seconds: float
    cpu: float
    stalled_ports: list[int]


class Received(NamedTuple):
    """What arrived. ``last`` is when the last reader had its last update, in nanoseconds of the monotonic clock."""

    complete: bool
    last: int
    readers: int
    frames: int
    wrong_count: int
    disordered: int
    closed: int
    cpu: float
    latency: Histogram
    gone: dict[int, float | None]

    @property
    def is_whole(self) -> bool:
        """Every reader stayed and has every update, once; in order, where order was looked at."""
        return self.complete and not (self.wrong_count or self.disordered or self.closed)


class Load:
    """A load generator process; a context manager that ends it. Calls wait for its answer."""

    def __init__(self) -> None:
        with pinned(LOAD_CORE):
            self._child = start_child(
                [sys.executable, "-m", "benchmarks.generator"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.kill()
        self._child.wait()

    def _ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        self._child.stdin.flush()
        line = self._child.stdout.readline()
        if not line:
            raise LoadFailed("the load generator ended; its error stands above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def connect(
        self, port: int, count: int, greeting: str, *, path: str = "/ws/tasks", stalled: int = 0, in_flight: int = 64,
        timed_every: int = 1, sources: int = 1, timeout: float = 60.0,
    ) -> Connected:  # fmt: skip
        """Connect clients, `in_flight` at a time; each counts as connected when its greeting was answered.

        stalled:     so many of them never read again
        timed_every: the latency is taken from one client in so many
        sources:     source addresses, from 127.0.0.1 up; each has some 28,000 ports
        """
        answer = self._ask(
            "connect", port=port, path=path, count=count, greeting=greeting, stalled=stalled, in_flight=in_flight,
            timed_every=timed_every, sources=sources, timeout=timeout,
        )  # fmt: skip
        if answer["failed"]:
            raise LoadFailed(f"{answer['failed']} of {count} clients could not connect")
        return Connected(answer["connected"], answer["seconds"], answer["cpu"], answer["stalled_ports"])

    def arm(self, expected: int, form: Form | None = None) -> int:
        """Expect so many updates at each reader; with a form their order and age are looked at. Returns the readers."""
        offsets = (form.sequence, form.at) if form is not None else (-1, -1)
        readers: int = self._ask("arm", expected=expected, sequence_at=offsets[0], time_at=offsets[1])["readers"]
        return readers

    def collect(self, timeout: float, *, hang_ups: bool = False) -> Received:
        """Wait for what was expected, and for the end of the stalled clients' connections if asked to."""
        answer = self._ask("collect", timeout=timeout, hang_ups=hang_ups)
        answer["latency"] = Histogram.from_json(answer["latency"])
        answer["gone"] = {int(port): at for port, at in answer["gone"].items()}
        return Received(**answer)

    def forget_stalled(self) -> None:
        """Close the stalled clients that are left."""
        self._ask("forget_stalled")
