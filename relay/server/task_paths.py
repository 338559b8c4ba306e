"""Paths of one task: ``/api/tasks/<id>`` and ``/api/tasks/<id>/heartbeat``, where an id may have any character.

Routing is by decoded paths, in which ``%2F`` is a slash and several slashes are one; a task whose id has such would be another
task. So the id is taken from the raw path, before Quart routes, and the request goes to a route without it.
"""

from typing import Any
from urllib.parse import quote, unquote_to_bytes

_PREFIX = b"/api/tasks/"
_HEARTBEAT = b"/heartbeat"

#: Quart's routes. Without an id in the scope they are not found.
TASK_ROUTE = "/api/task"
HEARTBEAT_ROUTE = "/api/task/heartbeat"

#: Where the id is in the scope; None when it is not valid UTF-8.
SCOPE_KEY = "relay.task_id"


def routed(scope: Any) -> Any:
    """Return the scope of an HTTP request as Quart is to route it."""
    raw = scope.get("raw_path") or quote(scope["path"]).encode()
    raw = raw.removeprefix(quote(scope.get("root_path", "")).encode())
    if not raw.startswith(_PREFIX):
        return scope
    rest = raw[len(_PREFIX) :]
    is_heartbeat = scope["method"] == "POST" and rest.endswith(_HEARTBEAT)
    task_id = _decoded(rest.removesuffix(_HEARTBEAT) if is_heartbeat else rest)
    route = scope.get("root_path", "") + (HEARTBEAT_ROUTE if is_heartbeat else TASK_ROUTE)
    return {**scope, "path": route, "raw_path": route.encode(), SCOPE_KEY: task_id}


def _decoded(raw: bytes) -> str | None:
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        return None
