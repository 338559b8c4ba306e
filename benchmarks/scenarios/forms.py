"""Forms of Relay against each other: a burst, and a pace that all should carry."""

import time
from functools import partial

from benchmarks.context import Context, attempt
from benchmarks.measure import Contender, Run
from benchmarks.results import Report, Row, median
from benchmarks.wire import form

SIZE = 128
CLIENTS = 500
RATE = 50_000

COLUMNS = ("rate", "per_core", "cost", "p50", "p99", "server", "load_core")


def parameters(context: Context) -> dict[str, int]:
    """What is shown of them."""
    return {
        "clients": context.pick(full=CLIENTS, quick=CLIENTS, tiny=20), "bytes": SIZE,
        "updates": context.pick(full=400, quick=200, tiny=40), "paced": context.pick(full=RATE, quick=RATE, tiny=1_000),
    }  # fmt: skip


def measure(context: Context, report: Report, contenders: list[tuple[str, Contender]]) -> None:
    """Rows for forms that are up, with their clients, each under its case: bursts in turn, then each at the pace."""
    forms = [form("bench", SIZE)]
    settings = report.parameters
    rounds = context.pick(full=7, quick=3, tiny=1)
    bursts: dict[str, list[Run]] = {case: [] for case, _ in contenders}
    with context.progress(report.scenario, (rounds + 1) * len(contenders)) as begin:
        for _, one in contenders:
            attempt(report, one.peer, partial(one.burst, forms, settings["updates"], look_every=1))
        for _ in range(rounds):
            for case, one in list(contenders):
                begin(f"{case}, burst")
                time.sleep(0.1)
                done = attempt(report, one.peer, partial(one.burst, forms, settings["updates"], look_every=0))
                if done is None:
                    contenders.remove((case, one))
                else:
                    bursts[case].append(done)
        for case, one in contenders:
            begin(f"{case}, paced")
            rate = settings["paced"] / settings["clients"]
            seconds = context.pick(full=5.0, quick=2.0, tiny=0.5)
            paced = attempt(report, one.peer, partial(one.paced, forms, round(rate * seconds), rate, look_every=1))
            if paced is None or not bursts[case]:
                continue
            runs = bursts[case]
            figures = {
                "rate": median([done.rate for done in runs]), "per_core": median([done.per_core for done in runs]),
                **paced.latencies(), **paced.shares(),
            }  # fmt: skip
            whole = all(done.received.is_whole for done in (*runs, paced))
            report.rows.append(Row(one.name, case, figures, whole))
            report.data[case] = {"bursts": [done.to_json() for done in runs], "paced": paced.to_json()}
    if report.rows:
        base = report.rows[0].figures["per_core"]
        for row in report.rows:
            row.figures["cost"] = base / row.figures["per_core"]
    report.must_be_whole("forms of Relay that lost no update")
