"""Paths of the HTTP API in which a name stands: ``/api/tasks/<id>``, what is below it, and ``/api/channels/<name>``.

Routing is by decoded paths, in which ``%2F`` is a slash and several slashes are one; a task whose id has such would be another
task. So the name is taken from the raw path, before Quart routes, and the request goes to a route without it. A slash within an
id may stand as it is, except where the path would then end as those below a task do.
"""

from typing import Any
from urllib.parse import quote, unquote_to_bytes

#: What is below a task, as a path ends with it.
_BELOW_TASK = ("heartbeat", "cancel", "history", "share", "retry")

#: Where the task's id, and the channel's name, are in the scope; None when it is not valid UTF-8.
SCOPE_KEY = "relay.task_id"
CHANNEL_KEY = "relay.channel"


class TaskPaths:
    """The paths of the API below a prefix.

    Args:
        api_prefix: The path before ``/tasks``.

    Attributes:
        api_prefix: The same.
        prefix: What all paths of the API begin with.
        list_route: Quart's route of all tasks.
        task_route: Quart's route of one task. Without an id in the scope it is not found, like the others with a name.
        heartbeat_route: Quart's route of a task's heartbeat.
        cancel_route: Quart's route of requests to cancel a task.
        history_route: Quart's route of a task's history.
        share_route: Quart's route of a task's share links.
        retry_route: Quart's route of requests to run an ended task again.
        channel_route: Quart's route of an extra channel.
        general_route: Quart's route of general updates.
        batch_route: Quart's route of several updates.
        status_route: Quart's route of the status.
    """

    def __init__(self, api_prefix: str) -> None:
        self.api_prefix = api_prefix
        self.prefix = f"{api_prefix}/"
        self.list_route = f"{api_prefix}/tasks"
        self.task_route = f"{api_prefix}/task"
        self.heartbeat_route, self.cancel_route, self.history_route, self.share_route, self.retry_route = (
            f"{self.task_route}/{name}" for name in _BELOW_TASK
        )
        self.channel_route = f"{api_prefix}/channel"
        self.general_route = f"{api_prefix}/general"
        self.batch_route = f"{api_prefix}/batch"
        self.status_route = f"{api_prefix}/status"
        self._tasks = f"{api_prefix}/tasks/".encode()
        self._channels = f"{api_prefix}/channels/".encode()

    def routed(self, scope: Any) -> Any:
        """Return the scope of an HTTP request as Quart is to route it."""
        raw = scope.get("raw_path") or quote(scope["path"]).encode()
        raw = raw.removeprefix(quote(scope.get("root_path", "")).encode())
        if raw.startswith(self._channels):
            return _to(scope, self.channel_route, CHANNEL_KEY, raw[len(self._channels) :])
        if not raw.startswith(self._tasks):
            return scope
        rest = raw[len(self._tasks) :]
        for name in _BELOW_TASK:
            if rest.endswith(f"/{name}".encode()):
                return _to(scope, f"{self.task_route}/{name}", SCOPE_KEY, rest[: -len(name) - 1])
        return _to(scope, self.task_route, SCOPE_KEY, rest)


def _to(scope: Any, route: str, key: str, raw_name: bytes) -> Any:
    path = scope.get("root_path", "") + route
    return {**scope, "path": path, "raw_path": path.encode(), key: _decoded(raw_name)}


def _decoded(raw: bytes) -> str | None:
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        return None
