"""The benchmark suite, from end to end in its tiny form: the numbers are complete and the reports are written. No speed is
judged here.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.results import METRICS, Results
from benchmarks.scenarios import SCENARIOS
from tests.harness import ROOT

PEERS = ("picows", "websockets")
TIMEOUT = 240

#: Figures that may be zero.
MAY_BE_ZERO = {"failed", "retries", "recovered", "dropped", "memory", "memory_growth", "idle_cpu", "waited"}


def benchmarks(*arguments: str | Path) -> str:
    """Run the command; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *map(str, arguments)],
        cwd=ROOT, env={**os.environ, "NO_COLOR": "1"}, capture_output=True, text=True, timeout=TIMEOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result file of what is compared with peers."""
    path = tmp_path_factory.mktemp("benchmarks") / "result.json"
    benchmarks(
        "run", "burst", "paced", "storm", "broadcast", "idle", "--tiny", "--peers", ",".join(PEERS), "--json", path
    )
    return path


def assert_complete(path: Path, expected: dict[str, set[str]]) -> None:
    """All scenarios have rows for these servers, with all figures that their tables show; nothing was lost."""
    results = Results.read(path)
    assert {report.scenario for report in results.scenarios} == set(expected)
    for report in results.scenarios:
        assert {row.server for row in report.rows} == expected[report.scenario], report.notes
        shown = {name for name in report.columns if any(name in row.figures for row in report.rows)}
        for row in report.rows:
            assert row.complete, (report.scenario, row)
            needed = set(shown) - {"ratio", "dropped_after"}
            assert needed <= set(row.figures), (report.scenario, row.server)
            for name, value in row.figures.items():
                assert name in METRICS
                assert math.isfinite(value), (report.scenario, row.server, name)
                assert value > 0 or name in MAY_BE_ZERO, (report.scenario, row.server, name, value)
            if row.server in PEERS:
                assert "ratio" in row.figures or "ratio" not in report.columns
        assert report.checks, report.scenario
        assert not report.failed, [str(check) for check in report.checks]


def test_what_is_compared_with_peers_is_complete(compared: Path) -> None:
    forms = {"relay", "relay-durable", *PEERS}
    once = {"relay", *PEERS}
    assert_complete(compared, {"burst": forms, "paced": forms, "storm": once, "broadcast": once, "idle": once})


def test_the_result_says_how_it_came_about(compared: Path) -> None:
    content = json.loads(compared.read_text())
    assert content["size"] == "tiny"
    assert isinstance(content["seed"], int)
    assert content["machine"]["cores"] == len(os.sched_getaffinity(0))
    assert {"trio", "hypercorn", *PEERS} <= set(content["machine"]["packages"])


def test_reports_are_written_and_need_nothing_else(compared: Path, tmp_path: Path) -> None:
    html, png = tmp_path / "report.html", tmp_path / "report.png"
    printed = benchmarks("report", compared, "--html", html, "--png", png, "--markdown")
    page = html.read_text()
    assert page.count("<table>") == 6
    assert page.count("data:image/svg+xml;base64,") == 4
    assert 'src="http' not in page
    assert "href=" not in page
    assert png.read_bytes().startswith(b"\x89PNG")
    glance = [line.strip("| ").split(" | ") for line in printed.splitlines() if line.startswith("|")][:7]
    assert glance[0] == ["relay", "relay-durable", *PEERS]
    assert [line[0] for line in glance[2:]] == [
        "burst to 500 clients, deliveries per CPU s", "connections per CPU s", "bytes per idle client",
        "CPU of 18,000 idle clients", "server"
    ]  # fmt: skip
    assert [len(line) - 1 for line in glance[2:6]] == [2 + len(PEERS)] * 4
    for peer in PEERS:
        assert f"| {peer} |" in printed
        assert f"<td>{peer}</td>" in page


def test_a_result_compared_with_itself_is_the_same(compared: Path) -> None:
    lines = benchmarks("compare", compared, compared).splitlines()
    rows = [line for line in lines if line.startswith("   relay ")]
    assert rows
    assert all(line.endswith(" 1.00") for line in rows)


def test_relay_alone_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    scenarios = ("reconnect", "slow", "large", "endpoints", "relays", "tls", "durable", "tasks")
    benchmarks("run", *scenarios, "--tiny", "--peers", "none", "--json", path)
    assert_complete(
        path,
        {
            "reconnect": {"relay-durable"},
            "slow": {"relay"},
            "large": {"relay", "relay-durable"},
            "tasks": {"relay", "relay-durable"},
            "endpoints": {"relay-tasks", "relay-positions", "relay-events"},
            "relays": {"relay-x1", "relay-x2", "relay-durable-x1", "relay-durable-x2"},
            "tls": {"relay-plain", "relay-tls"},
            "durable": {"relay-publish", "relay-durable", "relay-unpersisted"},
        },
    )
    recovered = Results.read(path).report("reconnect")
    assert recovered is not None
    assert recovered.rows[0].figures["recovered"] == 1.0


def test_the_scenarios_are_listed_with_their_questions() -> None:
    lines = benchmarks("scenarios").splitlines()
    assert [line.split()[0] for line in lines] == list(SCENARIOS)
    assert all(line.endswith("?") for line in lines)


def test_what_it_cannot_read_it_says(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"version": 1}')
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "report", wrong],
        cwd=ROOT, env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200"}, capture_output=True, text=True, timeout=TIMEOUT,
    )  # fmt: skip
    assert done.returncode == 2
    assert "run it again" in done.stderr
