"""What a run has found: rows of figures under each scenario, checks against targets, and the result file."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

#: Changes when the meaning of a field in the JSON does.
VERSION = 2

Unit = Literal["count", "seconds", "bytes", "share", "ratio"]


#: When the load's core was used for more than this share of a run, it may have been what was measured.
SATURATED = 0.9

#: A server that waited for its core for more than this share of a run was measured on a machine that was too busy.
DISTURBED = 0.1


class Metric(NamedTuple):
    """A figure of a row: its column's head, its unit, and which way is better (None: neither, it explains others)."""

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
    "p50": Metric("p50", "seconds", "lower"),
    "p99": Metric("p99", "seconds", "lower"),
    "p999": Metric("p99.9", "seconds", "lower"),
    "max": Metric("max", "seconds", "lower"),
    "last": Metric("last", "seconds", "lower"),
    "delivered": Metric("delivered", "share", "higher"),
    "update_rate": Metric("updates/s", "count", "higher"),
    "bytes_rate": Metric("bytes/s", "bytes", "higher"),
    "accepted": Metric("accepted/s", "count", "higher"),
    "accepted_per_core": Metric("per CPU s", "count", "higher"),
    "failed": Metric("failed", "count", "lower"),
    "retries": Metric("retries", "count", "lower"),
    "served": Metric("all served within", "seconds", "lower"),
    "recovered": Metric("recovered", "share", "higher"),
    "memory": Metric("bytes/client", "bytes", "lower"),
    "memory_growth": Metric("memory growth", "bytes", "lower"),
    "idle_cpu": Metric("idle CPU", "share", "lower"),
    "dropped": Metric("stalled gone", "share", "higher"),
    "gone_after": Metric("gone after", "seconds", "lower"),
    "p99_without": Metric("p99 without them", "seconds", "lower"),
    "p99_ratio": Metric("p99 with/without", "ratio", "lower"),
    "target": Metric("target/s", "count"),
    "round_trip": Metric("round trip", "seconds", "lower"),
    "broker_per_update": Metric("Redis CPU/update", "seconds", "lower"),
    "server": Metric("server CPU", "share"),
    "load": Metric("load CPU", "share"),
    "load_core": Metric("load core", "share"),
    "waited": Metric("waited for its core", "share"),
}


@dataclass
class Row:
    """One server in one case of a scenario. Its figures are in seconds, bytes, shares of one, or plain counts.

    whole: all updates came, once, in order where that was looked at
    """

    server: str
    case: str
    figures: dict[str, float]
    whole: bool = True
    remark: str = ""

    @property
    def saturated(self) -> bool:
        """The load's core was busy all the time: the server may be better than shown."""
        return max(self.figures.get("load_core", 0.0), self.figures.get("load", 0.0)) > SATURATED

    @property
    def disturbed(self) -> bool:
        """Others used the server's core: it is better than shown."""
        return self.figures.get("waited", 0.0) > DISTURBED

    @property
    def clear(self) -> bool:
        """It was the server that was measured."""
        return not (self.saturated or self.disturbed)


@dataclass
class Check:
    """A figure of Relay's against its target.

    must:  this is about correctness, and missing it fails the run
    clear: the machine was quiet enough for a verdict
    """

    what: str
    measured: float
    target: float
    at_least: bool
    unit: Unit = "count"
    must: bool = False
    clear: bool = True

    @property
    def met(self) -> bool:
        """The target is reached."""
        return self.measured >= self.target if self.at_least else self.measured <= self.target

    @property
    def verdict(self) -> str:
        """In a word."""
        if self.must:
            return "met" if self.met else "FAILED"
        if not self.clear:
            return "unclear"
        return "met" if self.met else "missed"

    @property
    def text(self) -> str:
        """With its figures."""
        sign = ">=" if self.at_least else "<="
        return f"{self.what}: {shown(self.measured, self.unit)} ({sign} {shown(self.target, self.unit)})"


@dataclass
class Report:
    """One scenario's result. ``columns`` names the figures that tables show; ``data`` has more for programs."""

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
        return any(check.must and not check.met for check in self.checks)

    def row(self, server: str, case: str | None = None) -> Row | None:
        """The row of a server, the first one when no case is given."""
        for row in self.rows:
            if row.server == server and case in (None, row.case):
                return row
        return None

    def compare(self, figure: str, ours: str = "relay") -> None:
        """Say for each peer how many times better Relay is in the same case: 2 is twice the rate, or half the time."""
        lower = METRICS[figure].better == "lower"
        for row in self.rows:
            base = self.row(ours, row.case)
            if base is None or row.server.startswith("relay"):
                continue
            mine, theirs = base.figures.get(figure), row.figures.get(figure)
            if mine and theirs:
                row.figures["ratio"] = theirs / mine if lower else mine / theirs

    def must_be_whole(self, what: str) -> None:
        """Check that Relay lost nothing."""
        ours = [row.whole for row in self.rows if row.server.startswith("relay")]
        self.checks.append(Check(what, sum(ours), len(ours), at_least=True, must=True))

    def to_json(self) -> dict[str, Any]:
        """For the result file."""
        plain = asdict(self)
        for check, written in zip(self.checks, plain["checks"], strict=True):
            written["verdict"] = check.verdict
        return plain

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> "Report":
        """The opposite."""
        checks = [Check(**{k: v for k, v in check.items() if k != "verdict"}) for check in plain["checks"]]
        rows = [Row(**row) for row in plain["rows"]]
        return cls(**{**plain, "rows": rows, "checks": checks})


@dataclass
class Results:
    """A result file."""

    machine: dict[str, Any]
    size: str
    seed: int
    reports: list[Report]
    finished: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def write(self, path: Path) -> None:
        """As JSON."""
        content = {
            "version": VERSION,
            "finished": self.finished,
            "size": self.size,
            "seed": self.seed,
            "machine": self.machine,
            "scenarios": [report.to_json() for report in self.reports],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Results":
        """Raises ValueError when it is no result file of this version."""
        try:
            content = json.loads(path.read_text())
            if content["version"] != VERSION:
                raise ValueError(f"{path} has version {content['version']}; this is version {VERSION}: run it again")
            reports = [Report.from_json(plain) for plain in content["scenarios"]]
            return cls(content["machine"], content["size"], content["seed"], reports, content["finished"])
        except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is not a result file of `python -m benchmarks run`: {error!r}") from None

    def report(self, scenario: str) -> Report | None:
        """That of a scenario."""
        return next((report for report in self.reports if report.scenario == scenario), None)


def shown(value: float, unit: Unit) -> str:
    """A figure for people, with as many digits as mean something."""
    if unit == "share":
        return f"{value:.1%}" if value < 0.1 else f"{value:.0%}"
    if unit == "ratio":
        return f"{value:.2f}" if value < 10 else f"{value:.0f}"
    if unit == "seconds":
        if value >= 1:
            return f"{value:.1f} s"
        return f"{value * 1e3:.1f} ms" if value >= 1e-3 else f"{value * 1e6:.0f} us"
    if unit == "bytes":
        return f"{value / 1e6:,.1f} MB" if abs(value) >= 1e6 else f"{value:,.0f}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def median(values: Sequence[float]) -> float:
    """The middle one; 0 when there are none."""
    return float(statistics.median(values)) if values else 0.0
