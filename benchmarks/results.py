"""What a run has found: tables for people, JSON for programs, and whether the targets were met."""

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

#: Changes when the meaning of a field in the JSON does.
VERSION = 1


class Context(NamedTuple):
    """What a scenario is given: a directory for its processes, how long it may take, and where progress goes."""

    directory: Path
    quick: bool
    say: Callable[[str], None]


@dataclass
class Check:
    """A figure against its target.

    must:  this is about correctness, and missing it fails the run
    clear: the noise was small enough for a verdict
    """

    what: str
    measured: float
    target: float
    at_least: bool
    must: bool = False
    clear: bool = True

    @property
    def met(self) -> bool:
        """The target is reached."""
        return self.measured >= self.target if self.at_least else self.measured <= self.target


@dataclass
class Report:
    """One scenario's result. ``rows`` are shown under ``header``; ``data`` has the same and more as plain numbers."""

    scenario: str
    parameters: dict[str, Any]
    header: Sequence[str]
    rows: list[list[str]] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Something was lost, doubled, out of order, or not dropped."""
        return any(check.must and not check.met for check in self.checks)

    def text(self) -> str:
        """For a terminal."""
        parameters = ", ".join(f"{name} {value:,}" for name, value in self.parameters.items())
        lines = [f"== {self.scenario}: {parameters}", *table([list(self.header), *self.rows])]
        for check in self.checks:
            sign = ">=" if check.at_least else "<="
            verdict = "met" if check.met else "FAILED" if check.must else "missed"
            if not check.clear:
                verdict = "unclear"
            lines.append(f"   {verdict:7}  {check.what}: {number(check.measured)} ({sign} {number(check.target)})")
        lines += [f"   note: {note}" for note in self.notes]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """For the result file."""
        plain = asdict(self)
        plain["checks"] = [{**asdict(check), "met": check.met} for check in self.checks]
        return plain


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with aligned columns, the first to the left, the others to the right; the first row is the header."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        return "   " + "  ".join(cells)

    return [line(rows[0]), "   " + "  ".join("-" * width for width in widths), *map(line, rows[1:])]


def number(value: float) -> str:
    """A number with as many digits as mean something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def milliseconds(nanoseconds: float) -> str:
    """A time for a table."""
    return f"{nanoseconds / 1e6:,.1f} ms"


def percent(share: float) -> str:
    """A share for a table."""
    return f"{share:.0%}"


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return float(statistics.median(values))


def write_json(path: Path, machine: dict[str, Any], quick: bool, reports: Sequence[Report]) -> None:
    """Write the result file."""
    content = {
        "version": VERSION,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "machine": machine,
        "scenarios": {report.scenario: report.to_json() for report in reports},
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
