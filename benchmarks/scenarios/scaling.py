"""What Relay's work costs as there is more of it: more tasks with a client each, and more clients of one task (`scaling`)."""

from benchmarks.measure import Testbed, testbed
from benchmarks.peers.base import Peer
from benchmarks.results import median
from benchmarks.scenarios.base import Trial

#: Connections that are opened at a time.
_IN_FLIGHT, _TIMEOUT = 256, 120.0


def scaling(trial: Trial, peer: Peer) -> None:
    """Publish at the same rate to more and more tasks, and then as many deliveries a second to more and more clients of one.

    The rates stay the same, so what a row has more of is only what Relay must keep and look through.
    """
    tasks, clients = trial.p["tasks"], trial.p["clients"]
    with testbed(peer, trial.directory / "tasks", max(tasks)) as bed:
        for count in tasks:
            names = [f"t{number:05d}" for number in range(count)]
            _follow(bed, names)
            updates = trial.updates(*names)
            bed.warm_up(updates)
            rate = float(trial.p["updates/s"])
            of_each = max(1, round(rate * trial.p["seconds"] / count))
            runs = [bed.paced(updates, of_each * count, rate) for _ in range(trial.p["rounds"])]
            cost = median([run.server.ran / (of_each * count) for run in runs])
            trial.add(
                peer.name,
                {"size": float(count), "cpu_per_update": cost},
                runs,
                case=f"{count:,} task{'s' if count > 1 else ''}",
            )
            bed.leave()
    with testbed(peer, trial.directory / "clients", max(clients)) as bed:
        updates = trial.updates("bench")
        for count in clients:
            _follow(bed, ["bench"] * count)
            bed.warm_up(updates)
            rate = trial.p["deliveries/s"] / count
            published = max(3, round(rate * trial.p["seconds"]))
            runs = [bed.paced(updates, published, rate) for _ in range(trial.p["rounds"])]
            cost = median([run.server.ran / (published * count) for run in runs])
            trial.add(peer.name, {"size": float(count), "cpu_per_delivery": cost}, runs, case=f"{count:,} clients")
            bed.leave()


def _follow(bed: Testbed, names: list[str]) -> None:
    """Connect a client for each name, and wait until the relay has come to rest after that."""
    bed.follow(names, in_flight=_IN_FLIGHT, timeout=_TIMEOUT)
    bed.rest()
