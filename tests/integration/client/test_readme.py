"""Every example of the client's README runs, and does what is said there."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from relay_wire import keys

from tests.conftest import StartRelay
from tests.harness import ROOT, RedisServer
from tests.integration.client.older_redis_py import VERSIONS, environ_with
from tests.integration.client.reading import log_of, state_of

README = (ROOT / "clients" / "python" / "README.md").read_text()
JOBS = (ROOT / "clients" / "jobs" / "README.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", README + JOBS, re.MULTILINE | re.DOTALL)


def run(example: str, directory: Path, redis_server: RedisServer, inherited: Mapping[str, str] = os.environ) -> str:
    script = directory / "example.py"
    script.write_text(example)
    environ = {name: value for name, value in inherited.items() if not name.startswith(("RELAY_", "REDIS_"))}
    ended = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        env=environ | {"REDIS_URL": redis_server.url},
        timeout=30,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    return ended.stdout


def example_of(text: str) -> str:
    (found,) = [str(example) for example in EXAMPLES if text in example]
    return found


def test_every_example_is_run_here() -> None:
    named = (
        "Worker()",
        "TaskManager()",
        "task-123",
        "task-124",
        "task-125",
        "task-126",
        "task-127",
        "task-128",
        "task-130",
        "task-131",
        "task-132",
        "task-133",
        "task-134",
        "ws://",
    )
    assert all(any(name in example for name in named) for example in EXAMPLES)


def test_reporting(tmp_path: Path, redis_server: RedisServer) -> None:
    run(example_of('"task-123", title'), tmp_path, redis_server)
    run(example_of("task-124"), tmp_path, redis_server)
    picture, asynchronous = state_of(redis_server, "task-123"), state_of(redis_server, "task-124")
    assert (picture["status"], picture["done"], picture["image_url"][:5]) == ("completed", 480, "https")
    assert (asynchronous["status"], asynchronous["done"], asynchronous["line"]) == ("completed", 3, 2)
    announced = [data["task_info"]["task_id"] for _, _, data in log_of(redis_server, "general")]
    assert announced == ["task-123", "task-124"]


@pytest.mark.parametrize("version", VERSIONS)
def test_reporting_with_older_versions_of_redis_py(version: str, tmp_path: Path, redis_server: RedisServer) -> None:
    run(example_of('"task-123", title'), tmp_path, redis_server, environ_with(version))
    run(example_of("task-124"), tmp_path, redis_server, environ_with(version))
    run(example_of("task-127"), tmp_path, redis_server, environ_with(version))
    for task_id in ("task-123", "task-124"):
        assert state_of(redis_server, task_id)["status"] == "completed"
    assert state_of(redis_server, "task-127")["progress"] == 60


def test_a_task_that_is_tried_again_begins_anew(tmp_path: Path, redis_server: RedisServer) -> None:
    run(example_of("task-133"), tmp_path, redis_server)
    state = state_of(redis_server, "task-133")
    assert (state["status"], state["attempt"], "error" in state) == ("completed", 2, False)
    with redis_server.client() as client:
        assert client.hget(keys.meta("task:task-133"), "run") == b"2"


def test_forked_children_report_their_own_tasks(tmp_path: Path, redis_server: RedisServer) -> None:
    run(example_of("task-134"), tmp_path, redis_server)
    for task_id in ("task-134", "task-134-0", "task-134-1"):
        assert state_of(redis_server, task_id)["status"] == "completed"


@pytest.mark.parametrize("task_id", ["task-125", "task-126", "task-127"])
def test_publishing(task_id: str, tmp_path: Path, redis_server: RedisServer) -> None:
    run(example_of(task_id), tmp_path, redis_server)
    assert state_of(redis_server, task_id) == {"status": "in_progress", "progress": 60}


def test_cancelling(tmp_path: Path, redis_server: RedisServer) -> None:
    run(example_of("task-130"), tmp_path, redis_server)
    state = state_of(redis_server, "task-130")
    assert (state["status"], state["cancellable"]) == ("completed", True)
    assert run(example_of("task-131"), tmp_path, redis_server).split() == ["False"]


def test_workers(tmp_path: Path, redis_server: RedisServer) -> None:
    (tmp_path / "picture_worker.py").write_text(example_of("# picture_worker.py"))
    (command,) = re.findall(r"^\$ relay-worker (.*)$", JOBS, re.MULTILINE)
    program = [sys.executable, "-m", "relay_jobs.command", *command.split()]
    environ = os.environ | {"REDIS_URL": redis_server.url}
    with subprocess.Popen(program, cwd=tmp_path, env=environ, stderr=subprocess.DEVNULL) as worker:
        try:
            printed = run(example_of("TaskManager()"), tmp_path, redis_server)
        finally:
            worker.terminate()
        assert worker.wait(20) == 0
    first, second = printed.splitlines()
    task_id = second.strip("[]'")
    assert first == f"completed https://example.org/{task_id}.png"


def test_redis_service(tmp_path: Path, redis_server: RedisServer) -> None:
    run(example_of("redis_service"), tmp_path, redis_server)


def test_following(tmp_path: Path, redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay()
    run(example_of('"task-123", title'), tmp_path, redis_server)
    threads, asynchronous = [
        example.replace("ws://127.0.0.1:8000/ws/tasks", relay.url) for example in EXAMPLES if "ws://" in example
    ]
    on_trio = asynchronous.replace("relay_client.aio", "relay_client.trio").replace(
        "asyncio.run(main())", "trio.run(main)"
    )
    for example in (threads, asynchronous, on_trio.replace("import asyncio", "import trio")):
        assert "task-123 {" in run(example, tmp_path, redis_server)


def test_publishing_over_http(tmp_path: Path, redis_server: RedisServer, start_relay: StartRelay) -> None:
    relay = start_relay()
    example = example_of("task-132").replace("http://127.0.0.1:8000", f"http://127.0.0.1:{relay.port}")
    run(example, tmp_path, redis_server)
    assert state_of(redis_server, "task-132") == {"status": "in_progress", "progress": 40}


def test_the_errors_of_the_table_are_those_there_are() -> None:
    from relay_client import errors
    from relay_client.subscriber import SubscriptionError

    table = set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE))
    kinds = {kind.__name__ for root in (errors.NotDelivered, SubscriptionError) for kind in root.__subclasses__()}
    assert table == kinds
