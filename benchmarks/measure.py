"""One server under load: its clients, its publisher, and the figures of a run on them."""

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.load import Connected, Load, Received
from benchmarks.machine import LOAD_CORES, Cpu
from benchmarks.peers.base import Peer
from benchmarks.publisher import Published, Publisher
from benchmarks.results import median
from benchmarks.servers import Server, started
from benchmarks.wire import Update

_TIMEOUT = 30.0

#: Seconds between two looks at a server that is to come to rest, the share of a core that it may use then, and how many looks.
_SETTLE, _QUIET, _LOOKS = 0.2, 0.2, 50


class WarmUpFailed(Exception):
    """A server never delivered an update to all clients; has the figures."""


@dataclass
class Run:
    """One run. ``seconds`` are from when the first update was due to the last arrival; CPU is in seconds."""

    received: Received
    published: Published
    seconds: float
    server: Cpu
    redis_cpu: float

    @property
    def rate(self) -> float:
        """Deliveries a second."""
        return self.received.updates / self.seconds

    @property
    def per_core(self) -> float:
        """Deliveries per second of the server's CPU."""
        return self.received.updates / max(self.server.ran, 1e-9)

    def figures(self) -> dict[str, float]:
        """Return the figures of a row. ``load_core`` is the share of generators, publisher and Redis together."""
        load = self.received.cpu / self.seconds / len(LOAD_CORES)
        others = (self.published.cpu + self.redis_cpu) / self.seconds / len(LOAD_CORES)
        return {
            "rate": self.rate, "per_core": self.per_core, "server": self.server.ran / self.seconds, "load": load,
            "load_core": load + others, "waited": self.server.waited / self.seconds,
            "delivered": self.received.updates / max(1, self.received.expected * self.received.readers),
            **self.received.latency.quantiles(),
        }  # fmt: skip


def medians(runs: Sequence[Run]) -> dict[str, float]:
    """Return the median of each figure of several runs, except those that some of them do not have."""
    each = [run.figures() for run in runs]
    return (
        {name: median([one[name] for one in each]) for name in each[0] if all(name in one for one in each)}
        if each
        else {}
    )


def all_complete(runs: Sequence[Run]) -> bool:
    """Whether nothing was lost, doubled or out of order in any run."""
    return all(run.received.is_complete for run in runs)


class Testbed:
    """A server with its load and its publisher. Made by `testbed`. ``accepted_per_core``: connections per CPU second."""

    __test__ = False  # not a class of tests

    def __init__(self, peer: Peer, server: Server, load: Load, publisher: Publisher) -> None:
        self.peer = peer
        self.server = server
        self.load = load
        self.publisher = publisher
        self.accepted_per_core = 0.0

    def follow(self, tasks: Sequence[str], **options: Any) -> Connected:
        """Connect one client for each task named; each of several processes gets its share."""
        ports = self.server.ports
        for number, port in enumerate(ports):
            part = tasks[len(tasks) * number // len(ports) : len(tasks) * (number + 1) // len(ports)]
            connected = self.load.connect(self.peer.endpoint, port, part, **options)
        return connected

    def follow_everyone(self, count: int, **options: Any) -> Connected:
        """Connect clients that receive what is for everyone."""
        endpoint = self.peer.everyone or self.peer.endpoint.for_everyone()
        return self.load.connect(endpoint, self.server.ports[0], [""] * count, **options)

    def leave(self) -> None:
        """Disconnect all clients; waits until the server has come to rest after that, 10 s at most."""
        self.load.drop()
        self.rest()

    def rest(self) -> None:
        """Wait until the server has come to rest, 10 s at most."""
        cpu = self.server.cpu().ran
        for _ in range(_LOOKS):
            time.sleep(_SETTLE)
            before, cpu = cpu, self.server.cpu().ran
            if cpu - before < _SETTLE * _QUIET:
                return

    def burst(
        self, updates: Sequence[Update], count: int, *, sample: int = 1, stop: bool = False, seed: int = 0
    ) -> Run:
        """Publish each update `count` times at once, and wait for the last one at the last client.

        With ``stop`` the server is stopped meanwhile, so that all of them wait in Redis when it goes on.
        """
        cpu, redis_cpu = self._begin(updates, count, sample)
        if stop:
            self.server.signal(signal.SIGSTOP)
        try:
            published = self.publisher.burst(count, seed=seed)
            if stop:
                redis_cpu = self.server.redis_cpu()
                published = replace(published, started=time.monotonic_ns(), cpu=0.0)
        finally:
            if stop:
                self.server.signal(signal.SIGCONT)
        return self._collect(published, cpu, redis_cpu)

    def paced(
        self,
        updates: Sequence[Update],
        count: int,
        rate: float,
        *,
        sample: int = 1,
        quiet: float = 2.0,
        shared_sequence: bool = False,
    ) -> Run:
        """Publish `count` in all, `rate` a second, and wait for the last one at the last client.

        Each client expects one kind of update; with ``shared_sequence``, all of them, numbered together.
        """
        started = self._begin(updates, count if shared_sequence else count // len(updates), sample)
        return self._collect(self.publisher.paced(count, rate, shared_sequence=shared_sequence), *started, quiet)

    def _begin(self, updates: Sequence[Update], expected: int, sample: int) -> tuple[Cpu, float]:
        self.publisher.use(updates)
        self.load.arm(expected, sample=sample)
        return self.server.cpu(), self.server.redis_cpu()

    def _collect(self, published: Published, cpu: Cpu, redis_cpu: float, quiet: float = 2.0) -> Run:
        received = self.load.collect(_TIMEOUT, quiet=quiet)
        spent = self.server.cpu().since(cpu)
        seconds = max(1, received.last - published.started) / 1e9
        return Run(received, published, seconds, spent, self.server.redis_cpu() - redis_cpu)

    def warm_up(self, updates: Sequence[Update], *, timeout: float = 20.0) -> None:
        """Publish until everything arrives once: a server may acknowledge a subscription before it takes effect.

        Raises WarmUpFailed when it never does.
        """
        deadline = time.monotonic() + timeout
        while not (received := self.burst(updates, 1).received).is_complete:
            if time.monotonic() > deadline:
                raise WarmUpFailed(
                    f"{self.peer.name} delivered {received.updates} of {received.expected * received.readers} updates; "
                    f"{received.closed} clients lost their connection"
                )


@contextmanager
def testbed(peer: Peer, directory: Path, clients: int) -> Iterator[Testbed]:
    """Run a server with load generators for so many clients, and a publisher."""
    with ExitStack() as stack:
        server = stack.enter_context(started(peer, directory / peer.name))
        load = stack.enter_context(Load(clients))
        publisher = stack.enter_context(Publisher(peer.publishing, server.publish_port))
        yield Testbed(peer, server, load, publisher)
