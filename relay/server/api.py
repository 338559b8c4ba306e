"""The tasks over HTTP: ``/api/tasks``, or below another prefix."""

from base64 import urlsafe_b64encode
from functools import partial
from math import isfinite
from typing import Any

import msgspec
from quart import Response, request
from quart_trio import QuartTrio
from relay_wire.channels import MAX_NAME_LENGTH

from relay.broker.task_list import Task
from relay.core import base64url
from relay.core.channels import task_channel
from relay.core.errors import BadMessage
from relay.core.grants import Decision, Grant, Verb
from relay.core.task_filter import TaskFilter
from relay.core.task_state import join_fields
from relay.protocols.positions import position_json
from relay.server.api_errors import add_error_handlers
from relay.server.api_responses import error_response, json_of, json_response, tagged, task_id_of_request, unknown_task
from relay.server.auth.access import require
from relay.server.malformed_requests import record_malformed
from relay.server.running_relay import RelayHandle
from relay.server.task_paths import TaskPaths

#: Tasks on one page: unless asked for, and at most.
PAGE: int = 100
MAX_PAGE: int = 500

#: Largest `max_age`, in seconds.
MAX_AGE = 1e9

#: Most names in one filter.
MAX_NAMES = 16


def _task_json(task: Task) -> bytes:
    head = json_of({"task_id": task.task_id, "run": task.run, "position": position_json(task.position)}).rstrip(b"}")
    options: dict[str, Any] = {"owner": sorted(task.owner)} if task.owner else {}
    if task.parent_id is not None:
        options["parent_id"] = task.parent_id
    if task.cancel_reason is not None:
        options["cancel_requested"] = {"reason": task.cancel_reason}
    beside = b"," + json_of(options)[1:-1] if options else b""
    active = b"" if task.active is None else b',"active":%b' % json_of(round(task.active, 3))
    return b'%b}%b%b,"data":%b}' % (head, beside, active, join_fields(task.fields))


def _cursor(text: str) -> tuple[float, str]:
    return msgspec.json.decode(base64url.decode(text.encode("ascii").rstrip(b"=")), type=tuple[float, str])


def _page_of_request() -> tuple[int, tuple[float, str] | None]:
    """Return how many tasks the client wants, and after which. Raises BadMessage."""
    try:
        limit = msgspec.json.decode(request.args.get("limit", str(PAGE)), type=int)
        after = _cursor(request.args["after"]) if "after" in request.args else None
        if not 1 <= limit <= MAX_PAGE or (after is not None and not isfinite(after[0])):
            raise ValueError("out of range")
    except (ValueError, msgspec.DecodeError):
        raise BadMessage("bad_query", f"limit is 1 to {MAX_PAGE}, and after is the `next` of an earlier page") from None
    return limit, after


def _filter_of_request(grant: Grant) -> TaskFilter:
    """Return which tasks the client wants, of those that it may list. Raises BadMessage."""
    try:
        max_age = msgspec.json.decode(request.args["max_age"], type=float) if "max_age" in request.args else None
        if max_age is not None and not 0 <= max_age <= MAX_AGE:
            raise ValueError("out of range")
    except (ValueError, msgspec.DecodeError):
        raise BadMessage("bad_query", f"max_age is a number of seconds, up to {MAX_AGE:.0f}") from None
    for name in ("text", "parent"):
        if len(request.args.get(name, "")) > MAX_NAME_LENGTH:
            raise BadMessage("bad_query", f"{name} has {MAX_NAME_LENGTH} characters at most")

    return TaskFilter(
        statuses=_names("status"),
        max_age=max_age,
        owners=_names("owner"),
        parent_id=request.args.get("parent") or None,
        kinds=_names("kind"),
        text=request.args.get("text") or None,
        visible_to=None if grant.scope(Verb.LIST).everything else grant,
    )


def _names(parameter: str) -> frozenset[str] | None:
    """Return the names in a parameter of the query, separated by commas; None where it is not given. Raises BadMessage."""
    given = request.args.get(parameter, "")
    names = frozenset(given.split(",")) if given else frozenset()
    if len(names) > MAX_NAMES or not all(0 < len(name) <= MAX_NAME_LENGTH for name in names):
        raise BadMessage(
            "bad_query", f"{parameter} is up to {MAX_NAMES} names of {MAX_NAME_LENGTH} characters, separated by commas"
        )
    return names or None


def add_api(app: QuartTrio, relay: RelayHandle, paths: TaskPaths) -> None:
    """Add the task routes to an app.

    Args:
        app: The app.
        relay: The relay, once it has started.
        paths: The paths of the API.
    """

    add_error_handlers(app, paths, partial(record_malformed, relay))

    async def grant() -> Grant:
        return await relay.running.access.grant_of_request(request)

    @app.get(paths.list_route)
    async def list_tasks() -> Response:
        """List tasks, the most recently active first: status=a,b  max_age=SECONDS  limit=N  after=CURSOR ..."""
        granted = await grant()
        limit, after = _page_of_request()
        page = await relay.running.tasks.page(limit, after, _filter_of_request(granted))
        following = None if page.next is None else urlsafe_b64encode(json_of(page.next)).decode()
        body = b'{"tasks":[%b],"next":%b}' % (b",".join(map(_task_json, page.tasks)), json_of(following))
        return tagged(body)

    @app.get(paths.task_route)
    async def get_task() -> Response:
        """Show one task: its state, and the position that it is the state of."""
        task_id = task_id_of_request()
        granted = await grant()
        decision = require(granted, Verb.WATCH, task_channel(task_id))
        task = await relay.running.tasks.get(task_id)
        if decision is Decision.NEEDS_OWNER:
            require(granted, Verb.WATCH, task_channel(task_id), frozenset() if task is None else task.owner)
        if task is None:
            return unknown_task()
        return tagged(_task_json(task))

    @app.post(paths.heartbeat_route)
    async def heartbeat() -> Response:
        """Record that the task lives."""
        task_id = task_id_of_request()
        granted = await grant()
        if require(granted, Verb.PUBLISH, task_channel(task_id)) is Decision.NEEDS_OWNER:
            task = await relay.running.tasks.get(task_id)
            require(granted, Verb.PUBLISH, task_channel(task_id), frozenset() if task is None else task.owner)
        if not await relay.running.tasks.heartbeat(task_id):
            return error_response(404, "unknown_task", "no such task; publish an update first")
        return json_response(204, b"")
