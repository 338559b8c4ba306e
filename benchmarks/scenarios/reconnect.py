"""reconnect: the network fails for everyone, updates go on, and all come back at the same moment. When are all served again?

Relay's clients say what they saw last and are served when they have every update in between, in order. The peers' clients
are served when they are subscribed again; what came in between is lost to them. Nchan, NATS, Centrifugo and socket.io can
be set up for it; that is not done here.
"""

import time
from functools import partial

from benchmarks.context import Context, attempt
from benchmarks.doors import POSITIONED
from benchmarks.feeds import Durable
from benchmarks.machine import LOAD_CORES
from benchmarks.measure import contender
from benchmarks.peers import Peer, Relay
from benchmarks.results import Check, Report, Row
from benchmarks.wire import form

SIZE = 160
WATCHERS = 10

#: Updates of each task before, and while everyone is away.
BEFORE, AWAY = 3, 5

#: Seconds after which a client that was not let in tries again.
RETRY = 1.0

TARGET_SECONDS = 6.0
_TIMEOUT = 60.0

_RECOVERED = '"recovered":true'

_RELAY = Relay("relay-durable", "Relay, durable publish", feed=Durable, door=POSITIONED)


def run(context: Context) -> Report:
    """Relay against the peers."""
    tasks = context.pick(full=1000, quick=200, tiny=4)
    report = Report(
        "reconnect",
        "Everyone comes back at once",
        {"clients": tasks * WATCHERS, "tasks": tasks, "missed updates of each": AWAY, "bytes": SIZE},
        ("served", "ratio", "recovered", "p50", "p99", "retries", "server", "load"),
    )
    peers = [_RELAY, *context.able(report)]
    with context.progress("reconnect", len(peers)) as begin:
        for peer in peers:
            begin(peer.title)
            row = attempt(report, peer, partial(_measure, context, report, peer, tasks))
            if row is not None:
                report.rows.append(row)
    report.compare("served", ours=_RELAY.name)
    report.must_be_whole("times that every client of Relay recovered all it had missed, in order")
    ours = report.row(_RELAY.name)
    if ours is not None:
        report.checks.append(
            Check(
                f"{tasks * WATCHERS:,} clients are served again within", ours.figures["served"], TARGET_SECONDS,
                at_least=False, unit="seconds", clear=context.size == "full",
            )
        )  # fmt: skip
    return report


def _measure(context: Context, report: Report, peer: Peer, tasks: int) -> Row:
    names = [f"t{i:05d}" for i in range(tasks)]
    watchers = [name for name in names for _ in range(WATCHERS)]
    context.random("reconnect").shuffle(watchers)
    forms = [form(name, SIZE) for name in names]
    recovers = peer is _RELAY
    with contender(peer, context.directory / "reconnect", len(watchers)) as one:
        one.follow(watchers, in_flight=256, timeout=_TIMEOUT)
        one.warm_up(forms)
        one.publisher.use(forms)
        one.load.arm(BEFORE, keep_last=True)
        one.publisher.burst(BEFORE)
        before = one.load.collect(_TIMEOUT)
        known = one.load.drop()
        time.sleep(context.pick(full=1.0, quick=0.5, tiny=0.2))  # until the server has noticed
        one.publisher.burst(AWAY, first=BEFORE)
        one.load.arm(AWAY if recovers else 0, is_continued=True, all_come_back=True)
        cpu = one.server.cpu()
        back = one.load.come_back(
            one.server.task, one.server.port, in_flight=len(watchers), retry=RETRY, notes=[_RECOVERED], timeout=_TIMEOUT
        )
        after = one.load.collect(_TIMEOUT) if recovers else None
        spent = one.server.cpu().since(cpu)
    ended = max(back.ended, after.last) if after else back.ended
    seconds = (ended - back.started) / 1e9
    recovered = back.noted[_RECOVERED]
    figures = {
        "served": seconds, "p50": back.ready.quantile(0.5),
        "p99": back.ready.quantile(0.99), "retries": float(back.failed),
        "server": spent.ran / seconds, "waited": spent.waited / seconds,
        "load": (back.cpu + (after.cpu if after else 0.0)) / seconds / len(LOAD_CORES),
    }  # fmt: skip
    if recovers:
        figures["recovered"] = recovered / len(watchers)
    report.data[peer.name] = {
        "seconds": seconds, "server_cpu": spent.ran, "positions": known, "recovered": recovered,
        "ready": back.ready.encoded, "missing": after.missing if after else AWAY * len(watchers),
    }  # fmt: skip
    whole = before.is_whole and back.clients == len(watchers)
    if after is not None:
        whole = whole and after.is_whole and recovered == known == len(watchers)
    return Row(peer.name, "", figures, whole)
