"""Where the paths for operators answer: beside those for clients, or on a listener of their own (`RELAY_ADMIN_BIND`)."""

from collections.abc import Mapping
from typing import Any

#: Key in the ASGI scope of requests on the operators' listener. Only that listener can set it.
ADMIN_KEY = "relay.admin"

#: Paths for probes, which answer on both listeners.
PROBES = frozenset({"/healthz", "/readyz"})

#: Paths for operators, which are asked for by address, and by no page.
STATUS = "/status"
OPERATORS = PROBES | {"/metrics", STATUS}

_READING = ("GET", "HEAD")


def is_on_admin(scope: Mapping[str, Any]) -> bool:
    """Whether a request came on the operators' listener."""
    return scope.get(ADMIN_KEY) is True


class OperatorPaths:
    """Decides which paths answer on which listener.

    Args:
        has_listener: There is a listener for operators.
        api_prefix: The path before ``/tasks`` of the HTTP API.
        is_open: Clients need no grant, so that the list of tasks shows all tasks to everybody.
    """

    def __init__(self, *, has_listener: bool, api_prefix: str, is_open: bool) -> None:
        self._has_listener = has_listener
        self._tasks = f"{api_prefix}/tasks"
        self._operators = OPERATORS | {f"{api_prefix}{STATUS}"}
        self._hides_list = is_open

    def is_served(self, scope: Mapping[str, Any], path: str) -> bool:
        """Whether a path answers on the listener that a request came on.

        The operators' listener shows tasks, and changes none. A list that shows only what a client's grant covers is for
        clients; one that shows all tasks is for operators.
        """
        if is_on_admin(scope):
            is_api = path == self._tasks or path.startswith(f"{self._tasks}/")
            return path in self._operators or (is_api and scope["method"] in _READING)
        if not self._has_listener:
            return True
        if path in self._operators:
            return path in PROBES
        return not (self._hides_list and path.rstrip("/") == self._tasks and scope["method"] in _READING)

    def shows_details(self, scope: Mapping[str, Any]) -> bool:
        """Whether an answer to this request may say what is wrong inside."""
        return is_on_admin(scope) or not self._has_listener
