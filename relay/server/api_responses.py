"""Responses of the HTTP API, and what all of its handlers read from a request."""

from hashlib import blake2b
from typing import Any, TypeVar

import msgspec
from quart import Response, request
from relay_wire.channels import MAX_NAME_LENGTH
from werkzeug.exceptions import NotFound, UnsupportedMediaType

from relay.core.channels import task_channel
from relay.core.errors import BadMessage
from relay.core.json_errors import NOT_JSON, bad_message
from relay.server.task_paths import CHANNEL_KEY, SCOPE_KEY

T = TypeVar("T")

json_of = msgspec.json.Encoder().encode


def json_response(status: int, body: bytes, headers: dict[str, str] | None = None) -> Response:
    """Return a response with a JSON text as its body."""
    return Response(body, status, {"cache-control": "no-cache", **(headers or {})}, content_type="application/json")


def error_response(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Response:
    """Return the response to a request that is not served; the message says what to do."""
    return json_response(status, json_of({"code": code, "message": message}), headers)


def unknown_task() -> Response:
    """Return the response to a request for a task that does not exist."""
    return error_response(404, "unknown_task", "no such task, or it ended long ago")


def tagged(body: bytes) -> Response:
    """Answer with the body, or with 304 when the client has it already."""
    tag = blake2b(body, digest_size=12).hexdigest()
    if request.if_none_match.contains_weak(tag):
        return json_response(304, b"", {"etag": f'W/"{tag}"'})
    return json_response(200, body, {"etag": f'W/"{tag}"'})


def task_id_of_request() -> str:
    """Return the id of the task that the request is about.

    Raises:
        BadMessage: It is empty, too long, or not valid UTF-8.
        NotFound: The request names a route of `relay.server.task_paths`.
    """
    task_id = _name(SCOPE_KEY)
    if task_id is None:
        raise BadMessage("bad_task_id", "the task's id must be UTF-8, percent-encoded")
    task_channel(task_id)
    return task_id


def channel_of_request() -> str:
    """Return the name of the extra channel that the request is about; raises as `task_id_of_request`."""
    name = _name(CHANNEL_KEY)
    if name is None or not 0 < len(name) <= MAX_NAME_LENGTH:
        raise BadMessage(
            "bad_channel", f"the channel's name must be UTF-8, percent-encoded, of 1 to {MAX_NAME_LENGTH} characters"
        )
    return name


def _name(key: str) -> str | None:
    scope: Any = request.scope
    if key not in scope:
        raise NotFound
    name: str | None = scope[key]
    return name


async def body_of_request(type: type[T]) -> T:
    """Return the request's body.

    Args:
        type: What it must be, as JSON.

    Raises:
        UnsupportedMediaType: It is not declared as JSON.
        BadMessage: It is not of that type.
    """
    body: Any = await request.get_data()
    if request.mimetype != "application/json":
        raise UnsupportedMediaType("send JSON, with the header Content-Type: application/json")
    try:
        body.decode()
        return msgspec.json.decode(body, type=type)
    except NOT_JSON as error:
        raise bad_message(error, "the body is ") from None
