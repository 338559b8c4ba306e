"""idle: a crowd that gets nothing but heartbeats. What does each client cost, and what does the server do all the time?"""

from benchmarks.context import Context
from benchmarks.peers import RELAY
from benchmarks.results import Check, Report, Row
from benchmarks.scenarios.crowd import crowds, idle_seconds, sizes

TARGET_BYTES = 15_000
TARGET_CPU = 0.02


def run(context: Context) -> Report:
    """Relay against the peers."""
    report = Report(
        "idle",
        "Idle clients",
        {"clients": max(sizes(context)), "seconds": idle_seconds(context, RELAY)},
        ("memory", "ratio", "idle_cpu"),
    )
    for name, crowd in crowds(context, report).items():
        before, after = crowd.memory
        if crowd.failed or not after:
            continue
        seconds, cpu = crowd.idle
        figures = {"memory": (after - before) / crowd.connected, "idle_cpu": cpu / seconds}
        report.rows.append(Row(name, "", figures, whole=crowd.kept))
        report.data[name] = {"memory": [before, after], "clients": crowd.connected, "idle": [seconds, cpu]}
    report.compare("memory")
    report.must_be_whole("times that all of Relay's idle clients were still there at the end")
    ours = report.row("relay")
    if ours is not None:
        memory, cpu = ours.figures["memory"], ours.figures["idle_cpu"]
        clear = context.size == "full"  # with fewer clients there is less to divide by
        report.checks += [
            Check("bytes for each idle client", memory, TARGET_BYTES, at_least=False, unit="bytes", clear=clear),
            Check("CPU with all clients idle", cpu, TARGET_CPU, at_least=False, unit="share", clear=clear),
        ]
    return report
