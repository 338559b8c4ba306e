"""Runs the benchmarks' command, and checks that a result is complete."""

import math
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.results import METRICS, Results
from tests.harness import ROOT

#: The servers that Relay is compared with.
PEERS = ("picows", "websockets")
TIMEOUT = 240

#: Figures that may be zero.
MAY_BE_ZERO = {
    "failed",
    "retries",
    "recovered",
    "dropped",
    "memory",
    "memory_growth",
    "idle_cpu",
    "waited",
    "doubled",
    "reordered",
}


#: Figures that only some cases of a scenario have.
OF_SOME_CASES = {
    "reports": {"reporting"},
    "scaling": {"cpu_per_update", "cpu_per_delivery"},
}


def benchmarks(*arguments: str | Path) -> str:
    """Run the command; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *map(str, arguments)],
        cwd=ROOT, env={**os.environ, "NO_COLOR": "1"}, capture_output=True, text=True, timeout=TIMEOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def assert_complete(path: Path, expected: dict[str, set[str]]) -> None:
    """All scenarios have rows for these servers, with all figures that their tables show; nothing was lost."""
    results = Results.read(path)
    assert {report.scenario for report in results.scenarios} == set(expected)
    for report in results.scenarios:
        assert {row.server for row in report.rows} == expected[report.scenario], report.notes
        shown = {name for name in report.columns if any(name in row.figures for row in report.rows)}
        for row in report.rows:
            assert row.complete, (report.scenario, row)
            needed = set(shown) - {"ratio", "dropped_after"} - OF_SOME_CASES.get(report.scenario, set())
            assert needed <= set(row.figures), (report.scenario, row.server)
            for name, value in row.figures.items():
                assert name in METRICS
                assert math.isfinite(value), (report.scenario, row.server, name)
                assert value > 0 or name in MAY_BE_ZERO, (report.scenario, row.server, name, value)
            if row.server in PEERS:
                assert "ratio" in row.figures or "ratio" not in report.columns
        assert report.checks, report.scenario
        assert not report.failed, [str(check) for check in report.checks]
