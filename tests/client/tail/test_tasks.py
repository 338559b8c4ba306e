"""`relay tail`: which tasks it follows, where the relay is, and how the tasks have ended."""

from typing import Any

import pytest
from relay_client.subscriber.endpoint import websocket_url
from relay_client.tail.errors import ExitStatus
from relay_client.tail.follow import Outcomes
from relay_client.tail.recent_tasks import RecentTasks, announced_task
from relay_client.tail.relay_api import http_url

from tests.client.tail.test_progress_view import update


def test_the_least_recent_goes() -> None:
    recent = RecentTasks(3, ["pinned"])
    assert [recent.add_older(task_id) for task_id in ("c", "b", "c", "pinned", "a", "too much")] == [
        True,
        True,
        False,
        False,
        True,
        False,
    ]
    assert recent.touch("pinned") == (False, None)
    assert recent.touch("a") == (False, None)
    assert recent.touch("d") == (True, "b")
    assert recent.touch("e") == (True, "c")
    assert recent.touch("a") == (False, None)
    assert recent.touch("f") == (True, "d")


@pytest.mark.parametrize(
    ("data", "task_id"),
    [
        ({"type": "task_created", "task_info": {"task_id": "t"}}, "t"),
        ({"type": "task_created", "task_info": {"task_id": 7}}, "7"),
        ({"type": "task_created", "task_info": {"task_id": ""}}, None),
        ({"type": "task_created", "task_info": {"task_id": "x" * 256}}, None),
        ({"type": "task_created", "task_info": {"task_id": True}}, None),
        ({"type": "task_created", "task_info": []}, None),
        ({"type": "task_created"}, None),
        ({"type": "weather", "task_info": {"task_id": "t"}}, None),
    ],
)
def test_announcements(data: dict[str, Any], task_id: str | None) -> None:
    assert announced_task(update(None, **data)) == task_id


@pytest.mark.parametrize(
    ("url", "websocket"),
    [
        ("http://h", "ws://h/ws/tasks"),
        ("https://h:8443/", "wss://h:8443/ws/tasks"),
        ("https://h/relay", "wss://h/relay/ws/tasks"),
        ("https://h/relay/ws/tasks?x=y", "wss://h/relay/ws/tasks?x=y"),
        ("ws://h/other", "ws://h/other"),
        ("ws://h", "ws://h"),
    ],
)
def test_http_urls_are_those_of_the_root(url: str, websocket: str) -> None:
    assert websocket_url(url) == websocket


def test_paths_beside_the_websocket() -> None:
    assert http_url("ws://h:1/ws/tasks", "/api/tasks?limit=200") == "http://h:1/api/tasks?limit=200"
    assert http_url("wss://h/relay/ws/tasks?x=y", "/readyz") == "https://h/relay/readyz"
    assert http_url("ws://h", "/readyz") == "http://h/readyz"
    assert http_url("ws://h/other", "/readyz") is None


def test_outcomes() -> None:
    def outcome(*steps: tuple[str, str], of: str = "ab") -> tuple[bool, ExitStatus]:
        outcomes = Outcomes(list(of))
        for task_id, status in steps:
            outcomes.on_update(update(task_id, status=status))
        return outcomes.are_complete, outcomes.status

    assert outcome() == (False, ExitStatus.SUCCESS)
    assert outcome(of="") == (False, ExitStatus.SUCCESS)
    assert outcome(("a", "completed"), ("other", "failed")) == (False, ExitStatus.SUCCESS)
    assert outcome(("a", "completed"), ("b", "completed")) == (True, ExitStatus.SUCCESS)
    assert outcome(("a", "cancelled"), ("b", "completed")) == (True, ExitStatus.TASK_CANCELLED)
    assert outcome(("a", "cancelled"), ("b", "failed")) == (True, ExitStatus.TASK_FAILED)
    assert outcome(("a", "failed"), ("a", "in_progress"), ("b", "completed")) == (False, ExitStatus.SUCCESS)
    assert outcome(("a", "failed"), ("a", "completed"), ("b", "completed")) == (True, ExitStatus.SUCCESS)
