"""Reports for people: as text, as Markdown."""

from collections.abc import Sequence
from typing import Any

from benchmarks.results import METRICS, Report, Results, Row, shown


def heads(report: Report) -> list[str]:
    """The columns' heads; columns without a single figure are left out."""
    first = ["server", "case"] if any(row.case for row in report.rows) else ["server"]
    return [*first, *(METRICS[name].label for name in _used(report)), ""]


def _used(report: Report) -> list[str]:
    return [name for name in report.columns if any(name in row.figures for row in report.rows)]


def cells(report: Report) -> list[list[str]]:
    """The rows, as text; the last cell has what is to be said of one."""
    with_case = any(row.case for row in report.rows)
    table = []
    for row in report.rows:
        first = [row.server, row.case] if with_case else [row.server]
        figures = (
            shown(row.figures[name], METRICS[name].unit) if name in row.figures else "-" for name in _used(report)
        )
        table.append([*first, *figures, remark(row)])
    return table


def remark(row: Row) -> str:
    """What a reader must know of a row."""
    said = [] if row.whole else ["lost updates"]
    if row.saturated:
        said.append("load saturated")
    if row.disturbed:
        said.append("others used its core")
    if row.remark:
        said.append(row.remark)
    return ", ".join(said)


def parameters(report: Report) -> str:
    """In a line."""

    def text(value: Any) -> str:
        if isinstance(value, list | tuple):
            return " / ".join(text(one) for one in value)
        return f"{value:,}" if isinstance(value, int) else str(value)

    return ", ".join(f"{name} {text(value)}" for name, value in report.parameters.items())


def as_text(report: Report) -> str:
    """For a terminal."""
    lines = [f"== {report.scenario}: {report.title} ({parameters(report)})"]
    if report.rows:
        lines += aligned([heads(report), *cells(report)])
    lines += [f"   {check.verdict:7}  {check.text}" for check in report.checks]
    lines += [f"   note: {note}" for note in report.notes]
    return "\n".join(lines)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with aligned columns, the first to the left, the others to the right; the first row is the header."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        return ("   " + "  ".join(cells)).rstrip()

    return [line(rows[0]), "   " + "  ".join("-" * width for width in widths).rstrip(), *map(line, rows[1:])]


#: What tells servers apart at a glance: scenario, case (None: the first), figure, and what it is called.
_OVERVIEW = (
    ("burst", None, "per_core", "burst to 500 clients, deliveries per CPU s"),
    ("paced", "50,000/s", "p99", "p99 at 50,000 deliveries/s"),
    ("paced", "200,000/s", "p99", "p99 at 200,000/s"),
    ("broadcast", "10,000 clients", "p50", "one update to 10,000 clients, p50"),
    ("tasks", "1 watcher each", "updates_per_core", "many tasks, updates per CPU s"),
    ("storm", None, "accepted_per_core", "connections per CPU s"),
    ("reconnect", None, "served", "10,000 return within"),
    ("reconnect", None, "recovered", "with all they missed"),
    ("idle", None, "memory", "bytes per idle client"),
    ("idle", None, "idle_cpu", "CPU of 18,000 idle clients"),
)


def overview(results: Results) -> list[list[str]]:
    """One row for each figure that tells servers apart, one column for each server; the first row is the header."""
    servers = list(dict.fromkeys(row.server for report in results.reports for row in report.rows if row.server != ""))
    table: list[list[str]] = []
    for scenario, case, figure, label in _OVERVIEW:
        report = results.report(scenario)
        if report is None:
            continue
        found = [report.row(server, case) for server in servers]
        line = ["-" if row is None or figure not in row.figures else _figure(row, figure) for row in found]
        if set(line) != {"-"}:
            table.append([label, *line])
    shown_servers = [number for number in range(len(servers)) if any(line[1 + number] != "-" for line in table)]
    return [
        ["", *(servers[number] for number in shown_servers)],
        *([line[0], *(line[1 + number] for number in shown_servers)] for line in table),
    ]


def _figure(row: Row, name: str) -> str:
    return shown(row.figures[name], METRICS[name].unit) + ("" if row.whole else " (lost some)")


def as_markdown(results: Results) -> str:
    """All scenarios, for a document."""
    lines = [machine(results), ""]
    head, *rest = overview(results)
    if rest:
        lines += ["### At a glance", "", f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
        lines += [*(f"| {' | '.join(line)} |" for line in rest), ""]
    for report in results.reports:
        lines += [f"### {report.title} (`{report.scenario}`)", "", f"{parameters(report)}.", ""]
        if report.rows:
            head = heads(report)
            lines += [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
            lines += [f"| {' | '.join(row)} |" for row in cells(report)]
            lines.append("")
        lines += [f"- {check.verdict}: {check.text}" for check in report.checks]
        lines += [f"- {note}" for note in (_one_line(note) for note in report.notes)]
        lines.append("")
    return "\n".join(lines)


def _one_line(note: str) -> str:
    return note.partition("\n")[0]


def machine(results: Results) -> str:
    """What it was measured on, in a sentence."""
    facts = results.machine
    return (
        f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gb']} GiB, Linux {facts['kernel']}, Python "
        f"{facts['python']}, commit {facts['commit'] or 'unknown'}, {results.finished}, size {results.size}, "
        f"seed {results.seed}, load average before {facts['load_average']:.2f}."
    )
