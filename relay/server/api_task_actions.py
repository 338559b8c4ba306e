"""What can be done with a task over HTTP besides publishing: cancel it, read its history, delete it."""

from typing import Annotated

import msgspec
from msgspec import Meta
from quart import Response, request
from quart_trio import QuartTrio
from relay_wire.cancellation import ENDED, MAX_REASON_LENGTH, UNKNOWN

from relay.core.channels import task_channel
from relay.core.errors import BadMessage
from relay.core.grants import Decision, Verb
from relay.core.updates import Position, Update
from relay.protocols.positions import position_json
from relay.server.api_access import require_write
from relay.server.api_responses import (
    body_of_request,
    error_response,
    json_of,
    json_response,
    task_id_of_request,
    unknown_task,
)
from relay.server.auth.access import require
from relay.server.publish_access import Target
from relay.server.running_relay import RelayHandle
from relay.server.task_paths import TaskPaths

#: Updates on one page of a history: unless asked for, and at most.
HISTORY_PAGE, MAX_HISTORY_PAGE = 100, 1000

#: A position as text: an epoch, a colon, an offset.
POSITION_PATTERN = "^[^:]{1,64}:[0-9]{1,15}$"


class CancelRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Why a task is to end."""

    reason: Annotated[str, Meta(max_length=MAX_REASON_LENGTH, description="For the worker, and its log.")] = ""


def add_task_actions(app: QuartTrio, relay: RelayHandle, paths: TaskPaths) -> None:
    """Add the routes to an app.

    Args:
        app: The app.
        relay: The relay, once it has started.
        paths: The paths of the API.
    """

    @app.post(paths.cancel_route)
    async def cancel() -> Response:
        """Request a task's end. It has ended when its status says so."""
        task_id = task_id_of_request()
        body = await body_of_request(CancelRequest) if await request.get_data() else CancelRequest()
        running = relay.running
        await require_write(running, Verb.CANCEL, [Target(task_channel(task_id))])
        outcome = await running.tasks.request_cancel(task_id, body.reason)
        if outcome == UNKNOWN:
            return unknown_task()
        if outcome == ENDED:
            return json_response(200, json_of({"task_id": task_id, "outcome": "ended_before"}))
        return json_response(202, json_of({"task_id": task_id, "outcome": "cancel_requested"}))

    @app.delete(paths.task_route)
    async def delete() -> Response:
        """Delete a task: its state and its history."""
        task_id = task_id_of_request()
        running = relay.running
        await require_write(running, Verb.PUBLISH, [Target(task_channel(task_id))])
        return json_response(204, b"") if await running.tasks.delete(task_id) else unknown_task()

    @app.get(paths.history_route)
    async def history() -> Response:
        """Show a part of a task's history: since=EPOCH:OFFSET  limit=N"""
        task_id = task_id_of_request()
        since, limit = _since_of_request(), _limit_of_request()
        running = relay.running
        grant = await running.access.grant_of_request(request)
        channel = task_channel(task_id)
        decision = require(grant, Verb.WATCH, channel)
        page = await running.history.read(task_id, since)
        if decision is Decision.NEEDS_OWNER:
            require(grant, Verb.WATCH, channel, frozenset() if page is None else page.owner)
        if page is None:
            return unknown_task()
        if page.updates is None:
            message = "updates after this position are gone; read the task's state, and go on from its position"
            return error_response(410, "history_gone", message)
        some = page.updates[:limit]
        last = some[-1].position if some else None
        following = last if last is not None and last.offset < page.top.offset else None
        head = json_of(
            {"task_id": task_id, "position": position_json(page.top), "next": following and _text_of(following)}
        )
        return json_response(200, b'%b,"updates":[%b]}' % (head[:-1], b",".join(map(_update_json, some))))


def _text_of(position: Position) -> str:
    return f"{position.epoch}:{position.offset}"


def _update_json(update: Update) -> bytes:
    assert update.position is not None  # what comes from Redis has one
    return b'{"position":%b,"data":%b}' % (json_of(position_json(update.position)), update.data)


def _since_of_request() -> Position | None:
    given = request.args.get("since")
    if given is None:
        return None
    epoch, _, offset = given.rpartition(":")
    if not 0 < len(epoch) <= 64 or not (offset.isdecimal() and offset.isascii()) or len(offset) > 15:
        raise BadMessage("bad_position", "since is a position, EPOCH:OFFSET, such as the `next` of an earlier page")
    return Position(epoch, int(offset))


def _limit_of_request() -> int:
    given = request.args.get("limit", str(HISTORY_PAGE))
    if not (given.isdecimal() and given.isascii() and len(given) < 6 and 1 <= int(given) <= MAX_HISTORY_PAGE):
        raise BadMessage("bad_query", f"limit is 1 to {MAX_HISTORY_PAGE}")
    return int(given)
