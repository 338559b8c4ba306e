"""Official clients whose connections fail: one at a time (`jitter`), all at once (`avalanche`), and while servers are replaced
(`deploy`).
"""

import threading
import time
from collections.abc import Sequence

from benchmarks.official_clients import Delivered, OfficialClients
from benchmarks.peers.base import Peer
from benchmarks.publisher import Publisher, PublishFailed
from benchmarks.results import Row
from benchmarks.scenarios.base import Trial
from benchmarks.servers import Server, started

#: Seconds for which missing updates are waited for, when nothing is published any more; and more for each client.
_TIMEOUT = 20.0
_TIMEOUT_EACH = 0.02


def _names(trial: Trial) -> list[str]:
    return [f"t{i:05d}" for i in range(trial.p["tasks"])]


def _clients(trial: Trial, peer: Peer, server: Server, *, networks: int) -> OfficialClients:
    log = trial.directory / peer.name / "clients.log"
    return OfficialClients(peer.library, _serving(peer, server), _names(trial), trial.p["clients"], networks, log)


def _serving(peer: Peer, server: Server) -> list[int]:
    """Return the ports at which clients are served."""
    return server.ports[: peer.processes - peer.spare_processes]


def _collect(trial: Trial, clients: OfficialClients, count: int) -> Delivered:
    return clients.collect(count, _TIMEOUT + _TIMEOUT_EACH * trial.p["clients"])


def _add(trial: Trial, peer: Peer, delivered: Delivered, figures: dict[str, float]) -> Row:
    figures = {
        "delivered": delivered.delivered / delivered.expected, "doubled": float(delivered.doubled),
        "reordered": float(delivered.reordered), **figures,
    }  # fmt: skip
    row = trial.add(peer.name, figures, [], received=delivered)
    row.complete = delivered.delivered == delivered.expected and not delivered.doubled and not delivered.reordered
    return row


def jitter(trial: Trial, peer: Peer) -> None:
    """Let the network of each client fail again and again while updates are published."""
    tasks, rate, seconds, cut = _names(trial), trial.p["updates/s of each"], trial.p["seconds"], trial.p["seconds cut"]
    count = round(rate * (seconds + cut + 1.0))
    with (
        started(peer, trial.directory / peer.name) as server,
        _clients(trial, peer, server, networks=trial.p["clients"]) as clients,
        Publisher(peer.publishing, server.publish_port) as publisher,
    ):
        publisher.use(trial.updates(*tasks))
        clients.fail(seconds, trial.p["seconds between"], round(cut * 1000), trial.context.seed)
        publisher.paced(count * len(tasks), rate * len(tasks))
        clients.wait_failed()
        delivered = _collect(trial, clients, count)
    recoveries = delivered.recoveries
    figures = {"failures": float(delivered.failures)}
    if recoveries:
        for name, fraction in (("recovery_p50", 0.5), ("recovery_p99", 0.99)):
            figures[name] = recoveries[min(len(recoveries) - 1, int(len(recoveries) * fraction))] / 1000
    _add(trial, peer, delivered, figures)


def avalanche(trial: Trial, peer: Peer) -> None:
    """Restart the only server of many clients, which lose their connections at once.

    What is published meanwhile waits in Redis, or in the publisher where the server takes updates itself.
    """
    parts = trial.p["updates before, during, after"]
    with (
        started(peer, trial.directory / peer.name) as server,
        _clients(trial, peer, server, networks=1) as clients,
    ):
        updates, first = trial.updates(*_names(trial)), 0
        startup_seconds = clients.startup_seconds
        for number, count in enumerate(parts):
            if number == 1:
                stopped = time.monotonic_ns()
                server.processes[0].stop()
                if not peer.redis:
                    server.processes[0].start()
            with Publisher(peer.publishing, server.publish_port) as publisher:
                publisher.use(updates)
                publisher.burst(count, first=first)
            first += count
            if number == 1 and peer.redis:
                server.processes[0].start()
            if number == 1:
                began = time.monotonic_ns()
                delivered = _collect(trial, clients, first)
        delivered = _collect(trial, clients, first)
    figures = {"accepted": trial.p["clients"] / max(startup_seconds, 1e-3), "away": (began - stopped) / 1e9}
    row = _add(trial, peer, delivered, figures)
    if delivered.complete == trial.p["clients"]:
        row.figures["served"] = max(0, delivered.last - began) / 1e9


def deploy(trial: Trial, peer: Peer) -> None:
    """Replace one of two servers, then the other, behind a proxy that leads clients to those that are there.

    The most connects in a second are those of the busier server, and include the first connects.
    """
    tasks, rate = _names(trial), trial.p["updates/s of each"]
    with (
        started(peer, trial.directory / peer.name) as server,
        _clients(trial, peer, server, networks=1) as clients,
        Publisher(peer.publishing, server.publish_port) as publisher,
    ):
        publisher.use(trial.updates(*tasks))
        publishing = _Publishing(publisher, len(tasks), rate)
        publishing.start()
        took: list[float] = []
        try:
            for number, port in enumerate(_serving(peer, server)):
                time.sleep(trial.p["seconds between"])
                began = time.monotonic()
                clients.use(_others(_serving(peer, server), port))
                server.processes[number].stop(timeout=60.0)
                server.processes[number].start()
                clients.use(_serving(peer, server))
                took.append(time.monotonic() - began)
            time.sleep(trial.p["seconds between"])
        finally:
            count = publishing.finish()
        delivered = _collect(trial, clients, count)
    figures = {"away": max(took), "connects": float(delivered.connects), "refused": float(delivered.refused)}
    _add(trial, peer, delivered, figures)


def _others(ports: Sequence[int], port: int) -> list[int]:
    return [other for other in ports if other != port]


class _Publishing(threading.Thread):
    """Publishes at a pace, a second at a time, until it is to finish."""

    def __init__(self, publisher: Publisher, tasks: int, rate: float) -> None:
        super().__init__(daemon=True)
        self._publisher = publisher
        self._tasks = tasks
        self._rate = rate
        self._each = 0
        self._error: Exception | None = None
        self._is_finishing = threading.Event()

    def run(self) -> None:
        each = max(1, round(self._rate))
        try:
            while not self._is_finishing.is_set():
                self._publisher.paced(each * self._tasks, self._rate * self._tasks, first=self._each)
                self._each += each
        except (PublishFailed, OSError) as error:
            self._error = error

    def finish(self) -> int:
        """Return how many updates of each task were published. Raises PublishFailed."""
        self._is_finishing.set()
        self.join()
        if self._error is not None:
            raise PublishFailed(f"publishing failed: {self._error}") from self._error
        return self._each
