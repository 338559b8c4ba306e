"""A crowd of clients on one server: how it comes in (`storm`), what reaches it (`broadcast`), what it costs (`idle`).

It is measured once for all three: getting 18,000 clients in takes longer than anything that is then done with them.
"""

import time
from dataclasses import dataclass, field
from functools import partial

from benchmarks.latency import Latencies
from benchmarks.load import Connected
from benchmarks.machine import LOAD_CORES, Cpu
from benchmarks.measure import Run, testbed
from benchmarks.peers.base import Peer
from benchmarks.results import median
from benchmarks.scenarios.base import Sizes, Trial

#: How many clients there are, step by step.
CLIENTS = Sizes((1_000, 10_000, 18_000), (1_000, 5_000), (50,))
#: Seconds in which a crowd is watched doing nothing: one interval of Relay's heartbeat. Peers get less in a quick run.
IDLE_SECONDS, _IDLE_SECONDS_PEERS = Sizes(25.0, 25.0, 0.5), Sizes(25.0, 5.0, 0.5)
#: Connections that are opened at a time while the crowd comes in.
IN_FLIGHT = 256
BYTES = 128

#: Broadcasts to a crowd are ended after so many seconds, for servers that need seconds for each.
_MAX_SECONDS, _TIMEOUT = 15.0, 120.0


@dataclass
class Crowd:
    """Observations of one server. ``memory``: resident bytes before anyone came, and with all; ``idle``: seconds, and CPU
    seconds of the server in them; ``stayed``: whether all were still there afterwards."""

    steps: list[tuple[Connected, Cpu]] = field(default_factory=list)
    memory: tuple[int, int] = (0, 0)
    idle: tuple[float, float] = (0.0, 0.0)
    stayed: bool = False
    broadcasts: dict[int, list[Run]] = field(default_factory=dict)

    @property
    def connected(self) -> int:
        """How many came in."""
        return sum(step.clients for step, _ in self.steps)

    @property
    def failed(self) -> int:
        """How many attempts failed."""
        return sum(step.failed for step, _ in self.steps)


def _crowds(trial: Trial) -> dict[str, Crowd]:
    """Return the crowd of each server; those that an earlier scenario has not asked for are measured now."""
    known: dict[str, Crowd] = trial.context.measured.setdefault("crowds", {})
    new = [peer for peer in trial.peers if peer.name not in known]
    trial.expect(len(new))
    for peer in new:
        known[peer.name] = trial.attempt(peer, "", partial(_measure, trial, peer)) or Crowd()
    return {peer.name: known[peer.name] for peer in trial.peers if known[peer.name].connected}


def _measure(trial: Trial, peer: Peer) -> Crowd:
    crowd, sizes = Crowd(), trial.pick(CLIENTS)
    updates, settle = trial.updates(None), trial.pick(Sizes(2.0, 2.0, 0.1))
    with testbed(peer, trial.context.directory / "crowd", max(sizes)) as bed:
        time.sleep(settle)
        before = bed.server.memory()
        for size in sizes:
            cpu = bed.server.cpu()
            new = bed.follow_everyone(size - crowd.connected, in_flight=IN_FLIGHT, timeout=_TIMEOUT, must=False)
            crowd.steps.append((new, bed.server.cpu().since(cpu)))
            if crowd.failed:
                break  # further figures would not be comparable
            if "broadcast" in trial.context.chosen:
                bed.warm_up(updates)
                runs = crowd.broadcasts.setdefault(size, [])
                deadline = time.monotonic() + _MAX_SECONDS
                while len(runs) < trial.pick(Sizes(9, 5, 2)) and time.monotonic() < deadline:
                    runs.append(bed.burst(updates, 1))
                    time.sleep(0.2)
        time.sleep(settle)
        crowd.memory = (before, bed.server.memory())
        if "idle" in trial.context.chosen:
            cpu, began = bed.server.cpu(), time.monotonic()
            time.sleep(trial.pick(IDLE_SECONDS if peer.is_relay else _IDLE_SECONDS_PEERS))
            crowd.idle = (time.monotonic() - began, bed.server.cpu().since(cpu).ran)
            crowd.stayed = bed.burst(updates, 1).received.is_complete
    return crowd


def storm(trial: Trial) -> None:
    """How fast the crowd came in."""
    for name, crowd in _crowds(trial).items():
        seconds = sum(step.seconds for step, _ in crowd.steps)
        ran = sum(cpu.ran for _, cpu in crowd.steps)
        ready = sum((step.ready for step, _ in crowd.steps), Latencies())
        figures = {
            "accepted": crowd.connected / seconds, "accepted_per_core": crowd.connected / max(ran, 1e-9),
            "p50": ready.quantile(0.5), "p99": ready.quantile(0.99), "failed": float(crowd.failed),
            "server": ran / seconds, "load": sum(step.cpu for step, _ in crowd.steps) / seconds / len(LOAD_CORES),
            "waited": sum(cpu.waited for _, cpu in crowd.steps) / seconds,
        }  # fmt: skip
        row = trial.add(name, figures, [], clients=crowd.connected, seconds=seconds, server_cpu=ran)
        row.complete = not crowd.failed


def broadcast(trial: Trial) -> None:
    """When one update for everyone reached the crowd."""
    crowds = _crowds(trial)
    for size in trial.p["clients"]:
        for name, crowd in crowds.items():
            if runs := crowd.broadcasts.get(size):
                figures = {"last": median([run.seconds for run in runs])}
                trial.add(name, figures, runs, case=f"{size:,} clients")


def idle(trial: Trial) -> None:
    """Measure the cost of the crowd while nothing is published."""
    for name, crowd in _crowds(trial).items():
        (before, after), (seconds, cpu) = crowd.memory, crowd.idle
        if after and seconds and not crowd.failed:
            figures = {"memory": (after - before) / crowd.connected, "idle_cpu": cpu / seconds}
            row = trial.add(name, figures, [], memory=crowd.memory, clients=crowd.connected, idle=crowd.idle)
            row.complete = crowd.stayed
