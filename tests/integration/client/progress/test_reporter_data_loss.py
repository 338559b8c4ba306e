"""Reporters whose Redis loses its data, and reports that are too long together."""

import time

from relay_client import TaskReporter
from relay_jobs import TaskManager

from tests.harness import RedisServer, eventually

LONG = 160_000  # an update may have 262,144 bytes


def test_a_task_that_reports_steadily_is_told_again(redis_server: RedisServer) -> None:
    """No sign of life goes out meanwhile, by whose answer the loss would be seen."""
    with (
        TaskManager(redis_server.url) as manager,
        TaskReporter(redis_server.url, heartbeat=60) as reporter,
        reporter("t", title="A picture") as task,
    ):
        for progress in range(200):
            task.progress(progress / 2)
            state = manager.get("t")
            if progress == 20:
                assert state is not None
                assert state.fields["progress"] > 0
                with redis_server.client() as admin:
                    admin.flushall()
            elif progress > 20 and state is not None and "title" in state.fields:
                break
            time.sleep(0.05)
        assert state is not None
        assert (state.fields["title"], state.status) == ("A picture", "in_progress")
        assert [each.task_id for each in manager.list(status="in_progress")] == ["t"]


def test_reports_that_are_too_long_together_are_told_one_by_one(redis_server: RedisServer) -> None:
    with TaskManager(redis_server.url) as manager, TaskReporter(redis_server.url) as reporter, reporter("t") as task:
        task.update(a="a" * LONG, b="b" * LONG, c=3)
        for name, expected in (("a", "a" * LONG), ("b", "b" * LONG), ("c", 3)):
            eventually(lambda name=name, expected=expected: _field(manager, name) == expected)  # type: ignore[misc]


def _field(manager: TaskManager, name: str) -> object:
    state = manager.get("t")
    return state.fields.get(name) if state is not None else None
