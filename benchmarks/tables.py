"""Reports as text, as Markdown and as an HTML page."""

from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from benchmarks.plots import draw_each
from benchmarks.results import METRICS, Report, Results, Row, shown

#: Figures that tell servers apart at a glance: scenario, case (None: the first), figure, label.
_OVERVIEW = (
    ("burst", None, "per_core", "burst to 500 clients, deliveries per CPU s"),
    ("paced", "50,000/s", "p99", "p99 at 50,000 deliveries/s"),
    ("paced", "200,000/s", "p99", "p99 at 200,000/s"),
    ("broadcast", "10,000 clients", "p50", "one update to 10,000 clients, p50"),
    ("tasks", "1 watcher each", "updates_per_core", "many tasks, updates per CPU s"),
    ("storm", None, "accepted_per_core", "connections per CPU s"),
    ("reconnect", None, "served", "10,000 reconnect within"),
    ("reconnect", None, "recovered", "with all they missed"),
    ("idle", None, "memory", "bytes per idle client"),
    ("idle", None, "idle_cpu", "CPU of 18,000 idle clients"),
)


def remark(row: Row) -> str:
    """Say what a reader must know of a row."""
    remarks = {
        "lost updates": not row.complete, "load saturated": row.saturated,
        "others used its core": row.disturbed, row.remark: bool(row.remark),
    }  # fmt: skip
    return ", ".join(text for text, applies in remarks.items() if applies)


def _cell(row: Row | None, figure: str) -> str:
    return shown(row.figures[figure], METRICS[figure].unit) if row and figure in row.figures else "-"


def table_of(report: Report) -> list[list[str]]:
    """Return the table of a report, its header first; columns without a single figure are left out."""
    columns = [name for name in report.columns if any(name in row.figures for row in report.rows)]
    with_case = any(row.case for row in report.rows)
    header = ["server", *["case"] * with_case, *(METRICS[name].label for name in columns), ""]
    return [header] + [
        [row.server, *[row.case] * with_case, *(_cell(row, name) for name in columns), remark(row)]
        for row in report.rows
    ]  # fmt: skip


def parameters(report: Report) -> str:
    """Return a report's parameters in a line."""

    def text(value: Any) -> str:
        if isinstance(value, list | tuple):
            return " / ".join(map(text, value))
        return f"{value:,}" if isinstance(value, int) else str(value)

    return ", ".join(f"{name} {text(value)}" for name, value in report.parameters.items())


def as_text(report: Report) -> str:
    """Return a report for a terminal."""
    return "\n".join([
        f"== {report.scenario}: {report.title} ({parameters(report)})",
        *(aligned(table_of(report)) if report.rows else ()),
        *(f"   {check.verdict:7}  {check}" for check in report.checks), *(f"   note: {note}" for note in report.notes),
    ])  # fmt: skip


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines with aligned columns, the first to the left, the others to the right; the first row is the header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    ruled = [rows[0], ["-" * width for width in widths], *rows[1:]]
    return [
        "   " + "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in ruled
    ]  # fmt: skip


def overview(results: Results) -> list[list[str]]:
    """Return one row for each figure that tells servers apart, one column for each server; the first row is the header."""
    table = [["", *dict.fromkeys(row.server for report in results.scenarios for row in report.rows)]]
    for scenario, case, figure, label in _OVERVIEW:
        if (report := results.report(scenario)) is not None:
            rows = [report.row(server, case) for server in table[0][1:]]
            cells = [_cell(row, figure) + (" (lost some)" if row and not row.complete else "") for row in rows]
            table += [[label, *cells]] if set(cells) - {"-", "- (lost some)"} else []
    used = [column for column in zip(*table, strict=True) if column[0] == "" or set(column[1:]) - {"-"}]
    return [list(row) for row in zip(*used, strict=True)]


def rendered(results: Results, template: str) -> str:
    """Fill in one of the templates; nothing in the page comes from elsewhere."""
    facts = results.machine
    others = "".join(f", {name}: {version}" for name, version in facts.get("pythons", {}).items())
    machine = (
        f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gb']} GiB, Linux {facts['kernel']}, Python "
        f"{facts['python']}{others}, commit {facts['commit'] or 'unknown'}, {results.finished}, size {results.size}, "
        f"seed {results.seed}, load average before {facts['load_average']:.2f}."
    )
    pictures = draw_each(results) if template.endswith(".html") else {}
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=template.endswith(".html"),
        keep_trailing_newline=True,
    )  # fmt: skip
    return environment.get_template(template).render(
        machine=machine, packages=facts["packages"], overview=overview(results), reports=results.scenarios,
        plots={name: b64encode(data).decode() for name, data in pictures.items()}, parameters=parameters, table_of=table_of,
    )  # fmt: skip
