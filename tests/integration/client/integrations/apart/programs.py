"""Programs of libraries that are no queues: each is run once, and then the relay's Redis shows what it was told."""

import os
import subprocess
from pathlib import Path
from typing import Any

from relay_wire import keys

from tests.harness import ROOT, RedisServer
from tests.integration.client.integrations.queues import PYTHON
from tests.integration.client.reading import log_of, state_of


def run(
    program: str, redis: RedisServer, directory: Path, command: list[str] | None = None, code: int = 0, **environ: str
) -> str:
    """Run a program to its end, or a command, which ends with a code; returns its output."""
    ended = subprocess.run(
        [PYTHON, *(command or ["-c", program])],
        env={
            "REDIS_URL": redis.url,
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "PYTHONPATH": str(ROOT),
            **environ,
        },
        cwd=directory,
        timeout=300,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == code, ended.stdout[-6000:] + ended.stderr[-6000:]
    return ended.stdout


def tasks(redis: RedisServer) -> dict[str, dict[str, Any]]:
    """The states of all tasks that were announced, by id."""
    ids = [data["task_info"]["task_id"] for _, _, data in log_of(redis, "general")]
    assert len(ids) == len(set(ids))
    return {task_id: state_of(redis, task_id) for task_id in ids}


def parent_of(redis: RedisServer, task_id: str) -> str | None:
    with redis.client() as client:
        found: Any = client.hget(keys.meta(f"task:{task_id}"), "parent")
    return None if found is None else found.decode()
