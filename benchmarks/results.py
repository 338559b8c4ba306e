"""The results of a run: rows of figures under each scenario, checks against targets, and the result file."""

import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Struct, field

from benchmarks.latency import Latencies

#: Changes when the meaning of a field in the JSON does.
VERSION = 3

Unit = Literal["count", "seconds", "bytes", "share", "ratio"]

#: When the load's core was busy for more than this share of a run, it may have been what was measured.
SATURATED = 0.9

#: A server that waited for its core for more than this share of a run was measured on a machine that was too busy.
DISTURBED = 0.1


class Metric(NamedTuple):
    """A figure of a row: the head of its column, its unit, and which way is better (None: neither, it explains others)."""

    label: str
    unit: Unit
    better: Literal["higher", "lower"] | None = None


#: All figures that rows may have.
METRICS: dict[str, Metric] = {
    "rate": Metric("deliveries/s", "count", "higher"),
    "lowest": Metric("lowest", "count"),
    "highest": Metric("highest", "count"),
    "ratio": Metric("relay is better by", "ratio"),
    "cost": Metric("CPU, times the first row's", "ratio", "lower"),
    "per_core": Metric("deliveries per CPU s", "count", "higher"),
    "updates_per_core": Metric("updates per CPU s", "count", "higher"),
    "cpu_per_update": Metric("CPU/update", "seconds", "lower"),
    "cpu_per_delivery": Metric("CPU/delivery", "seconds", "lower"),
    "size": Metric("size", "count"),
    "p50": Metric("p50", "seconds", "lower"),
    "p99": Metric("p99", "seconds", "lower"),
    "p999": Metric("p99.9", "seconds", "lower"),
    "max": Metric("max", "seconds", "lower"),
    "last": Metric("last", "seconds", "lower"),
    "delivered": Metric("delivered", "share", "higher"),
    "doubled": Metric("doubled", "count", "lower"),
    "reordered": Metric("reordered", "count", "lower"),
    "failures": Metric("network failures", "count"),
    "recovery_p50": Metric("live again p50", "seconds", "lower"),
    "recovery_p99": Metric("live again p99", "seconds", "lower"),
    "away": Metric("server away", "seconds"),
    "update_rate": Metric("updates/s", "count", "higher"),
    "bytes_rate": Metric("bytes/s", "bytes", "higher"),
    "connects": Metric("connects in a second", "count", "lower"),
    "refused": Metric("refused", "count", "lower"),
    "accepted": Metric("accepted/s", "count", "higher"),
    "accepted_per_core": Metric("per CPU s", "count", "higher"),
    "failed": Metric("failed", "count", "lower"),
    "retries": Metric("retries", "count", "lower"),
    "served": Metric("all served within", "seconds", "lower"),
    "recovered": Metric("recovered", "share", "higher"),
    "memory": Metric("bytes/client", "bytes", "lower"),
    "memory_growth": Metric("memory growth", "bytes", "lower"),
    "idle_cpu": Metric("idle CPU", "share", "lower"),
    "dropped": Metric("stalled dropped", "share", "higher"),
    "dropped_after": Metric("dropped after", "seconds", "lower"),
    "p99_without": Metric("p99 without them", "seconds", "lower"),
    "p99_ratio": Metric("p99 with/without", "ratio", "lower"),
    "target": Metric("target/s", "count"),
    "reporting": Metric("share of a core at 1,000/s", "share", "lower"),
    "round_trip": Metric("round trip", "seconds", "lower"),
    "redis_per_update": Metric("Redis CPU/update", "seconds", "lower"),
    "server": Metric("server CPU", "share"),
    "load": Metric("load CPU", "share"),
    "load_core": Metric("load core", "share"),
    "waited": Metric("waited for its core", "share"),
}


class Row(Struct):
    """One server in one case of a scenario; its figures are in seconds, bytes, shares of one, or plain counts.

    ``complete``: all updates came once, in order where that was checked. ``noisy``: its runs differ too much for a verdict.
    """

    server: str
    case: str
    figures: dict[str, float]
    complete: bool = True
    remark: str = ""
    noisy: bool = False

    @property
    def saturated(self) -> bool:
        """The load's core was busy all the time: the server may be better than shown."""
        return max(self.figures.get("load_core", 0.0), self.figures.get("load", 0.0)) > SATURATED

    @property
    def disturbed(self) -> bool:
        """Other processes used the server's core: it is better than shown."""
        return self.figures.get("waited", 0.0) > DISTURBED

    @property
    def clear(self) -> bool:
        """Whether the figure is that of the server: neither the load nor other processes disturbed it."""
        return not (self.saturated or self.disturbed or self.noisy)


class Check(Struct):
    """A figure of Relay's against its target.

    ``must``: it is about correctness, and missing it fails the run. ``clear``: the machine was quiet enough for a verdict.
    """

    text: str
    measured: float
    target: float
    at_least: bool = True
    unit: Unit = "count"
    must: bool = False
    clear: bool = True
    verdict: str = ""

    def __post_init__(self) -> None:
        met = self.measured >= self.target if self.at_least else self.measured <= self.target
        missed = "FAILED" if self.must else "missed"
        self.verdict = "unclear" if not (self.clear or self.must) else "met" if met else missed

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        return f"{self.text}: {shown(self.measured, self.unit)} ({sign} {shown(self.target, self.unit)})"


class Report(Struct):
    """The result of one scenario. ``columns`` names the figures that tables show; ``data`` has more for programs."""

    scenario: str
    title: str
    parameters: dict[str, Any]
    columns: Sequence[str]
    rows: list[Row] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Something was lost, doubled, out of order, or not dropped."""
        return any(check.verdict == "FAILED" for check in self.checks)

    def row(self, server: str, case: str | None = None) -> Row | None:
        """Return the row of a server, the first one when no case is given."""
        return next((row for row in self.rows if row.server == server and case in (None, row.case)), None)


class Results(Struct):
    """A result file."""

    machine: dict[str, Any]
    size: str
    seed: int
    scenarios: list[Report]
    finished: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    version: int = VERSION

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self, enc_hook=Latencies.encoded), indent=1) + b"\n")

    @classmethod
    def read(cls, path: Path) -> "Results":
        """Read a file. Raises ValueError when it is no result file of this version."""
        try:
            content = msgspec.json.decode(path.read_bytes())
            version = content.get("version")
            if version != VERSION:
                raise ValueError(f"{path} has version {version}; this is version {VERSION}: run it again")
            return msgspec.convert(content, cls)
        except (AttributeError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not a result file of `python -m benchmarks run`: {error!r}") from None

    def report(self, scenario: str) -> Report | None:
        """Return the report of a scenario."""
        return next((report for report in self.scenarios if report.scenario == scenario), None)


def shown(value: float, unit: Unit) -> str:
    """Format a figure for people, with as many digits as mean something."""
    if unit == "share":
        return f"{value:.1%}" if value < 0.1 else f"{value:.0%}"
    if unit == "ratio":
        return f"{value:.2f}" if value < 10 else f"{value:.0f}"
    if unit == "seconds":
        milliseconds = f"{value * 1e3:.1f} ms" if value >= 1e-3 else f"{value * 1e6:.0f} us"
        return f"{value:.1f} s" if value >= 1 else milliseconds
    if unit == "bytes":
        return f"{value / 1e6:,.1f} MB" if abs(value) >= 1e6 else f"{value:,.0f}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def median(values: Sequence[float]) -> float:
    """Return the middle one; 0 when there are none."""
    return float(statistics.median(values)) if values else 0.0
