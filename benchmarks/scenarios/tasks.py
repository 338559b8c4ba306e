"""Many tasks: with few watchers (`tasks`), whose watchers reconnect (`reconnect`), published in several ways (`durable`)."""

import time
from functools import partial

from benchmarks.load import LoadFailed
from benchmarks.machine import LOAD_CORES
from benchmarks.measure import Run, Testbed, all_complete, testbed
from benchmarks.peers.base import Peer
from benchmarks.peers.relay import PUBLISH_VARIANTS, RELAY, RELAY_DURABLE, UNPERSISTED
from benchmarks.publisher import Publisher
from benchmarks.results import Check, median
from benchmarks.scenarios.base import Sizes, Trial
from benchmarks.wire import Update

#: A server is stopped for less time than Relay waits for Redis, and bursts of slow servers last about so many seconds.
_MAX_SECONDS = 2.0
_TIMEOUT = 120.0

#: Seconds without an update after which no more are expected, when everyone returns at once: nothing comes while all connect.
_QUIET = 10.0

#: Seconds after which a client that could not reconnect tries again.
_RETRY = 1.0


def _names(trial: Trial) -> list[str]:
    return [f"t{i:05d}" for i in range(trial.p["tasks"])]


def few_watchers(trial: Trial, peer: Peer) -> None:
    """Publish to many tasks with one watcher each, then with one to three, so that taking updates in is what costs.

    Redis and the load share a core, and Relay's durable script asks more of Redis than of Relay. So that Redis is not what is
    measured, a server that it feeds is stopped while the updates are published. Afterwards the same at a pace.
    """
    names = _names(trial)
    updates, rate = trial.updates(*names), trial.p["updates/s"]
    with testbed(peer, trial.directory, 3 * len(names)) as bed:
        for case, max_watchers in (("1 watcher each", 1), ("1-3 watchers each", 3)):
            choose = trial.random(case)
            watchers = [name for name in names for _ in range(choose.randint(1, max_watchers))]
            choose.shuffle(watchers)
            bed.follow(watchers)
            bed.warm_up(updates)
            count = max(1, min(trial.p["updates of each"], int(_MAX_SECONDS / bed.burst(updates, 1).seconds)))
            runs: list[Run] = []
            for _ in range(trial.pick(Sizes(5, 2, 1))):
                time.sleep(0.2)
                runs.append(bed.burst(updates, count, stop=peer.redis, seed=choose.randrange(2**32)))
            seconds = trial.pick(Sizes(4.0, 2.0, 0.5))
            paced = bed.paced(updates, max(1, round(rate * seconds / len(names))) * len(names), rate)
            total = count * len(names)
            figures = {
                "update_rate": median([total / run.seconds for run in runs]),
                "updates_per_core": median([total / max(run.server.ran, 1e-9) for run in runs]),
                **paced.received.latency.quantiles(),
            }  # fmt: skip
            row = trial.add(peer.name, figures, runs, case=case, paced=paced, stopped=peer.redis)
            row.complete = all_complete([*runs, paced])
            bed.leave()


def reconnect(trial: Trial, peer: Peer) -> None:
    """Close all clients' connections, publish meanwhile, and let all reconnect at once.

    Clients of servers that are set up for recovery send their positions, and are served when they have every update in
    between, in order: those of Relay, and of Centrifugo in `sdk-reconnect`. Other clients are served when they are subscribed
    again.
    """
    names, before, away = _names(trial), trial.p["updates before"], trial.p["missed updates"]
    watchers = [name for name in names for _ in range(trial.p["watchers of each"])]
    trial.random().shuffle(watchers)
    updates = trial.updates(*names)
    with testbed(peer, trial.directory, len(watchers)) as bed:
        came = bed.follow(watchers, in_flight=64, timeout=_TIMEOUT, retry=_RETRY, must=False)
        if came.clients < len(watchers):
            raise LoadFailed(f"{len(watchers) - came.clients} of {len(watchers)} clients could not connect at first")
        bed.warm_up(updates)
        bed.publisher.use(updates)
        bed.load.arm(before, keep_last=True)
        bed.publisher.burst(before)
        first = bed.load.collect(_TIMEOUT, quiet=_QUIET)
        known = bed.load.drop()
        time.sleep(trial.pick(Sizes(1.0, 0.5, 0.2)))  # until the server has noticed
        bed.publisher.burst(away, first=before)
        bed.load.arm(away if peer.recovers else 0, continues_sequence=True, all_reconnect=True)
        cpu = bed.server.cpu()
        back = bed.load.connect(
            peer.endpoint, bed.server.ports[0], [], in_flight=len(watchers), retry=_RETRY, notes=[peer.endpoint.recovered],
            timeout=_TIMEOUT, must=False,
        )  # fmt: skip
        after = bed.load.collect(_TIMEOUT, quiet=_QUIET) if peer.recovers else None
        spent = bed.server.cpu().since(cpu)
    seconds = (max(back.ended, after.last if after else 0) - back.started) / 1e9
    recovered = back.noted[peer.endpoint.recovered]
    figures = {
        "served": seconds, "p50": back.ready.quantile(0.5), "p99": back.ready.quantile(0.99),
        "retries": float(back.failed), "server": spent.ran / seconds, "waited": spent.waited / seconds,
        "load": (back.cpu + (after.cpu if after else 0.0)) / seconds / len(LOAD_CORES),
    }  # fmt: skip
    if after:
        figures["recovered"] = recovered / len(watchers)
    row = trial.add(
        peer.name, figures, [], seconds=seconds, server_cpu=spent.ran, positions=known, recovered=recovered,
        ready=back.ready, missing=after.missing if after else away * len(watchers),
    )  # fmt: skip
    row.complete = first.is_complete and back.clients == len(watchers)
    if after:
        row.complete &= after.is_complete and recovered == known == len(watchers)


def publish_variants(trial: Trial) -> None:
    """Measure the cost of each way to publish: for the publisher, for Redis, and for Relay.

    An unpersisted update costs least. How much more a durable one costs Relay is measured on one process, in turns: processes,
    and minutes of a shared machine, differ by more. And Relay remembers plain updates for a while: at a steady rate, the last
    part of half a minute must not cost more than the first.
    """
    trial.expect(len(PUBLISH_VARIANTS) + 2)
    for peer in PUBLISH_VARIANTS:
        trial.attempt(peer, "", partial(_measure_variant, trial, peer))
    work = trial.attempt(RELAY_DURABLE, " in turns", lambda: _work_ratios(trial))
    growth = trial.attempt(RELAY, ", steady rate", lambda: _growth(trial))
    ratios = {
        f"Relay's CPU for a durable update, times an unpersisted one ({case})": (ratio, 1.1)
        for case, ratio in (work or {}).items()
    }
    plain, durable = (trial.report.row(name) for name in ("relay-publish", "relay-durable"))
    if plain and durable:
        ratio = durable.figures["round_trip"] / plain.figures["round_trip"]
        ratios["round trip of a durable publish, times that of PUBLISH"] = (ratio, 2.0)
    if growth:
        ratios["Relay's CPU for plain updates after half a minute of them, times that at first"] = (growth, 1.25)
    trial.report.checks += [
        Check(text, ratio, limit, at_least=False, unit="ratio") for text, (ratio, limit) in ratios.items()
    ]


def _measure_variant(trial: Trial, peer: Peer) -> None:
    names, count, rounds = _names(trial), trial.p["updates of each"], trial.p["rounds"]
    updates, shared = trial.updates(*names), trial.updates("bench")
    with testbed(peer, trial.directory, max(len(names), trial.p["fan-out clients"])) as bed:
        bed.follow(names)
        bed.warm_up(updates)
        # Tasks that nobody watches: the load, which has the publisher's core, would be part of the round trip.
        bed.publisher.use(trial.updates(*(f"unwatched-{name}" for name in names)))
        bed.load.arm(0)
        trips = bed.publisher.round_trips(trial.pick(Sizes(5000, 1000, 50)))
        time.sleep(0.5)
        redis_cpu = bed.server.redis_cpu()
        alone = bed.burst(updates, count)
        redis_cpu = bed.server.redis_cpu() - redis_cpu
        ingest = [bed.burst(updates, count, stop=True) for _ in range(rounds)]
        bed.leave()
        bed.follow(["bench"] * trial.p["fan-out clients"])
        bed.warm_up(shared)
        fan_out = [bed.burst(shared, count, stop=True) for _ in range(rounds)]
    total = count * len(names)
    figures = {
        "round_trip": trips.quantile(0.5), "p99": trips.quantile(0.99), "redis_per_update": redis_cpu / total,
        "update_rate": median([total / run.seconds for run in ingest]),
        "cpu_per_update": median([run.server.ran / total for run in ingest]),
        "per_core": median([run.per_core for run in fan_out]),
    }  # fmt: skip
    row = trial.add(
        peer.name, figures, ingest, round_trips=trips, fan_out=fan_out
    )  # fmt: skip
    row.complete = all_complete([alone, *ingest, *fan_out])


def _work_ratios(trial: Trial) -> dict[str, float]:
    """The cost of a durable update for Relay, as a multiple of an unpersisted one's."""
    names, clients = _names(trial), trial.p["fan-out clients"]
    with (
        testbed(RELAY_DURABLE, trial.directory / "turns", max(len(names), clients)) as bed,
        Publisher(UNPERSISTED, bed.server.publish_port) as unpersisted,
    ):
        publishers, ratios = [bed.publisher, unpersisted], {}
        for case, watched in (("1 watcher each", names), ("many watchers", ["bench"] * clients)):
            updates = trial.updates(*dict.fromkeys(watched))
            bed.follow(watched)
            bed.warm_up(updates)
            turns = range(trial.pick(Sizes(21, 9, 1)))
            ratios[case] = median([_turn(trial, bed, publishers, updates, turn) for turn in turns])
            bed.leave()
    return ratios


def _turn(trial: Trial, bed: Testbed, publishers: list[Publisher], updates: list[Update], turn: int) -> float:
    """A burst of each publisher, every other time the other way round; the ratio of Relay's CPU per delivery."""
    cpu = [0.0, 0.0]
    for which in (0, 1) if turn % 2 else (1, 0):
        bed.publisher = publishers[which]
        run = bed.burst(updates, trial.p["updates of each"], stop=True)
        cpu[which] = run.server.ran / max(1, run.received.updates)
    bed.publisher = publishers[0]
    return cpu[0] / cpu[1]


def _growth(trial: Trial) -> float:
    """Relay's CPU for plain updates at a steady rate: that of the last part, times that of the first."""
    rate, seconds, parts = trial.pick(Sizes((4000.0, 5.0, 6), (2000.0, 4.0, 6), (100.0, 0.5, 2)))
    spent = []
    with testbed(RELAY, trial.directory / "steady", 1) as bed:
        bed.publisher.use(trial.updates(*_names(trial)))
        for _ in range(parts):
            cpu = bed.server.cpu()
            bed.publisher.paced(int(rate * seconds), rate)
            spent.append(bed.server.cpu().since(cpu).ran)
    return spent[-1] / spent[0]
