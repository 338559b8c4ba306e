"""The tasks over HTTP: ``/api/tasks``, or below another prefix."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b
from math import ceil
from typing import Any

import msgspec
from quart import Response, has_request_context, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, NotFound

from relay.broker.task_list import Task
from relay.core.channels import task_channel
from relay.core.errors import BadMessage, BrokerBusy, BrokerError, Forbidden, Unauthenticated, Unverified
from relay.core.grants import Decision, Grant, Verb
from relay.core.task_filter import TaskFilter
from relay.core.task_state import object_of
from relay.protocols.tasks import position_json
from relay.server.auth.access import require
from relay.server.running_relay import RelayHandle
from relay.server.task_paths import SCOPE_KEY, TaskPaths

_json = msgspec.json.Encoder().encode

#: Tasks on one page: unless asked for, and at most.
_PAGE, _MAX_PAGE = 100, 500

#: Largest `max_age`, in seconds.
_MAX_AGE = 1e9


def _answer(status: int, body: bytes, headers: dict[str, str] | None = None) -> Response:
    return Response(body, status, {"cache-control": "no-cache", **(headers or {})}, content_type="application/json")


def _error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Response:
    return _answer(status, _json({"code": code, "message": message}), headers)


def _task_id() -> str:
    """Return the id that the request is about.

    Raises:
        BadMessage: It is empty, too long, or not valid UTF-8.
        NotFound: The request names a route of `relay.server.task_paths`.
    """
    scope: Any = request.scope
    if SCOPE_KEY not in scope:
        raise NotFound
    task_id: str | None = scope[SCOPE_KEY]
    if task_id is None:
        raise BadMessage("bad_task_id", "the task's id must be UTF-8, percent-encoded")
    task_channel(task_id)
    return task_id


def _tagged(body: bytes) -> Response:
    """Answer with the body, or with 304 when the client has it already."""
    tag = blake2b(body, digest_size=12).hexdigest()
    if request.if_none_match.contains_weak(tag):
        return _answer(304, b"", {"etag": f'W/"{tag}"'})
    return _answer(200, body, {"etag": f'W/"{tag}"'})


def _task_json(task: Task) -> bytes:
    head = _json({"task_id": task.task_id, "position": position_json(task.position)}).rstrip(b"}")
    options: dict[str, Any] = {"owner": sorted(task.owner)} if task.owner else {}
    if task.parent_id is not None:
        options["parent_id"] = task.parent_id
    beside = b"," + _json(options)[1:-1] if options else b""
    active = b"" if task.active is None else b',"active":%b' % _json(round(task.active, 3))
    return b'%b}%b%b,"data":%b}' % (head, beside, active, object_of(task.fields))


def _is_listed(grant: Grant, task: Task) -> bool:
    return grant.decide(Verb.LIST, task_channel(task.task_id), task.owner) is Decision.ALLOWED


def _cursor(text: str) -> tuple[float, str]:
    return msgspec.json.decode(urlsafe_b64decode(text.encode("ascii")), type=tuple[float, str])


def add_api(app: QuartTrio, relay: RelayHandle, paths: TaskPaths) -> None:
    """Add the task routes to an app.

    Args:
        app: The app.
        relay: The relay, once it has started.
        paths: The paths of the API.
    """

    @app.errorhandler(BrokerError)
    async def unavailable(error: BrokerError) -> Response:
        seconds = error.retry_after if isinstance(error, BrokerBusy) else 1.0
        return _error(503, "unavailable", error.public_message, {"retry-after": str(ceil(seconds))})

    @app.errorhandler(HTTPException)
    async def refused(error: HTTPException) -> Response | HTTPException:
        if not has_request_context() or not request.path.startswith(paths.prefix):  # of a WebSocket, or another route
            return error
        status = error.code or 500
        return _error(status, (error.name or "error").lower().replace(" ", "_"), error.description or "")

    @app.errorhandler(BadMessage)
    async def bad_request(error: BadMessage) -> Response:
        return _error(400, error.code, error.message)

    @app.errorhandler(Unauthenticated)
    async def unauthenticated(error: Unauthenticated) -> Response:
        return _error(401, error.code, error.message, {"www-authenticate": "Bearer"})

    @app.errorhandler(Unverified)
    async def unverified(error: Unverified) -> Response:
        return _error(503, error.code, error.message, {"retry-after": str(ceil(error.retry_after))})

    @app.errorhandler(Forbidden)
    async def forbidden(error: Forbidden) -> Response:
        return _error(403, error.code, error.message)

    async def grant() -> Grant:
        return await relay.running.access.of_request(request)

    @app.get(paths.list_route)
    async def list_tasks() -> Response:
        """List tasks, the most recently active first: status=a,b  max_age=SECONDS  limit=N  after=CURSOR"""
        granted = await grant()
        try:
            limit = int(request.args.get("limit", _PAGE))
            max_age = float(request.args["max_age"]) if "max_age" in request.args else None
            after = _cursor(request.args["after"]) if "after" in request.args else None
            if not 1 <= limit <= _MAX_PAGE or (max_age is not None and not 0 <= max_age <= _MAX_AGE):
                raise ValueError("out of range")
        except (ValueError, msgspec.DecodeError):
            raise BadMessage(
                "bad_query", f"limit is 1 to {_MAX_PAGE}, max_age seconds, after a former `next`"
            ) from None
        wanted = request.args.get("status")
        statuses = frozenset(status.strip() for status in wanted.split(",")) if wanted else None
        page = await relay.running.tasks.page(limit, after, TaskFilter(statuses, max_age))
        tasks = [task for task in page.tasks if _is_listed(granted, task)]
        following = None if page.next is None else urlsafe_b64encode(_json(page.next)).decode()
        body = b'{"tasks":[%b],"next":%b}' % (b",".join(map(_task_json, tasks)), _json(following))
        return _tagged(body)

    @app.get(paths.task_route)
    async def get_task() -> Response:
        """Show one task: its state, and the position that it is the state of."""
        task_id = _task_id()
        granted = await grant()
        decision = require(granted, Verb.WATCH, task_channel(task_id))
        task = await relay.running.tasks.get(task_id)
        if decision is Decision.NEEDS_OWNER:
            require(granted, Verb.WATCH, task_channel(task_id), frozenset() if task is None else task.owner)
        if task is None:
            return _error(404, "unknown_task", "no such task, or it ended long ago")
        return _tagged(_task_json(task))

    @app.post(paths.heartbeat_route)
    async def heartbeat() -> Response:
        """Record that the task lives."""
        task_id = _task_id()
        granted = await grant()
        if require(granted, Verb.PUBLISH, task_channel(task_id)) is Decision.NEEDS_OWNER:
            task = await relay.running.tasks.get(task_id)
            require(granted, Verb.PUBLISH, task_channel(task_id), frozenset() if task is None else task.owner)
        if not await relay.running.tasks.heartbeat(task_id):
            return _error(404, "unknown_task", "no such task; publish an update first")
        return _answer(204, b"")
