"""tasks: many tasks with one to three watchers each, so that what costs is taking updates in, not handing them out.

Redis and the load share a core, and Relay's durable script asks more of Redis than of Relay. So that Redis is not what is
measured, a server that is fed by Redis is stopped while the updates are published, and then let go: from there on
all of them wait for it. Afterwards the same at a pace, for the latency.
"""

import time
from functools import partial
from typing import NamedTuple

from benchmarks.context import Context, attempt
from benchmarks.measure import Run, contender, middle_shares
from benchmarks.peers import RELAY, RELAY_DURABLE, Peer
from benchmarks.results import Check, Report, Row, median
from benchmarks.wire import Form, form

SIZE = 160

#: A server is stopped no longer than Relay takes for a sign that Redis is gone, and bursts of slow servers last about so long.
_LONGEST = 2.0

TARGET_RATE = 60_000
TARGET_RATIO = 3.0


class _Case(NamedTuple):
    name: str
    most_watchers: int


_CASES = (_Case("1 watcher each", 1), _Case("1-3 watchers each", 3))


def run(context: Context) -> Report:
    """Relay, fed by its durable script and by plain PUBLISH, against the peers."""
    tasks = context.pick(full=1000, quick=500, tiny=20)
    updates = context.pick(full=20, quick=20, tiny=5)
    rate = context.pick(full=2_000.0, quick=1_000.0, tiny=100.0)
    report = Report(
        "tasks",
        "Many tasks, few watchers",
        {"tasks": tasks, "updates of each": updates, "bytes": SIZE, "paced updates/s": int(rate)},
        ("update_rate", "updates_per_core", "ratio", "rate", "p50", "p99", "server", "load_core"),
    )
    peers = [RELAY_DURABLE, RELAY, *context.able(report)]
    with context.progress("tasks", len(peers)) as begin:
        for peer in peers:
            begin(peer.title)
            rows = attempt(report, peer, partial(_measure, context, report, peer, tasks, updates, rate))
            report.rows += rows or []
    report.rows.sort(key=lambda row: row.case)
    report.compare("updates_per_core", ours=RELAY_DURABLE.name)
    _judge(report, {peer.name for peer in peers if peer.language == "python"})
    return report


def _measure(context: Context, report: Report, peer: Peer, tasks: int, updates: int, rate: float) -> list[Row]:
    names = [f"t{i:05d}" for i in range(tasks)]
    forms = [form(name, SIZE) for name in names]
    rows = []
    with contender(peer, context.directory / "tasks", tasks * _CASES[-1].most_watchers) as one:
        for case in _CASES:
            choose = context.random(f"tasks:{case.name}")
            watchers = [name for name in names for _ in range(choose.randint(1, case.most_watchers))]
            choose.shuffle(watchers)
            one.follow(watchers)
            one.warm_up(forms)
            can_freeze = bool(one.server.brokers)
            first = one.burst(forms, 1, look_every=1)
            length = max(1, min(updates, int(_LONGEST / first.seconds)))
            runs: list[Run] = []
            for _ in range(context.pick(full=5, quick=2, tiny=1)):
                time.sleep(0.2)
                seed = choose.randrange(2**32)
                runs.append(one.burst(forms, length, look_every=1, frozen=can_freeze, seed=seed))
            seconds = context.pick(full=4.0, quick=2.0, tiny=0.5)
            paced = one.paced(forms, max(1, round(rate * seconds / tasks)) * tasks, rate, look_every=1)
            report.data.setdefault(case.name, {})[peer.name] = {
                "bursts": [done.to_json() for done in runs], "paced": paced.to_json(), "stopped": can_freeze,
            }  # fmt: skip
            rows.append(_row(peer, case, runs, paced, forms))
            one.leave()
    return rows


def _row(peer: Peer, case: _Case, runs: list[Run], paced: Run, forms: list[Form]) -> Row:
    def updates(one: Run) -> int:
        return one.received.expected * len(forms)

    figures = {
        "update_rate": median([updates(one) / one.seconds for one in runs]),
        "updates_per_core": median([updates(one) / max(one.server_cpu, 1e-9) for one in runs]),
        "rate": median([one.rate for one in runs]),
        **paced.latencies(),
        **middle_shares(runs),
    }
    return Row(
        peer.name, case.name, figures, whole=all(one.received.is_whole for one in (*runs, paced)),
    )  # fmt: skip


def _judge(report: Report, python: set[str]) -> None:
    report.must_be_whole("runs in which Relay lost no update")
    ours = report.row(RELAY_DURABLE.name, _CASES[0].name)
    if ours is None:
        return
    report.checks.append(
        Check(
            "durable updates taken in for a second of CPU, 1 watcher each", ours.figures["updates_per_core"],
            TARGET_RATE, at_least=True,
        )
    )  # fmt: skip
    ratios = {
        row.server: row.figures["ratio"] for row in report.rows
        if row.case == ours.case and row.server in python and "ratio" in row.figures
    }  # fmt: skip
    if ratios:
        best = min(ratios, key=lambda name: ratios[name])
        what = f"times the best Python peer, 1 watcher each ({best})"
        report.checks.append(Check(what, ratios[best], TARGET_RATIO, at_least=True, unit="ratio"))
