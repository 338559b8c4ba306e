"""The scenarios that measure Relay only, in their tiny form."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks.peers.base import DIRECTORY
from benchmarks.results import Results
from tests.integration.benchmarks.runs import assert_complete, benchmarks
from tests.integration.interop.node_packages import install_node_packages

#: The servers that each scenario runs.
SERVERS = {
    "reconnect": {"relay-durable"},
    "sdk-reconnect": {"relay-centrifuge", "relay-protobuf"},
    "slow": {"relay"},
    "large": {"relay", "relay-durable"},
    "tasks": {"relay", "relay-durable"},
    "endpoints": {
        "relay-tasks", "relay-positions", "relay-events", "relay-events-durable", "relay-centrifuge", "relay-protobuf",
        "relay-mercure",
    },
    "relays": {"relay-x1", "relay-x2", "relay-durable-x1", "relay-durable-x2"},
    "tls": {"relay-plain", "relay-tls"},
    "stream": {"relay-deltas", "relay-durable"},
    "children": {"relay-durable"},
    "reports": {"relay-client"},
    "scaling": {"relay", "relay-durable"},
    "durable": {"relay-publish", "relay-durable", "relay-unpersisted"},
    "jitter": {"relay", "relay-plain"},
}  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Path]]]:
    """The result file of each scenario. Two run at a time: much of their time they wait."""
    install_node_packages(DIRECTORY / "node")  # for Relay's own client, in Node
    tmp_path_factory.getbasetemp()  # which two threads must not make at once

    def run(scenario: str) -> Path:
        path = tmp_path_factory.mktemp(scenario) / "result.json"
        benchmarks("run", scenario, "--tiny", "--peers", "none", "--json", path)
        return path

    with ThreadPoolExecutor(2) as pool:
        yield {scenario: pool.submit(run, scenario) for scenario in SERVERS}


@pytest.mark.parametrize("scenario", SERVERS)
def test_it_is_complete(scenario: str, results: dict[str, Future[Path]]) -> None:
    path = results[scenario].result()
    assert_complete(path, {scenario: SERVERS[scenario]})
    if scenario.endswith("reconnect"):
        report = Results.read(path).report(scenario)
        assert report is not None
        assert {row.figures["recovered"] for row in report.rows} == {1.0}
