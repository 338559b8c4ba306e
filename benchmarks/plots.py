"""The plots of a report: latency against rate, deliveries per core, memory per client, connection rate."""

import io
from collections.abc import Callable
from functools import partial
from typing import Any

import matplotlib as mpl

mpl.use("agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from benchmarks.results import METRICS, Report, Results

_RELAY, _RELAY_VARIANT = "#c0392b", "#e59866"
_MARKERS = "osD^vP*Xhp<>"

#: Twenty that can be told apart, without the two reds that are near Relay's.
_OTHERS = [color for i, color in enumerate(mpl.color_sequences["tab20"]) if i not in (6, 7)]


class NothingToDraw(Exception):
    """The result file has none of the scenarios that are drawn."""


def _color(name: str, number: int) -> Any:
    own = _RELAY if name == "relay" else _RELAY_VARIANT
    return own if name.startswith("relay") else _OTHERS[number % len(_OTHERS)]


def _latency(axes: Axes, report: Report) -> None:
    """Draw p99 against the rate, one line for each server, up to its last rung."""
    for number, server in enumerate(dict.fromkeys(row.server for row in report.rows)):
        rungs = [row for row in report.rows if row.server == server]
        is_relay = server.startswith("relay")
        axes.plot(
            [row.figures["target"] for row in rungs], [row.figures["p99"] * 1e3 for row in rungs], label=server,
            color=_color(server, number), marker=_MARKERS[number % len(_MARKERS)], linewidth=2.5 if is_relay else 1.2,
            markersize=5 if is_relay else 4, zorder=3 if is_relay else 2,
        )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="deliveries/s", ylabel="p99, ms")
    axes.legend(fontsize=7, ncols=2)


def _bars(axes: Axes, report: Report, figure: str, scale: float) -> None:
    """Draw a figure of each server, the best on top."""
    rows = sorted(report.rows, key=lambda row: row.figures[figure], reverse=METRICS[figure].better == "lower")
    values = [row.figures[figure] * scale for row in rows]
    bars = axes.barh([row.server for row in rows], values, color=[_color(row.server, 0) for row in rows])
    axes.bar_label(bars, labels=[f" {value:,.0f}" for value in values], fontsize=7)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.tick_params(axis="y", labelsize=8)
    axes.margins(x=0.15)


def _growth(axes: Axes, report: Report, figure: str, of: str) -> None:
    """Draw a cost in microseconds against the number of tasks or clients, one line for each server, from zero."""
    for number, server in enumerate(dict.fromkeys(row.server for row in report.rows)):
        rows = [row for row in report.rows if row.server == server and figure in row.figures]
        axes.plot(
            [row.figures["size"] for row in rows], [row.figures[figure] * 1e6 for row in rows], label=server,
            color=_color(server, number), marker=_MARKERS[number % len(_MARKERS)],
        )  # fmt: skip
    axes.set(xscale="log", xlabel=of, ylabel="microseconds")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)


#: Name, scenario, figure, title, and how it is drawn.
PLOTS: tuple[tuple[str, str, str, str, Callable[[Axes, Report], None]], ...] = (
    ("latency", "paced", "p99", "Latency against rate", _latency),
    ("deliveries", "burst", "per_core", "Deliveries per CPU second, burst", partial(_bars, figure="per_core", scale=1)),
    ("memory", "idle", "memory", "KB per idle client", partial(_bars, figure="memory", scale=1e-3)),
    ("connections", "storm", "accepted", "Connections accepted a second", partial(_bars, figure="accepted", scale=1)),
    ("tasks", "scaling", "cpu_per_update", "CPU per update", partial(_growth, figure="cpu_per_update", of="tasks")),
    (
        "clients",
        "scaling",
        "cpu_per_delivery",
        "CPU per delivery",
        partial(_growth, figure="cpu_per_delivery", of="clients"),
    ),
)


def _draw(results: Results, names: list[str], kind: str) -> bytes:
    columns = min(2, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(7.5 * columns, 4.8 * rows), layout="constrained")
    places: Any = figure.subplots(rows, columns, squeeze=False)
    chosen = [plot for plot in PLOTS if plot[0] in names]
    for axes, (_, scenario, metric, title, draw) in zip(places.flat, chosen, strict=False):
        report = results.report(scenario)
        assert report is not None
        draw(axes, report)
        axes.set_title(f"{title} ({METRICS[metric].better} is better)")
        axes.grid(alpha=0.25, which="both")
        axes.set_axisbelow(True)
    for axes in places.flat[len(chosen) :]:
        axes.set_visible(False)
    file = io.BytesIO()
    figure.savefig(file, format=kind, dpi=110)
    return file.getvalue()


def _drawable(results: Results) -> list[str]:
    return [name for name, scenario, *_ in PLOTS if (report := results.report(scenario)) is not None and report.rows]


def draw_each(results: Results) -> dict[str, bytes]:
    """Return each plot as SVG, by name."""
    return {name: _draw(results, [name], "svg") for name in _drawable(results)}


def draw_all(results: Results) -> bytes:
    """Return all plots as one PNG. Raises NothingToDraw."""
    names = _drawable(results)
    if not names:
        raise NothingToDraw(f"the result file has none of {', '.join(sorted({scenario for _, scenario, *_ in PLOTS}))}")
    return _draw(results, names, "png")
