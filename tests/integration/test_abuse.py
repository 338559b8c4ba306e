"""The abuse run, in its short form: one abuse of each way in, without the limits on time, which need a machine of their own."""

import subprocess
import sys

from tests.harness import ROOT


def test_abuses_run_and_the_bystander_misses_nothing() -> None:
    command = [sys.executable, "-m", "tests.abuse", "--seconds", "0.5", "pings", "event_streams", "http2_floods"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    rows = [line.split() for line in run.stdout.splitlines()[1:] if line.strip() and not line.startswith("failed")]
    assert [row[0] for row in rows] == ["pings", "event_streams", "http2_floods"], run.stdout + run.stderr
    for row in rows:
        assert row[4] == "0", run.stdout
        assert int(row[5]) < 256, run.stdout
