"""storm: a crowd comes in, as fast as the server lets it. How many a second, and what does each cost?"""

from benchmarks.context import Context
from benchmarks.machine import LOAD_CORES
from benchmarks.results import Check, Report, Row
from benchmarks.scenarios.crowd import IN_FLIGHT, crowds, sizes

TARGET = 2_000


def run(context: Context) -> Report:
    """Relay against the peers."""
    report = Report(
        "storm",
        "Connection storm",
        {"clients": max(sizes(context)), "in flight": IN_FLIGHT},
        ("accepted", "accepted_per_core", "ratio", "p50", "p99", "failed", "server", "load"),
    )
    for name, crowd in crowds(context, report).items():
        figures = {
            "accepted": crowd.connected / crowd.seconds,
            "accepted_per_core": crowd.connected / max(crowd.server_cpu, 1e-9),
            "p50": crowd.ready.quantile(0.5),
            "p99": crowd.ready.quantile(0.99),
            "failed": float(crowd.failed),
            "server": crowd.server_cpu / crowd.seconds,
            "load": crowd.load_cpu / crowd.seconds / len(LOAD_CORES),
            "waited": crowd.server_waited / crowd.seconds,
        }
        report.rows.append(Row(name, "", figures, whole=not crowd.failed))
        report.data[name] = {"clients": crowd.connected, "seconds": crowd.seconds, "server_cpu": crowd.server_cpu}
    report.compare("accepted_per_core")
    report.must_be_whole("storms that every client of Relay survived")
    ours = report.row("relay")
    if ours is not None:
        report.checks.append(
            Check("connections accepted for a second of CPU", ours.figures["accepted_per_core"], TARGET, at_least=True)
        )
    return report
