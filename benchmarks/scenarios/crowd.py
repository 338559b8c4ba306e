"""A crowd on one server, measured once for the scenarios `storm`, `broadcast` and `idle`: getting 18,000 clients in takes
longer than anything that is then done with them.
"""

import time
from dataclasses import dataclass, field
from functools import partial

from benchmarks.context import Context, attempt
from benchmarks.histogram import Histogram
from benchmarks.load import Connected
from benchmarks.machine import Cpu
from benchmarks.measure import Run, contender
from benchmarks.peers import RELAY, Peer
from benchmarks.results import Report
from benchmarks.wire import form

SIZE = 128

#: Connections that are opened at a time while the crowd comes in.
IN_FLIGHT = 256

#: Broadcasts to a crowd are ended after so long, for servers that need seconds for each.
_LONGEST = 15.0
_TIMEOUT = 120.0


@dataclass
class Crowd:
    """What was seen of one server with its crowd.

    came:  for each size, how many came in, within which time, at what cost for the server and for the load
    idle:  seconds, and CPU seconds of the server in them
    kept:  whether all of them were still there afterwards
    memory: resident bytes before anyone came, and when all were there
    """

    clients: int = 0
    connected: int = 0
    failed: int = 0
    seconds: float = 0.0
    server_cpu: float = 0.0
    server_waited: float = 0.0
    load_cpu: float = 0.0
    ready: Histogram = field(default_factory=Histogram)
    memory: tuple[int, int] = (0, 0)
    idle: tuple[float, float] = (0.0, 0.0)
    kept: bool = False
    broadcasts: dict[int, list[Run]] = field(default_factory=dict)

    def came(self, connected: Connected, cpu: Cpu) -> None:
        """More clients are in."""
        self.connected += connected.clients
        self.failed += connected.failed
        self.seconds += connected.seconds
        self.server_cpu += cpu.ran
        self.server_waited += cpu.waited
        self.load_cpu += connected.cpu
        self.ready.merge(connected.ready)


def sizes(context: Context) -> tuple[int, ...]:
    """How many clients there are, step by step."""
    full, quick, tiny = (1_000, 10_000, 18_000), (1_000, 5_000), (50,)
    return context.pick(full=full, quick=quick, tiny=tiny)


def idle_seconds(context: Context, peer: Peer) -> float:
    """How long a crowd is watched doing nothing: for one interval of Relay's heartbeat, unless it is quick and a peer's."""
    return context.pick(full=25.0, quick=25.0 if peer is RELAY else 5.0, tiny=0.5)


def crowds(context: Context, report: Report) -> dict[str, Crowd]:
    """The crowd of each server, Relay first; measured by the first scenario that asks."""
    peers = [RELAY, *context.able(report)]
    known: dict[str, Crowd] = context.measured.setdefault("crowds", {})
    new = [peer for peer in peers if peer.name not in known]
    with context.progress(report.scenario, len(new)) as begin:
        for peer in new:
            begin(peer.title)
            crowd = attempt(report, peer, partial(_measure, context, peer))
            known[peer.name] = crowd or Crowd()
    return {peer.name: known[peer.name] for peer in peers if known[peer.name].connected}


def _measure(context: Context, peer: Peer) -> Crowd:
    crowd = Crowd(clients=max(sizes(context)))
    forms = [form(None, SIZE)]
    with contender(peer, context.directory / "crowd", crowd.clients) as one:
        time.sleep(context.pick(full=1.0, quick=1.0, tiny=0.2))
        before = one.server.memory()
        for size in sizes(context):
            cpu = one.server.cpu()
            connected = one.follow_general(size - crowd.connected, in_flight=IN_FLIGHT, timeout=_TIMEOUT, must=False)
            crowd.came(connected, one.server.cpu().since(cpu))
            if crowd.failed:
                break  # what follows would not be comparable
            if "broadcast" in context.chosen:
                one.warm_up(forms)
                runs: list[Run] = []
                crowd.broadcasts[size] = runs
                deadline = time.monotonic() + _LONGEST
                while len(runs) < context.pick(full=9, quick=5, tiny=2) and time.monotonic() < deadline:
                    runs.append(one.burst(forms, 1, look_every=1))
                    time.sleep(0.2)
        time.sleep(context.pick(full=2.0, quick=2.0, tiny=0.1))
        crowd.memory = (before, one.server.memory())
        if "idle" in context.chosen:
            cpu, began = one.server.cpu(), time.monotonic()
            time.sleep(idle_seconds(context, peer))
            crowd.idle = (time.monotonic() - began, one.server.cpu().since(cpu).ran)
            crowd.kept = one.burst(forms, 1, look_every=1).received.is_whole
    return crowd
