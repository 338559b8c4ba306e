"""durable: what a publisher waits for, what Redis does, and what Relay does, for each way to publish an update.

`PUBLISH` is what any service does; Relay then records it. `durable` is Relay's script, one call. `unrecorded` is what
a relay hears when Redis has no room to record: published on the same Redis channel without a position, which is the least that
hearing an update can cost.
"""

import time
from functools import partial

from benchmarks.context import Context, attempt
from benchmarks.feeds import Durable, Feed, Plain, Unrecorded
from benchmarks.measure import Run, contender, middle_shares
from benchmarks.peers import Relay
from benchmarks.results import Check, Report, Row, median
from benchmarks.wire import form

SIZE = 160

TARGET_ROUND_TRIP = 2.0
TARGET_WORK = 1.1

_WAYS: dict[str, type[Feed]] = {"PUBLISH": Plain, "durable": Durable, "unrecorded": Unrecorded}


def run(context: Context) -> Report:
    """Relay alone."""
    clients = context.pick(full=500, quick=100, tiny=5)
    tasks = context.pick(full=50, quick=50, tiny=5)
    report = Report(
        "durable",
        "Ways to publish",
        {"tasks": tasks, "watchers of each": 1, "fan-out clients": clients, "bytes": SIZE},
        ("round_trip", "p99", "broker_per_update", "update_rate", "cpu_per_update", "per_core", "server", "load_core"),
    )
    with context.progress("durable", len(_WAYS)) as begin:
        for way, feed in _WAYS.items():
            begin(way)
            peer = Relay(f"relay-{way.lower()}", f"Relay, {way}", feed=feed)
            row = attempt(report, peer, partial(_measure, context, report, peer, way, tasks, clients))
            if row is not None:
                report.rows.append(row)
    _judge(report)
    return report


def _measure(context: Context, report: Report, peer: Relay, way: str, tasks: int, clients: int) -> Row:
    updates = context.pick(full=100, quick=40, tiny=5)
    rounds = context.pick(full=5, quick=3, tiny=1)
    names = [f"t{i:05d}" for i in range(tasks)]
    forms = [form(name, SIZE) for name in names]
    shared = [form("bench", SIZE)]
    with contender(peer, context.directory / "durable", max(tasks, clients)) as one:
        one.follow(names)
        one.warm_up(forms)
        # Of tasks that nobody watches: the load, which has the publisher's core, would be part of it.
        one.publisher.use([form(f"unwatched-{name}", SIZE) for name in names])
        one.load.arm(0)
        trips = one.publisher.round_trips(context.pick(full=5000, quick=1000, tiny=50))
        time.sleep(0.5)
        broker = one.server.broker_cpu()
        alone = one.burst(forms, updates, look_every=1)
        broker = one.server.broker_cpu() - broker
        ingest: list[Run] = [one.burst(forms, updates, look_every=1, frozen=True) for _ in range(rounds)]
        one.leave()
        one.follow(["bench"] * clients)
        one.warm_up(shared)
        fan_out: list[Run] = [one.burst(shared, updates, look_every=1, frozen=True) for _ in range(rounds)]
    count = updates * tasks
    figures = {
        "round_trip": trips.quantile(0.5), "p99": trips.quantile(0.99), "broker_per_update": broker / count,
        "update_rate": median([count / done.seconds for done in ingest]),
        "cpu_per_update": median([done.server_cpu / count for done in ingest]),
        "per_core": median([done.per_core for done in fan_out]),
        **middle_shares(ingest),
    }  # fmt: skip
    report.data[way] = {
        "round_trips": trips.encoded, "ingest": [done.to_json() for done in ingest],
        "fan_out": [done.to_json() for done in fan_out],
    }  # fmt: skip
    whole = all(done.received.is_whole for done in (alone, *ingest, *fan_out))
    return Row(peer.name, way, figures, whole)


def _judge(report: Report) -> None:
    report.must_be_whole("ways to publish that lost no update")
    plain, durable, unrecorded = (report.row(f"relay-{way.lower()}") for way in _WAYS)
    if plain is not None and durable is not None:
        report.checks.append(
            Check(
                "round trip of a durable publish, times that of PUBLISH",
                durable.figures["round_trip"] / plain.figures["round_trip"], TARGET_ROUND_TRIP, at_least=False, unit="ratio",
            )
        )  # fmt: skip
    if durable is not None and unrecorded is not None:
        for figure, what in (("cpu_per_update", "1 watcher each"), ("per_core", "many watchers")):
            times = durable.figures[figure] / unrecorded.figures[figure]
            times = 1 / times if figure == "per_core" else times
            what = f"Relay's CPU for a durable update, times that for one without a position ({what})"
            report.checks.append(Check(what, times, TARGET_WORK, at_least=False, unit="ratio"))
