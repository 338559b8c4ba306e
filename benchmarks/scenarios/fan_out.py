"""Many clients of one task: as fast as possible (`burst`), on a schedule (`paced`), with large updates, and Relay's variants.

All servers are up from the start, each with its own Redis and load generator, and take turns.
"""

from functools import partial

from benchmarks.measure import Run, Testbed, all_complete, medians, testbed
from benchmarks.peers import relay
from benchmarks.peers.base import Peer
from benchmarks.results import median
from benchmarks.scenarios.base import Trial
from benchmarks.wire import Update, make_update

#: A slow server's bursts are shortened to last about so many seconds, by the time that a short one took.
_MAX_SECONDS, _SHORT = 2.0, 20

#: So many deliveries a second are checked, the rest is counted.
_CHECKED = 20_000

#: A server leaves the ladder below this share of the rate, or above so many seconds for its p99.
_MIN_SHARE, _MAX_P99 = 0.9, 1.0


def _burst_length(bed: Testbed, updates: list[Update], count: int) -> int:
    """How many updates a burst of this server has. These first bursts check the order, too."""
    short = min(_SHORT, count)
    first = bed.burst(updates, short)
    length = max(short, min(count, int(_MAX_SECONDS * short / first.seconds)))
    bed.burst(updates, length)
    return length


def burst(trial: Trial) -> None:
    """Publish many updates at once; measure until the last client has the last one."""
    updates = trial.updates("bench")
    with trial.all_running() as beds:
        lengths = trial.in_turns(beds, 1, " warms up", lambda bed: _burst_length(bed, updates, trial.p["updates"]))
        runs = trial.in_turns(
            beds, trial.p["rounds"], ", burst", lambda bed: bed.burst(updates, lengths[bed.peer.name][0], sample=0)
        )
    for name, done in runs.items():
        rates = [run.rate for run in done]
        figures = {"lowest": min(rates), "highest": max(rates)}
        base = trial.compared_with(name)
        if base is not None and base in runs:
            figures["ratio"] = median([ours.rate / run.rate for ours, run in zip(runs[base], done, strict=False)])
        trial.add(name, figures, done)
    if any(row.disturbed for row in trial.report.rows):
        trial.report.notes.append(
            "other processes used the servers' core. That slows long bursts more than short ones, so the ratios flatter the "
            "fastest; compare the deliveries per CPU second"
        )


def paced(trial: Trial) -> None:
    """Climb a ladder of rates, up to where each server can follow no more."""
    clients, updates = trial.p["clients"], trial.updates("bench")

    def rung(rate: int, bed: Testbed) -> Run:
        count = max(10, round(rate / clients * trial.p["seconds"]))
        return bed.paced(updates, count, rate / clients, sample=max(1, round(rate / _CHECKED)), quiet=1.0)

    with trial.all_running() as beds:
        trial.in_turns(beds, 1, " warms up", lambda bed: bed.paced(updates, 20, 100))
        for rate in trial.p["deliveries/s"]:
            rounds = trial.p["rounds at 50,000/s"] if rate == 50_000 else 1
            runs = trial.in_turns(beds, rounds, f" at {rate:,}/s", partial(rung, rate))
            for name, done in runs.items():
                row = trial.add(name, {"target": float(rate)}, done, case=f"{rate:,}/s")
                if "max" in row.figures:
                    row.figures["max"] = max(run.received.latency.quantile(1.0) for run in done)
                p99 = row.figures.setdefault("p99", _MAX_P99 * 10)
                if not row.complete or row.figures["rate"] < _MIN_SHARE * rate or p99 > _MAX_P99:
                    row.remark = "can follow no more"
                    beds[:] = [bed for bed in beds if bed.peer.name != name]
                else:
                    trial.report.data[name]["highest"] = rate


def variants(trial: Trial) -> None:
    """Compare variants of Relay: bursts in turns, then each at a pace that all should carry."""
    updates, rate = trial.updates("bench"), trial.p["deliveries/s"] / trial.p["clients"]
    with trial.all_running() as beds:
        trial.in_turns(beds, 1, " warms up", lambda bed: bed.burst(updates, trial.p["updates"]))
        bursts = trial.in_turns(
            beds, trial.p["rounds"], ", burst", lambda bed: bed.burst(updates, trial.p["updates"], sample=0)
        )
        count = round(rate * trial.p["seconds"])
        at_pace = trial.in_turns(beds, 1, ", paced", lambda bed: bed.paced(updates, count, rate))
    accepted = {bed.peer.name: bed.accepted_per_core for bed in beds}
    for name, runs in at_pace.items():
        burst_figures = medians(bursts[name])
        figures = {
            "rate": burst_figures["rate"],
            "per_core": burst_figures["per_core"],
            "accepted_per_core": accepted[name],
        }
        row = trial.add(name, figures, runs, bursts=bursts[name])
        row.complete &= all_complete(bursts[name])
    for row in trial.report.rows:
        row.figures["cost"] = trial.report.rows[0].figures["per_core"] / row.figures["per_core"]


def stream(trial: Trial, peer: Peer) -> None:
    """Stream a text that grows to many watchers: what is new of it each time, or all of it each time, at its middle size."""
    filler = bytes(trial.random().choices(b"abcdefghijklmnopqrstuvwxyz0123456789", k=997))
    deltas = peer.name == relay.RELAY_DELTAS.name
    rate = trial.p["deltas/s" if deltas else "whole values/s"]
    with testbed(peer, trial.directory, trial.p["clients"]) as bed:
        bed.follow(["bench"] * trial.p["clients"])
        for size in [trial.p["bytes"]] if deltas else trial.p["bytes of whole values"]:
            updates = [make_update("bench", size, filler)]
            bed.warm_up(updates)
            count = max(5, round(rate * trial.p["seconds"]))
            run = bed.paced(updates, count, rate)
            figures = {"update_rate": count / run.seconds, "cpu_per_update": run.server.ran / count}
            case = f"{'a delta' if deltas else 'the whole'} of {size:,} bytes, {rate:,}/s"
            trial.add(peer.name, figures, [run], case=case)


def large(trial: Trial, peer: Peer) -> None:
    """Publish large updates to few clients, so many bytes a second in all."""
    filler = bytes(trial.random().choices(b"abcdefghijklmnopqrstuvwxyz0123456789", k=997))
    with testbed(peer, trial.directory, trial.p["clients"]) as bed:
        bed.follow(["bench"] * trial.p["clients"])
        for size in trial.p["bytes"]:
            updates = [make_update("bench", size, filler)]
            bed.warm_up(updates)
            rate = trial.p["bytes/s"] / trial.p["clients"] / size
            run = bed.paced(updates, max(5, round(rate * trial.p["seconds"])), rate)
            trial.add(peer.name, {"bytes_rate": run.rate * size}, [run], case=f"{size:,} bytes")
