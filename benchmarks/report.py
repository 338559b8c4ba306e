"""A result file as one HTML page with everything in it, and as a picture."""

import base64
from collections.abc import Sequence
from html import escape

from benchmarks.plots import PLOTS, drawn, picture
from benchmarks.results import Report, Results
from benchmarks.tables import cells, heads, machine, overview, parameters

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
tr.relay { background: #fdf1ef; }
.FAILED, .missed { color: #b03a2e; font-weight: 600; } .met { color: #1e8449; } .unclear { color: #9a7d0a; }
img { max-width: 100%; } .wide { overflow-x: auto; } .small { color: #666; font-size: 13px; }
"""


class NothingToDraw(Exception):
    """The result file has none of the scenarios that are drawn."""


def as_png(results: Results) -> bytes:
    """All plots in one picture. Raises NothingToDraw."""
    figure = drawn(results, *PLOTS)
    if figure is None:
        raise NothingToDraw("nothing to draw: the result file has none of burst, paced, idle and storm")
    return picture(figure, "png")


def as_html(results: Results) -> str:
    """One page; nothing in it comes from elsewhere."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>Relay benchmarks</title>", f"<style>{_STYLE}</style>",
        "<h1>Relay benchmarks</h1>", f"<p>{escape(machine(results))}</p>",
        f"<p class=small>{escape(', '.join(f'{k} {v}' for k, v in results.machine['packages'].items()))}</p>",
    ]  # fmt: skip
    for name in PLOTS:
        figure = drawn(results, name)
        if figure is not None:
            data = base64.b64encode(picture(figure, "svg")).decode()
            parts.append(f'<p><img alt="{name}" src="data:image/svg+xml;base64,{data}">')
    glance = overview(results)
    if len(glance) > 1:
        parts += ["<h2>At a glance</h2>", *_table(glance)]
    parts += [_section(report) for report in results.reports]
    return "\n".join(parts) + "\n</html>\n"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first row is the header; Relay's rows stand out."""
    lines = [f"<div class=wide><table><tr>{''.join(f'<th>{escape(cell)}</th>' for cell in rows[0])}</tr>"]
    for row in rows[1:]:
        kind = " class=relay" if row[0].startswith("relay") else ""
        lines.append(f"<tr{kind}>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>")
    return [*lines, "</table></div>"]


def _section(report: Report) -> str:
    lines = [f"<h2>{escape(report.title)}</h2><p><code>{report.scenario}</code>: {escape(parameters(report))}</p>"]
    if report.rows:
        lines += _table([heads(report), *cells(report)])
    lines.append("<ul>")
    for check in report.checks:
        lines.append(f"<li><span class={check.verdict}>{check.verdict}</span>: {escape(check.text)}</li>")
    lines += [f"<li>{escape(note)}</li>" for note in report.notes]
    lines.append("</ul>")
    return "\n".join(lines)
