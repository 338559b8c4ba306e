"""The operations of the HTTP API, in one table: what its description and its page are made from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from relay_wire.channels import MAX_NAME_LENGTH

from relay.core.status import Status
from relay.server import api_schema
from relay.server.api import MAX_AGE, MAX_NAMES, MAX_PAGE, PAGE
from relay.server.api_publish import MAX_KEY_LENGTH, Batch, ChannelMessage, GeneralUpdate, TaskUpdate
from relay.server.api_task_actions import HISTORY_PAGE, MAX_HISTORY_PAGE, POSITION_PATTERN, CancelRequest
from relay.server.grant_routes import RevokeRequest, ShareRequest

_NAME = {"type": "string", "minLength": 1, "maxLength": MAX_NAME_LENGTH}
_TEXT = {"type": "string", "maxLength": MAX_NAME_LENGTH}  # empty: as if it were not given
_NAMES = {"type": "array", "items": {**_NAME, "pattern": "^[^,]+$"}, "maxItems": MAX_NAMES}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of an operation.

    Attributes:
        place: ``path``, ``query`` or ``header``.
        name: Its name.
        schema: Its JSON Schema.
        description: What it is for.
    """

    place: str
    name: str
    schema: Mapping[str, Any]
    description: str


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation.

    Attributes:
        name: Its unique name.
        method: The HTTP method.
        path: The path below the API's prefix.
        summary: What it does.
        answers: The form of the body by the status of success; None for no body.
        parameters: Its parameters.
        body: The form of the request's body, if it has one.
        needs_body: The body may not be left out.
        example: A body that works.
        refusals: Further statuses of errors.
    """

    name: str
    method: str
    path: str
    summary: str
    answers: Mapping[int, type | None]
    parameters: tuple[Parameter, ...] = ()
    body: type | None = None
    needs_body: bool = True
    example: Any = None
    refusals: tuple[int, ...] = field(default=())


_TASK_ID = Parameter("path", "task_id", _NAME, "The task's id, percent-encoded; it may have any character.")
_KEY = Parameter(
    "header",
    "Idempotency-Key",
    {"type": "string", "minLength": 1, "maxLength": MAX_KEY_LENGTH, "pattern": "^[ -~]+$"},
    "A name of the update. Repeated with it within five minutes, on any relay, the request is the same update.",
)

#: Statuses with which an operation that writes may be refused.
_WRITING = (400, 401, 403, 408, 413, 415, 422, 503)

OPERATIONS = (
    Operation(
        "publishTaskUpdate",
        "post",
        "/tasks/{task_id}",
        "Publish an update of a task. The first one creates it.",
        {200: api_schema.PublishedToTask},
        (_TASK_ID, _KEY),
        TaskUpdate,
        example={"data": {"status": "in_progress", "progress": 40, "title": "A film"}, "owner": ["user:7"]},
        refusals=(*_WRITING, 409),
    ),
    Operation(
        "publishGeneralUpdate",
        "post",
        "/general",
        "Publish an update for every client.",
        {200: api_schema.PublishedToChannel},
        (_KEY,),
        GeneralUpdate,
        example={"data": {"type": "task_created", "task_info": {"task_id": "film-1", "title": "A film"}}},
        refusals=(*_WRITING, 409),
    ),
    Operation(
        "publishMessage",
        "post",
        "/channels/{name}",
        "Publish a message on an extra channel.",
        {200: api_schema.PublishedToChannel},
        (Parameter("path", "name", _NAME, "One of RELAY_EXTRA_CHANNELS, percent-encoded."), _KEY),
        ChannelMessage,
        example={"data": {"headline": "Rain"}},
        refusals=(*_WRITING, 404),
    ),
    Operation(
        "publishBatch",
        "post",
        "/batch",
        "Publish several updates. Those of one task keep their order.",
        {200: api_schema.BatchResult, 207: api_schema.BatchResult},
        (_KEY,),
        Batch,
        example={
            "updates": [
                {"task_id": "film-1", "data": {"progress": 50}},
                {"channel": "general", "data": {"note": "Half of it is done"}},
            ]
        },
        refusals=_WRITING,
    ),
    Operation(
        "listTasks",
        "get",
        "/tasks",
        "List tasks, the most recently active first. All filters that are given must hold.",
        {200: api_schema.TaskPage},
        (
            Parameter("query", "status", _NAMES, "Tasks with one of these statuses."),
            Parameter("query", "kind", _NAMES, "Tasks whose field `kind` is one of these."),
            Parameter("query", "owner", _NAMES, "Tasks that one of these users and groups owns."),
            Parameter("query", "parent", _TEXT, "The children of this task."),
            Parameter("query", "text", _TEXT, "Tasks whose id, title or message contains this, whatever the case."),
            Parameter(
                "query",
                "max_age",
                {"type": "number", "minimum": 0, "maximum": MAX_AGE},
                "Tasks that were active within so many seconds.",
            ),
            Parameter(
                "query",
                "limit",
                {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": PAGE},
                "Most tasks on this page. It may have fewer, or none, and still have a next one.",
            ),
            Parameter("query", "after", {"type": "string"}, "The `next` of the page before."),
        ),
        refusals=(400, 401, 503),
    ),
    Operation(
        "getTask",
        "get",
        "/tasks/{task_id}",
        "Show a task: its state, and the position that this is the state of.",
        {200: api_schema.Task},
        (_TASK_ID,),
        refusals=(400, 401, 403, 404, 503),
    ),
    Operation(
        "getHistory",
        "get",
        "/tasks/{task_id}/history",
        "Show a part of a task's history, the oldest update first.",
        {200: api_schema.HistoryPage},
        (
            _TASK_ID,
            Parameter(
                "query",
                "since",
                {"type": "string", "pattern": POSITION_PATTERN},
                "A position, EPOCH:OFFSET, after which the page begins; without it, at the oldest update that is kept.",
            ),
            Parameter(
                "query",
                "limit",
                {"type": "integer", "minimum": 1, "maximum": MAX_HISTORY_PAGE, "default": HISTORY_PAGE},
                "Most updates on this page.",
            ),
        ),
        refusals=(400, 401, 403, 404, 410, 503),
    ),
    Operation(
        "heartbeat",
        "post",
        "/tasks/{task_id}/heartbeat",
        "Note that a task lives, although it reports nothing.",
        {204: None},
        (_TASK_ID,),
        refusals=(400, 401, 403, 404, 408, 413, 503),
    ),
    Operation(
        "cancelTask",
        "post",
        "/tasks/{task_id}/cancel",
        "Request a task's end. Its worker is notified, or finds the request when it begins.",
        {200: api_schema.CancelResult, 202: api_schema.CancelResult},
        (_TASK_ID,),
        CancelRequest,
        needs_body=False,
        example={"reason": "Takes too long"},
        refusals=(400, 401, 403, 404, 408, 413, 415, 503),
    ),
    Operation(
        "retryTask",
        "post",
        "/tasks/{task_id}/retry",
        "Run a task again that has failed or was cancelled, if its worker has kept its job.",
        {202: api_schema.RetryResult},
        (_TASK_ID,),
        refusals=(400, 401, 403, 404, 408, 409, 413, 503),
    ),
    Operation(
        "deleteTask",
        "delete",
        "/tasks/{task_id}",
        'Delete a task: its state and its history. Its watchers are sent a last update with `"deleted":true`.',
        {204: None},
        (_TASK_ID,),
        refusals=(400, 401, 403, 404, 408, 413, 503),
    ),
    Operation(
        "shareTask",
        "post",
        "/tasks/{task_id}/share",
        "Make a share link: a token by which others may watch this one task, until it expires or is revoked.",
        {201: api_schema.ShareLink},
        (_TASK_ID,),
        ShareRequest,
        needs_body=False,
        refusals=(400, 401, 403, 408, 409, 413, 415, 503),
    ),
    Operation(
        "issueTicket",
        "post",
        "/ticket",
        "Exchange credentials for a ticket, which lets one WebSocket or event stream in.",
        {201: api_schema.Ticket},
        refusals=(401, 403, 408, 413, 503),
    ),
    Operation(
        "getStatus",
        "get",
        "/status",
        "Show what all relays do now. For operators: with RELAY_ADMIN_BIND it is on that address alone.",
        {200: Status},
        refusals=(401, 403, 503),
    ),
    Operation(
        "revoke",
        "post",
        "/revoke",
        "End tokens before they expire: those of a user, one by its id, or that of a link that the client has made.",
        {200: api_schema.Revoked},
        (),
        RevokeRequest,
        example={"sub": "user:7"},
        refusals=(400, 401, 403, 408, 413, 415, 422, 503),
    ),
)
