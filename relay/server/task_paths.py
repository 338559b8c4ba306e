"""Paths of the HTTP API: ``/api/tasks``, ``/api/tasks/<id>`` and its ``/heartbeat``, where an id may have any character.

Routing is by decoded paths, in which ``%2F`` is a slash and several slashes are one; a task whose id has such would be another
task. So the id is taken from the raw path, before Quart routes, and the request goes to a route without it.
"""

from typing import Any
from urllib.parse import quote, unquote_to_bytes

_HEARTBEAT = b"/heartbeat"

#: Where the id is in the scope; None when it is not valid UTF-8.
SCOPE_KEY = "relay.task_id"


class TaskPaths:
    """The paths of the API below a prefix.

    Args:
        api_prefix: The path before ``/tasks``.

    Attributes:
        prefix: What all paths of the API begin with.
        list_route: Quart's route of all tasks.
        task_route: Quart's route of one task. Without an id in the scope it is not found, like the next one.
        heartbeat_route: Quart's route of a task's heartbeat.
    """

    def __init__(self, api_prefix: str) -> None:
        self.prefix = f"{api_prefix}/"
        self.list_route = f"{api_prefix}/tasks"
        self.task_route = f"{api_prefix}/task"
        self.heartbeat_route = f"{api_prefix}/task/heartbeat"
        self._tasks = f"{api_prefix}/tasks/".encode()

    def routed(self, scope: Any) -> Any:
        """Return the scope of an HTTP request as Quart is to route it."""
        raw = scope.get("raw_path") or quote(scope["path"]).encode()
        raw = raw.removeprefix(quote(scope.get("root_path", "")).encode())
        if not raw.startswith(self._tasks):
            return scope
        rest = raw[len(self._tasks) :]
        is_heartbeat = scope["method"] == "POST" and rest.endswith(_HEARTBEAT)
        task_id = _decoded(rest.removesuffix(_HEARTBEAT) if is_heartbeat else rest)
        route = scope.get("root_path", "") + (self.heartbeat_route if is_heartbeat else self.task_route)
        return {**scope, "path": route, "raw_path": route.encode(), SCOPE_KEY: task_id}


def _decoded(raw: bytes) -> str | None:
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        return None
