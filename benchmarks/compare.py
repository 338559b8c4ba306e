"""Two result files as ratios: what became better, what worse."""

from collections.abc import Iterator

from benchmarks.results import METRICS, Report, Results, shown
from benchmarks.tables import aligned, parameters

#: Within this a figure counts as the same.
_SAME = 0.05

_HEADER = ["server", "case", "figure", "before", "after", "after/before", ""]


def compared(before: Results, after: Results) -> str:
    """Compare two results for a terminal. What only one of them has, or has under other conditions, is named and left out."""
    one, other = before.machine, after.machine
    lines = [f"commit {one.get('commit')} ({before.finished}) -> {other.get('commit')} ({after.finished})"]
    conditions: list[tuple[str, object, object]] = [("size", before.size, after.size)]
    conditions += [(name, one.get(name), other.get(name)) for name in ("cpu", "cores", "kernel", "python")]
    if different := [f"{name} {old} against {new}" for name, old, new in conditions if old != new]:
        lines.append(f"not the same conditions: {', '.join(different)}")
    for report in after.scenarios:
        earlier = before.report(report.scenario)
        if earlier is None:
            lines.append(f"== {report.scenario}: not in the first file")
        elif parameters(earlier) != parameters(report):
            lines.append(f"== {report.scenario}: not comparable, {parameters(earlier)} against {parameters(report)}")
        else:
            lines.append(f"== {report.scenario}: {report.title} ({parameters(report)})")
            rows = list(_rows(earlier, report))
            lines += aligned([_HEADER, *rows]) if rows else []
    names = [report.scenario for report in before.scenarios if after.report(report.scenario) is None]
    return "\n".join([*lines, *(f"== {name}: not in the second file" for name in names)])


def _rows(before: Report, after: Report) -> Iterator[list[str]]:
    for row in after.rows:
        earlier = before.row(row.server, row.case)
        for name in after.columns if earlier else ():
            metric = METRICS[name]
            old, new = earlier.figures.get(name) if earlier else None, row.figures.get(name)
            if metric.better is None or old is None or new is None:
                continue
            ratio = 1.0 if old == new else new / old if old else float("inf")
            is_better = (ratio > 1) == (metric.better == "higher")
            verdict = "" if abs(ratio - 1) <= _SAME else "better" if is_better else "worse"
            figures = (shown(old, metric.unit), shown(new, metric.unit), f"{ratio:.2f}")
            yield [row.server, row.case, metric.label, *figures, verdict]
