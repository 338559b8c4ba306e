"""durable: what a publisher waits for, what Redis does, and what Relay does, for each way to publish an update.

`PUBLISH` is what any service does; Relay then records it. `durable` is Relay's script, one call. `unrecorded` is what
a relay hears when Redis has no room to record: published on the same Redis channel without a position, which is the least that
hearing an update can cost. How much more a durable one costs Relay is asked of one process, in turns: processes, and minutes
of a shared machine, differ by more. And what is published plainly is remembered for a while: at a steady rate, the last part of
half a minute must not cost more than the first.
"""

import time
from functools import partial

from benchmarks.context import Context, attempt
from benchmarks.feeds import Durable, Feed, Plain, Unrecorded
from benchmarks.measure import Contender, Run, contender, middle_shares
from benchmarks.peers import Relay
from benchmarks.publisher import Publisher
from benchmarks.results import Check, Report, Row, median
from benchmarks.wire import Form, form

SIZE = 160

TARGET_ROUND_TRIP = 2.0
TARGET_WORK = 1.1
TARGET_SUSTAINED = 1.25

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
    with context.progress("durable", len(_WAYS) + 2) as begin:
        for way, feed in _WAYS.items():
            begin(way)
            peer = Relay(f"relay-{way.lower()}", f"Relay, {way}", feed=feed)
            row = attempt(report, peer, partial(_measure, context, report, peer, way, tasks, clients))
            if row is not None:
                report.rows.append(row)
        begin("in turns")
        peer = Relay("relay-in-turns", "Relay, in turns", feed=Durable)
        ratios = attempt(report, peer, partial(_in_turns, context, peer, tasks, clients)) or {}
        begin("sustained")
        peer = Relay("relay-sustained", "Relay, sustained")
        sustained = attempt(report, peer, partial(_sustained, context, peer, tasks))
    _judge(report, ratios, sustained)
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


def _in_turns(context: Context, peer: Relay, tasks: int, clients: int) -> dict[str, float]:
    """What a durable update costs Relay, times what one without a position does; by how they are watched."""
    updates = context.pick(full=100, quick=40, tiny=5)
    pairs = context.pick(full=21, quick=9, tiny=1)
    with (
        contender(peer, context.directory / "durable", max(tasks, clients)) as one,
        Publisher(Unrecorded, one.server.feed_port) as unrecorded,
    ):
        publishers = [one.publisher, unrecorded]
        ratios = {}
        watched = {"1 watcher each": [f"t{i:05d}" for i in range(tasks)], "many watchers": ["bench"] * clients}
        for what, names in watched.items():
            forms = [form(name, SIZE) for name in dict.fromkeys(names)]
            one.follow(names)
            one.warm_up(forms)
            ratios[what] = median([_ratio(one, publishers, forms, updates, turn) for turn in range(pairs)])
            one.leave()
    return ratios


def _ratio(one: Contender, publishers: list[Publisher], forms: list[Form], updates: int, turn: int) -> float:
    """A turn of each, every other time the other way round."""
    cpu = [0.0, 0.0]
    for which in (0, 1) if turn % 2 else (1, 0):
        one.publisher = publishers[which]
        done = one.burst(forms, updates, look_every=1, frozen=True)
        cpu[which] = done.server_cpu / max(1, done.received.frames)
    one.publisher = publishers[0]
    return cpu[0] / cpu[1]


def _sustained(context: Context, peer: Relay, tasks: int) -> float:
    """Relay's CPU for plain publishes at a steady rate: the last part's, times that of the first."""
    rate = context.pick(full=4000.0, quick=2000.0, tiny=100.0)
    seconds = context.pick(full=5.0, quick=4.0, tiny=0.5)
    parts = context.pick(full=6, quick=6, tiny=2)
    with contender(peer, context.directory / "durable", 1) as one:
        one.publisher.use([form(f"t{i:05d}", SIZE) for i in range(tasks)])
        spent = []
        for _ in range(parts):
            cpu = one.server.cpu()
            one.publisher.paced(int(rate * seconds), rate)
            spent.append(one.server.cpu().since(cpu).ran)
    return spent[-1] / spent[0]


def _judge(report: Report, ratios: dict[str, float], sustained: float | None) -> None:
    report.must_be_whole("ways to publish that lost no update")
    plain, durable = (report.row(f"relay-{way.lower()}") for way in ("PUBLISH", "durable"))
    if plain is not None and durable is not None:
        report.checks.append(
            Check(
                "round trip of a durable publish, times that of PUBLISH",
                durable.figures["round_trip"] / plain.figures["round_trip"], TARGET_ROUND_TRIP, at_least=False, unit="ratio",
            )
        )  # fmt: skip
    for what, times in ratios.items():
        what = f"Relay's CPU for a durable update, times that for one without a position ({what})"
        report.checks.append(Check(what, times, TARGET_WORK, at_least=False, unit="ratio"))
    if sustained is not None:
        what = "Relay's CPU for a plain update after half a minute of them, times that in the first seconds"
        report.checks.append(Check(what, sustained, TARGET_SUSTAINED, at_least=False, unit="ratio"))
