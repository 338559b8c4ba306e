"""broadcast: one update for everyone, to a crowd; when does the middle client have it, when the last one?"""

from benchmarks.context import Context
from benchmarks.measure import middle_shares
from benchmarks.results import Check, Report, Row, median
from benchmarks.scenarios.crowd import SIZE, crowds, sizes

NAMED = 10_000
RIVAL = "nchan"


def run(context: Context) -> Report:
    """Relay against the peers."""
    report = Report(
        "broadcast",
        "Broadcast to everyone",
        {"clients": sizes(context), "bytes": SIZE},
        ("p50", "p99", "last", "ratio", "rate", "per_core", "load", "load_core"),
    )
    for name, crowd in crowds(context, report).items():
        for size, runs in crowd.broadcasts.items():
            figures = {
                "p50": median([one.received.latency.quantile(0.5) for one in runs]),
                "p99": median([one.received.latency.quantile(0.99) for one in runs]),
                "last": median([one.seconds for one in runs]),
                "rate": median([one.rate for one in runs]),
                "per_core": median([one.per_core for one in runs]),
                **middle_shares(runs),
            }
            whole = all(one.received.is_whole for one in runs)
            report.rows.append(Row(name, f"{size:,} clients", figures, whole))
            report.data.setdefault(name, {})[str(size)] = [one.to_json() for one in runs]
    report.rows.sort(key=lambda row: int(row.case.split()[0].replace(",", "")))
    report.compare("p50")
    report.must_be_whole("broadcasts that reached every client of Relay, once")
    ours, theirs = (report.row(name, f"{NAMED:,} clients") for name in ("relay", RIVAL))
    if ours is not None and theirs is not None:
        report.checks.append(
            Check(
                f"p50 to {NAMED:,}, times that of {RIVAL}", ours.figures["p50"] / theirs.figures["p50"], 1.0,
                at_least=False, unit="ratio", clear=ours.clear and theirs.clear,
            )
        )  # fmt: skip
    return report
