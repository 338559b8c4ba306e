"""A few clients that stop reading, among many that read: do the many notice, and are the few dropped?

Runs with and without the few alternate on the same server and readers; the ratio of the readers' p99 is taken for each pair
of neighbours. Most peers bound nothing: their memory keeps what waits for their stalled clients.
"""

import time
from typing import NamedTuple

from benchmarks.machine import peak_memory_of, reset_peak_memory
from benchmarks.measure import Run, Testbed, WarmUpFailed, all_complete, testbed
from benchmarks.peers.base import Peer
from benchmarks.results import median, shown
from benchmarks.scenarios.base import Sizes, Trial
from benchmarks.wire import Update

#: Readers' p99 with stalled clients, times that without; when Relay's own runs differ by more, there is no verdict.
MAX_RATIO = 1.2

#: Relay drops by age after 10 s, and closing takes 2 s at most; a stalled client that is there after this is not dropped.
_TIMEOUT = 15.0
#: Peers are not waited for: the run itself was long enough. Nor is Relay in a tiny run, where no bound is reached.
_TIMEOUT_PEERS = 1.0
#: Seconds behind the publisher at which a server no longer keeps up.
_MAX_LAG = 1.0


class _Stalled(NamedTuple):
    """A run with stalled clients: seconds from its start until each was dropped, None for those that stayed."""

    run: Run
    growth: int
    dropped_after: list[float | None]


def slow(trial: Trial, peer: Peer) -> None:
    """Relay several times, each peer once."""
    readers, count, rate = trial.p["readers"], trial.p["updates"], trial.p["updates/s"]
    updates = trial.updates("bench")
    without: list[Run] = []
    stalled: list[_Stalled] = []
    with testbed(peer, trial.directory, readers) as bed:
        bed.follow(["bench"] * readers)
        bed.warm_up(updates)
        first = bed.paced(updates, rate, rate)
        if not first.received.is_complete or first.received.last - first.published.sent > _MAX_LAG * 1e9:
            raise WarmUpFailed(f"it cannot follow {rate * readers:,} deliveries of {trial.p['bytes']:,} bytes a second")
        for _ in range(trial.pick(Sizes(5, 2, 1)) if peer.is_relay else 1):
            without.append(bed.paced(updates, count, rate))
            stalled.append(_with_stalled(trial, bed, updates))
    p99 = [run.received.latency.quantile(0.99) for run in without]
    p99_stalled = [one.run.received.latency.quantile(0.99) for one in stalled]
    noise = max(p99) / max(min(p99), 1e-6)
    after = [seconds for one in stalled for seconds in one.dropped_after]
    known = [seconds for seconds in after if seconds is not None]
    runs = [one.run for one in stalled]
    figures = {
        "p99_without": median(p99), "p99": median(p99_stalled),
        "p99_ratio": median([two / max(one, 1e-6) for one, two in zip(p99, p99_stalled, strict=True)]),
        "dropped": len(known) / len(after), "memory_growth": float(max(one.growth for one in stalled)),
        "delivered": min(run.figures()["delivered"] for run in runs),
    }  # fmt: skip
    if known:
        figures["dropped_after"] = max(known)
    row = trial.add(peer.name, figures, runs, without=without, noise=noise, dropped_after=after)
    row.complete = all_complete([*without, *runs]) and all(run.received.readers == readers for run in without)
    row.noisy = noise > MAX_RATIO
    if peer.is_relay:
        text = f"{peer.title}'s runs without stalled clients differ in their p99 by {shown(noise, 'ratio')} times: the noise"
        trial.report.notes.append(text)


def _with_stalled(trial: Trial, bed: Testbed, updates: list[Update]) -> _Stalled:
    stalled = trial.p["stalled"]
    ports = bed.follow(["bench"] * stalled, stalled=stalled).stalled_ports
    began = time.time()
    waits_for_drop = bed.peer.is_relay and trial.context.size != "tiny"
    reset_peak_memory(bed.server.pids)
    memory = peak_memory_of(bed.server.pids)
    run = bed.paced(updates, trial.p["updates"], trial.p["updates/s"])
    closings = bed.load.closings(_TIMEOUT if waits_for_drop else _TIMEOUT_PEERS)
    growth = peak_memory_of(bed.server.pids) - memory
    dropped = [closings.get(port) for port in ports]
    return _Stalled(run, growth, [None if at is None else at - began for at in dropped])
