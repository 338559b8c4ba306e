"""Forked children that each report a task. `python -m tests.integration.client.integrations.forks 1000` is the long run."""

import subprocess
import sys

from tests.harness import ROOT
from tests.integration.client.integrations import forks


def test_children_lose_no_end_and_leave_no_descriptor() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", forks.__name__, "60"], cwd=ROOT, timeout=300, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "0 descriptors more" in ended.stdout
    assert "60 children, 0 ends lost" in ended.stdout
