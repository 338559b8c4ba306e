"""The cost of a child's update, beside that of a task without a parent (`children`)."""

from collections.abc import Sequence

from benchmarks.measure import Run, Testbed, all_complete, testbed
from benchmarks.peers import relay
from benchmarks.publisher import Publisher
from benchmarks.results import Check, median
from benchmarks.scenarios.base import Trial
from benchmarks.wire import SEQUENCE_DIGITS, Update

_ALONE, _CHILDREN, _FAMILY = (
    "without a parent, a watcher each",
    "children, a watcher each",
    "children, one watcher of all",
)
_LIMIT = 1.5


def children(trial: Trial) -> None:
    """Publish to some children of a parent that has many, and to as many tasks without a parent, in turns.

    Every update changes the child's progress, which the parent's field ``children`` is made of.
    """
    trial.expect(1)
    runs = trial.attempt(relay.RELAY_DURABLE, "", lambda: _measured(trial))
    if runs is None:
        return
    costs = {}
    for case, case_runs in runs.items():
        redis = median([run.redis_cpu / run.received.updates for run in case_runs])
        server = median([run.server.ran / run.received.updates for run in case_runs])
        costs[case] = redis, server
        row = trial.add(
            relay.RELAY_DURABLE.name, {"redis_per_update": redis, "cpu_per_update": server}, case_runs, case=case
        )
        row.complete = all_complete(case_runs)
    for case in (_CHILDREN, _FAMILY):
        for what, mine, alone in zip(("Redis'", "Relay's"), costs[case], costs[_ALONE], strict=True):
            text = f"{what} CPU for an update, times that without a parent ({case})"
            trial.report.checks.append(Check(text, mine / alone, _LIMIT, at_least=False, unit="ratio"))


def _measured(trial: Trial) -> dict[str, list[Run]]:
    names = [f"child{number:05d}" for number in range(trial.p["children"])]
    updated = names[: trial.p["updated children"]]
    alone = _updates(trial, [f"alone-{name}" for name in updated])
    runs: dict[str, list[Run]] = {_ALONE: [], _CHILDREN: [], _FAMILY: []}
    with testbed(relay.RELAY_DURABLE, trial.directory, len(updated)) as bed:
        with Publisher(relay.CHILD, bed.server.publish_port) as creator:
            creator.use(_updates(trial, names))
            creator.burst(1)
        for _ in range(trial.p["rounds"]):
            runs[_ALONE].append(_run_with_watchers(trial, bed, alone))
            runs[_CHILDREN].append(_run_with_watchers(trial, bed, _updates(trial, updated)))
            bed.load.connect(relay.FAMILY, bed.server.ports[0], [relay.PARENT])
            runs[_FAMILY].append(_run(trial, bed, _updates(trial, updated), shared_sequence=True))
            bed.leave()
    return runs


def _updates(trial: Trial, names: Sequence[str]) -> list[Update]:
    progress = b',"progress":0.' + b"@" * SEQUENCE_DIGITS + b"}"
    return [Update(update.task, update.data[:-1] + progress) for update in trial.updates(*names)]


def _run_with_watchers(trial: Trial, bed: Testbed, updates: Sequence[Update]) -> Run:
    bed.follow([str(update.task) for update in updates])
    bed.warm_up(updates)
    run = _run(trial, bed, updates)
    bed.leave()
    return run


def _run(trial: Trial, bed: Testbed, updates: Sequence[Update], *, shared_sequence: bool = False) -> Run:
    count = trial.p["updates of each"] * len(updates)
    return bed.paced(updates, count, trial.p["updates/s"], shared_sequence=shared_sequence)
