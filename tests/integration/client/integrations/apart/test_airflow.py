"""Airflow: a DAG's run, by Airflow's own runner of tasks."""

from pathlib import Path

from tests.harness import RedisServer
from tests.integration.client.integrations.apart.programs import parent_of, run, tasks

DAG = """
import datetime
from airflow.sdk import DAG, task
from relay_client import current_task

with DAG("pictures", start_date=datetime.datetime(2026, 1, 1), schedule=None):
    @task
    def render():
        current_task().progress(40, "Rendering")

    @task
    def broken():
        raise ValueError("broken")

    render()
    broken()
"""

PLUGIN = "from relay_client.integrations.airflow import RelayPlugin\n"


def test_the_tasks_of_a_run(redis_server: RedisServer, tmp_path: Path) -> None:
    for folder, name, text in (("dags", "pictures.py", DAG), ("plugins", "relay.py", PLUGIN)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(text)
    environ = {"AIRFLOW_HOME": str(tmp_path), "AIRFLOW__CORE__LOAD_EXAMPLES": "false"}
    for arguments in (["db", "migrate"], ["dags", "reserialize"], ["dags", "test", "pictures"]):
        code = 1 if "test" in arguments else 0  # the run has failed, as it should
        run("", redis_server, tmp_path, ["-m", "airflow", *arguments], code, **environ)
    found = {task_id.rpartition("/")[2]: (task_id, state) for task_id, state in tasks(redis_server).items()}
    assert found.keys() == {"render", "broken"}
    task_id, state = found["render"]
    assert (state["status"], state["message"], state["kind"]) == ("completed", "Rendering", "pictures.render")
    assert parent_of(redis_server, task_id) == task_id.removesuffix("/render")
    assert found["broken"][1]["error"] == "ValueError: broken"
