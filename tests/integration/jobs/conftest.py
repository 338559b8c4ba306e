"""Fixtures: a manager, and workers that end with the test."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from relay_jobs.manager import TaskManager

from tests.harness import RedisServer, eventually
from tests.integration.jobs.rig import HANDLERS, StartWorker, WorkerProcess


@pytest.fixture
def manager(redis_server: RedisServer) -> Iterator[TaskManager]:
    with TaskManager(redis_server.url) as manager:
        yield manager


@pytest.fixture
def start_worker(redis_server: RedisServer, tmp_path: Path) -> Iterator[StartWorker]:
    with ExitStack() as stack:
        count = 0

        def start(place: str = HANDLERS, *, environ: dict[str, str] | None = None, **options: Any) -> WorkerProcess:
            nonlocal count
            count += 1
            directory = tmp_path / f"worker{count}"
            directory.mkdir()
            worker = WorkerProcess(directory, redis_server.url, place, environ or {}, **options)
            stack.enter_context(worker)
            eventually(worker.is_up)
            return worker

        yield start
