"""What the code that reports on its jobs pays for it (`reports`)."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from statistics import quantiles
from typing import Any

from benchmarks.machine import SERVER_CORE, pinned
from benchmarks.peers import relay
from benchmarks.results import median
from benchmarks.scenarios.base import Trial
from benchmarks.servers import ServerFailed, valkey

#: What the rows are about: no server, but a worker with the Python client.
CLIENT = "relay-client"

#: The case whose figure is the worker's share of a core.
OFTEN = "progress"

_TIMEOUT = 600.0


def reports(trial: Trial) -> None:
    """Have several workers, one after the other, report on jobs. Each has the server's core, and Redis that of the load.

    No relay runs: what it does costs the worker nothing.
    """
    rounds = trial.p["rounds"]
    trial.expect(rounds)
    with valkey(trial.directory) as (port, _):
        url = f"redis://127.0.0.1:{port}/0"
        done = [trial.attempt(relay.RELAY_DURABLE, " (a worker)", lambda: _worker(trial, url)) for _ in range(rounds)]
    results = [each for each in done if each is not None]
    for case in results[0]["times"] if results else ():
        _add(trial, case, results)


def _worker(trial: Trial, url: str) -> dict[str, Any]:
    """Run a worker and return what it has measured."""
    sizes = [str(trial.p[name]) for name in ("jobs", "reports/s", "seconds")]
    command = [sys.executable, "-m", "benchmarks.reporting_worker", url, *sizes]
    with pinned(SERVER_CORE):
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    if ended.returncode:
        raise ServerFailed(f"the worker failed: {ended.stderr[-3000:]}")
    measured: dict[str, Any] = json.loads(ended.stdout)
    return measured


def _add(trial: Trial, case: str, results: Sequence[Mapping[str, Any]]) -> None:
    """Add the row of a kind of report: the median of the workers' medians, and of their p99s."""
    each = [quantiles(result["times"][case], n=100) for result in results]
    figures = {
        name: median([one[percent - 1] / 1e9 for one in each]) for name, percent in (("p50", 50), ("p99", 99))
    } | {"waited": median([result["waited"] for result in results])}
    if case == OFTEN:
        figures["reporting"] = median([result["share"] for result in results])
    row = trial.add(CLIENT, figures, [], case=case, nanoseconds=[result["times"][case] for result in results])
    row.complete = all(result["is_complete"] for result in results)
