"""Two result files as ratios: what became better, what worse."""

from collections.abc import Iterator

from benchmarks.results import METRICS, Report, Results, shown
from benchmarks.tables import aligned, parameters

#: Within this a figure counts as the same.
_SAME = 0.05


def compared(before: Results, after: Results) -> str:
    """For a terminal. What only one of them has, or has under other conditions, is named and left out."""
    lines = [_conditions(before, after)]
    for report in after.reports:
        earlier = before.report(report.scenario)
        if earlier is None:
            lines.append(f"== {report.scenario}: not in the first file")
        elif parameters(earlier) != parameters(report):
            lines.append(f"== {report.scenario}: not comparable, {parameters(earlier)} against {parameters(report)}")
        else:
            lines.append(f"== {report.scenario}: {report.title} ({parameters(report)})")
            rows = list(_rows(earlier, report))
            lines += (
                aligned([["server", "case", "figure", "before", "after", "after/before", ""], *rows]) if rows else []
            )
    there = {report.scenario for report in after.reports}
    lines += [
        f"== {report.scenario}: not in the second file" for report in before.reports if report.scenario not in there
    ]
    return "\n".join(lines)


def _conditions(before: Results, after: Results) -> str:
    different = [
        f"{name} {before.machine.get(name)} against {after.machine.get(name)}"
        for name in ("cpu", "cores", "kernel", "python")
        if before.machine.get(name) != after.machine.get(name)
    ]
    if before.size != after.size:
        different.append(f"size {before.size} against {after.size}")
    said = (
        f"commit {before.machine.get('commit')} ({before.finished}) -> {after.machine.get('commit')} ({after.finished})"
    )
    return f"{said}\nnot the same conditions: {', '.join(different)}" if different else said


def _rows(before: Report, after: Report) -> Iterator[list[str]]:
    for row in after.rows:
        earlier = before.row(row.server, row.case)
        if earlier is None:
            continue
        for name in after.columns:
            metric = METRICS[name]
            old, new = earlier.figures.get(name), row.figures.get(name)
            if metric.better is None or old is None or new is None:
                continue
            unchanged = old == new
            ratio = new / old if old else float("inf")
            is_better = (ratio > 1) == (metric.better == "higher")
            verdict = "" if unchanged or abs(ratio - 1) <= _SAME else "better" if is_better else "worse"
            times = "1.00" if unchanged else f"{ratio:.2f}"
            yield [row.server, row.case, metric.label, shown(old, metric.unit), shown(new, metric.unit), times, verdict]
