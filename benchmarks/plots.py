"""The plots of a report: latency against rate, deliveries per core, memory per client, connection rate."""

import io
from collections.abc import Callable
from typing import Any, Literal

import matplotlib as mpl

mpl.use("agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from benchmarks.results import Results

_OURS = "#c0392b"
_OURS_TOO = "#e59866"
_MARKS = "osD^vP*Xhp<>"

#: Twenty that can be told apart, without the two reds that are near Relay's.
_OTHERS = [color for i, color in enumerate(mpl.color_sequences["tab20"]) if i not in (6, 7)]


def _color(name: str, number: int) -> Any:
    if name == "relay":
        return _OURS
    return _OURS_TOO if name.startswith("relay") else _OTHERS[number % len(_OTHERS)]


def latency(axes: Axes, results: Results) -> bool:
    """p99 against the rate, one line for each server, up to its last rung."""
    report = results.report("paced")
    if report is None:
        return False
    for number, server in enumerate(dict.fromkeys(row.server for row in report.rows)):
        rungs = [row for row in report.rows if row.server == server and row.figures.get("p99")]
        rates = [row.figures["target"] for row in rungs]
        values = [row.figures["p99"] * 1e3 for row in rungs]
        ours = server.startswith("relay")
        axes.plot(
            rates, values, label=server, color=_color(server, number), marker=_MARKS[number % len(_MARKS)],
            linewidth=2.5 if ours else 1.2, markersize=5 if ours else 4, zorder=3 if ours else 2,
        )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="deliveries/s", ylabel="p99, ms")
    axes.set_title("Latency against rate (lower is better)")
    axes.legend(fontsize=7, ncols=2)
    return bool(report.rows)


def _bars(
    axes: Axes, results: Results, scenario: str, figure: str, title: str, *, higher: bool, scale: float = 1.0
) -> bool:
    report = results.report(scenario)
    rows = [row for row in report.rows if row.figures.get(figure)] if report else []
    if not rows:
        return False
    rows.sort(key=lambda row: row.figures[figure], reverse=not higher)
    values = [row.figures[figure] * scale for row in rows]
    bars = axes.barh([row.server for row in rows], values, color=[_color(row.server, 0) for row in rows])
    axes.bar_label(bars, labels=[f" {value:,.0f}" for value in values], fontsize=7)
    axes.set_title(f"{title} ({'higher' if higher else 'lower'} is better)")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.tick_params(axis="y", labelsize=8)
    axes.margins(x=0.15)
    return True


def deliveries(axes: Axes, results: Results) -> bool:
    """Deliveries for a second of the server's CPU, in a burst."""
    return _bars(axes, results, "burst", "per_core", "Deliveries per CPU second, burst", higher=True)


def memory(axes: Axes, results: Results) -> bool:
    """Bytes for each idle client."""
    return _bars(axes, results, "idle", "memory", "KB per idle client", higher=False, scale=1e-3)


def connections(axes: Axes, results: Results) -> bool:
    """Connections accepted a second."""
    return _bars(axes, results, "storm", "accepted", "Connections accepted a second", higher=True)


PLOTS: dict[str, Callable[[Axes, Results], bool]] = {
    "latency": latency, "deliveries": deliveries, "memory": memory, "connections": connections,
}  # fmt: skip


def drawn(results: Results, *names: str) -> Figure | None:
    """These plots in one picture, two to a row; None when the results have nothing for any of them."""
    able = [name for name in names if PLOTS[name](Figure().subplots(), results)]
    if not able:
        return None
    columns = min(2, len(able))
    rows = -(-len(able) // columns)
    figure = Figure(figsize=(7.5 * columns, 4.8 * rows), layout="constrained")
    places: Any = figure.subplots(rows, columns, squeeze=False)
    for place, name in zip(places.flat, able, strict=False):
        PLOTS[name](place, results)
        place.grid(alpha=0.25, which="both")
        place.set_axisbelow(True)
    for place in places.flat[len(able) :]:
        place.set_visible(False)
    return figure


def picture(figure: Figure, kind: Literal["png", "svg"]) -> bytes:
    """The bytes of a file."""
    file = io.BytesIO()
    figure.savefig(file, format=kind, dpi=110)
    return file.getvalue()
