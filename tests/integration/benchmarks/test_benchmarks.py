"""The benchmark suite, from end to end in its tiny form: the numbers are complete and the reports are written. No speed is
judged here.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.scenarios import SCENARIOS
from tests.harness import ROOT
from tests.integration.benchmarks.runs import PEERS, TIMEOUT, assert_complete, benchmarks


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result file of what is compared with peers."""
    path = tmp_path_factory.mktemp("benchmarks") / "result.json"
    benchmarks(
        "run", "burst", "paced", "storm", "broadcast", "idle", "--tiny", "--peers", ",".join(PEERS), "--json", path
    )
    return path


def test_what_is_compared_with_peers_is_complete(compared: Path) -> None:
    forms = {"relay", "relay-durable", *PEERS}
    once = {"relay", *PEERS}
    assert_complete(
        compared, {"burst": forms, "paced": forms, "storm": once | {"relay-grants"}, "broadcast": once, "idle": once}
    )


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
    assert glance[0] == ["relay", "relay-durable", *PEERS, "relay-grants"]
    assert [line[0] for line in glance[2:]] == [
        "burst to 500 clients, deliveries per CPU s", "connections per CPU s", "bytes per idle client",
        "CPU of 18,000 idle clients", "server"
    ]  # fmt: skip
    assert [len(line) - 1 for line in glance[2:6]] == [3 + len(PEERS)] * 4
    for peer in PEERS:
        assert f"| {peer} |" in printed
        assert f"<td>{peer}</td>" in page


def test_a_result_compared_with_itself_is_the_same(compared: Path) -> None:
    lines = benchmarks("compare", compared, compared).splitlines()
    rows = [line for line in lines if line.startswith("   relay ")]
    assert rows
    assert all(line.endswith(" 1.00") for line in rows)


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


def test_relay_runs_under_another_interpreter_beside_this_one(tmp_path: Path) -> None:
    other, log, result = tmp_path / "other-python", tmp_path / "log", tmp_path / "result.json"
    other.write_text(f'#!/bin/sh\necho "$*" >> {log}\nexec {sys.executable} "$@"\n')
    other.chmod(0o755)
    benchmarks("run", "storm", "--tiny", "--peers", "none", "--python", f"other={other}", "--json", result)
    names = ["relay", "relay-other", "relay-grants", "relay-grants-other"]
    assert_complete(result, {"storm": set(names)})
    content = json.loads(result.read_text())
    assert content["machine"]["pythons"]["other"].startswith(f"Python {sys.version.split()[0]}")
    rows = content["scenarios"][0]["rows"]
    assert [row["server"] for row in rows if "ratio" in row["figures"]] == ["relay-other", "relay-grants-other"]
    assert sum("hypercorn" in line for line in log.read_text().splitlines()) == 2


def test_an_interpreter_without_relay_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "run", "storm", "--tiny", "--python", f"other={sys.executable} -S"],
        cwd=ROOT, env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200"}, capture_output=True, text=True, timeout=TIMEOUT,
    )  # fmt: skip
    assert done.returncode == 2
    assert "in which Relay is installed" in done.stderr
