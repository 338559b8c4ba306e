"""One server under load: its clients, its publisher, and what a run on them shows."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.histogram import Histogram
from benchmarks.load import Connected, Load, Received
from benchmarks.machine import LOAD_CORES, Cpu
from benchmarks.peers import Peer
from benchmarks.publisher import Published, Publisher
from benchmarks.results import median
from benchmarks.servers import Running
from benchmarks.wire import Form

_TIMEOUT = 30.0

#: Between two looks at a server that is to come to rest, and the share of a core that it may use then.
_SETTLE = 0.2
_QUIET = 0.2
_LOOKS = 50

#: Seconds behind the publisher at which a server no longer keeps up.
_LAG = 1.0


@dataclass
class Run:
    """What one run shows. Shares are of the time from when the first update was due to the last arrival."""

    received: Received
    published: Published
    seconds: float
    server_cpu: float
    server_waited: float
    load_cpu: float
    broker_cpu: float

    @property
    def rate(self) -> float:
        """Deliveries a second."""
        return self.received.frames / self.seconds

    @property
    def expected(self) -> int:
        """Deliveries that there should be."""
        return self.received.expected * self.received.readers

    @property
    def delivered(self) -> float:
        """The share of them that there was."""
        return self.received.frames / max(1, self.expected)

    @property
    def keeps_up(self) -> bool:
        """All came, and the last one not long after it was published."""
        return self.received.is_whole and self.received.last - self.published.sent < _LAG * 1e9

    @property
    def per_core(self) -> float:
        """Deliveries for a second of the server's CPU."""
        return self.received.frames / max(self.server_cpu, 1e-9)

    @property
    def load_core(self) -> float:
        """How busy this run kept the cores of the load: generators, publisher, and the Redis that feeds the server."""
        spent = self.load_cpu + self.published.cpu + self.broker_cpu
        return spent / self.seconds / len(LOAD_CORES)

    def shares(self) -> dict[str, float]:
        """The figures that say what was busy."""
        return {
            "server": self.server_cpu / self.seconds,
            "load": self.load_cpu / self.seconds / len(LOAD_CORES),
            "load_core": self.load_core,
            "waited": self.server_waited / self.seconds,
        }

    def latencies(self) -> dict[str, float]:
        """The figures of the latency."""
        return quantiles(self.received.latency)

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "seconds": self.seconds, "frames": self.received.frames, "expected": self.expected, "rate": self.rate,
            "server_cpu": self.server_cpu, "server_waited": self.server_waited, "load_cpu": self.load_cpu,
            "publisher_cpu": self.published.cpu, "broker_cpu": self.broker_cpu, "publisher_late": self.published.late,
            "disordered": self.received.disordered, "closed": self.received.closed,
            "latency": self.received.latency.encoded if self.received.latency.total else None,
        }  # fmt: skip


#: The figures of `Run.shares`.
SHARES = ("server", "load", "load_core", "waited")


def middle_shares(runs: Sequence[Run]) -> dict[str, float]:
    """What was busy in the middle one of several runs."""
    return {name: median([one.shares()[name] for one in runs]) for name in SHARES}


def quantiles(latency: Histogram) -> dict[str, float]:
    """The figures of a latency."""
    names = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1.0}
    return {name: latency.quantile(fraction) for name, fraction in names.items()} if latency.total else {}


def middle_quantiles(runs: Sequence[Run]) -> dict[str, float]:
    """The figures of several runs' latencies: the middle one of each quantile, and the worst maximum.

    A machine that stands still for a moment in one of the runs must not decide.
    """
    each = [quantiles(one.received.latency) for one in runs if one.received.latency.total]
    if not each:
        return {}
    return {name: median([one[name] for one in each]) for name in each[0]} | {"max": max(one["max"] for one in each)}


class Contender:
    """A server with its load and its publisher. Made by `contender`."""

    def __init__(self, peer: Peer, server: Running, load: Load, publisher: Publisher) -> None:
        self.peer = peer
        self.name = peer.name
        self.server = server
        self.load = load
        self.publisher = publisher

    def follow(self, tasks: Sequence[str], **options: Any) -> Connected:
        """Connect one client for each task named."""
        return self.load.connect(self.server.task, self.server.port, tasks, **options)

    def follow_general(self, count: int, **options: Any) -> Connected:
        """Connect clients that get what is for everyone."""
        return self.load.connect(self.server.everyone, self.server.port, [""] * count, **options)

    def leave(self) -> None:
        """All clients hang up; waits until the server has come to rest after that, 10 s at most."""
        self.load.drop()
        cpu = self.server.cpu().ran
        for _ in range(_LOOKS):
            time.sleep(_SETTLE)
            before, cpu = cpu, self.server.cpu().ran
            if cpu - before < _SETTLE * _QUIET:
                return

    def burst(self, forms: Sequence[Form], count: int, *, look_every: int, frozen: bool = False, seed: int = 0) -> Run:
        """Publish `count` updates of each form at once, and wait for the last one at the last client.

        frozen: stop the server meanwhile, so that all of them wait in Redis when it begins
        """
        self.publisher.use(forms)
        self.load.arm(count, look_every=look_every)
        cpu, broker = self.server.cpu(), self.server.broker_cpu()
        if frozen:
            self.server.freeze()
        try:
            published = self.publisher.burst(count, seed=seed)
            if frozen:
                broker = self.server.broker_cpu()
                published = published._replace(started=time.monotonic_ns(), cpu=0.0)
        finally:
            if frozen:
                self.server.thaw()
        return self._collect(published, cpu, broker)

    def paced(self, forms: Sequence[Form], updates: int, rate: float, *, look_every: int, quiet: float = 2.0) -> Run:
        """Publish `updates` in all, `rate` a second, and wait for the last one at the last client."""
        self.publisher.use(forms)
        self.load.arm(updates // len(forms), look_every=look_every)
        cpu, broker = self.server.cpu(), self.server.broker_cpu()
        return self._collect(self.publisher.paced(updates, rate), cpu, broker, quiet)

    def _collect(self, published: Published, cpu: Cpu, broker: float, quiet: float = 2.0) -> Run:
        received = self.load.collect(_TIMEOUT, quiet=quiet)
        spent = self.server.cpu().since(cpu)
        seconds = max(1, received.last - published.started) / 1e9
        return Run(
            received, published, seconds, spent.ran, spent.waited, received.cpu, self.server.broker_cpu() - broker
        )

    def warm_up(self, forms: Sequence[Form], *, patience: float = 20.0) -> None:
        """Publish until everything arrives once: subscriptions may settle after the clients were told that they did.

        Raises WarmUpFailed when it never does.
        """
        deadline = time.monotonic() + patience
        while True:
            received = self.burst(forms, 1, look_every=1).received
            if received.is_whole:
                return
            if time.monotonic() > deadline:
                raise WarmUpFailed(
                    f"{self.name} delivered {received.frames} of {received.expected * received.readers} updates; "
                    f"{received.closed} clients lost their connection"
                )


class WarmUpFailed(Exception):
    """A server never delivered an update to all clients; has the figures."""


@contextmanager
def contender(peer: Peer, directory: Path, clients: int) -> Iterator[Contender]:
    """A server that is up, with load generators for so many clients and a publisher."""
    with ExitStack() as stack:
        server = stack.enter_context(peer.start(directory / peer.name))
        load = stack.enter_context(Load(clients))
        publisher = stack.enter_context(Publisher(server.feed, server.feed_port, **server.feed_options))
        yield Contender(peer, server, load, publisher)
