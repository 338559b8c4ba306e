"""Dask, with a real scheduler and a worker's process."""

from pathlib import Path

from tests.harness import RedisServer
from tests.integration.client.integrations.apart.programs import run, tasks

PROGRAM = """
import time
from distributed import Client, LocalCluster
from relay_client.integrations.dask import install

def render(name):
    return name

def broken():
    raise ValueError("broken")

def slow():
    time.sleep(60)

if __name__ == "__main__":
    with LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as cluster, Client(cluster) as client:
        install(client, title=lambda arguments: f"Dask {arguments.task}")
        client.submit(render, "a", key="render-1").result()
        later = client.submit(broken, key="broken-1")
        later.exception()
        running = client.submit(slow, key="slow-1")
        waiting = client.submit(render, running, key="render-2")
        while not client.processing() or not any("slow-1" in each for each in client.processing().values()):
            time.sleep(0.01)
        client.cancel([waiting, running])
        time.sleep(0.2)
"""


def test_the_states_of_tasks(redis_server: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    run("", redis_server, tmp_path, ["program.py"])
    found = tasks(redis_server)
    assert {key: state["status"] for key, state in found.items()} == {
        "render-1": "completed",
        "broken-1": "failed",
        "slow-1": "cancelled",
        "render-2": "cancelled",
    }
    assert found["render-1"]["title"] == "Dask render"
    assert found["render-1"]["worker"].startswith("tcp://")
    assert "broken" in found["broken-1"]["error"]
    assert "cancellable" not in found["slow-1"]
