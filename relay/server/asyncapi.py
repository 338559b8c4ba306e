"""The AsyncAPI 3 document of what is streamed: `/ws/tasks` and `/events`. docs/protocol.md says more about each message."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, NamedTuple

from relay_wire.channels import MAX_NAME_LENGTH

_NAME = {"type": "string", "minLength": 1, "maxLength": MAX_NAME_LENGTH}
_POSITION = {
    "type": "object",
    "description": "Where an update stands in its channel.",
    "properties": {"epoch": {"type": "string"}, "offset": {"type": "integer", "minimum": 0}},
    "required": ["epoch", "offset"],
}
_DATA = {"type": "object", "description": "The fields that changed, by name; values are any JSON."}
_CHILDREN = {"type": "boolean", "description": "The task's children belong to the subscription."}
_FAMILY = {**_NAME, "description": "The task that the client follows together with its children."}
_EXAMPLE_POSITION = {"epoch": "3f9c21ab04de", "offset": 7}


class Message(NamedTuple):
    """One kind of message.

    Attributes:
        summary: What it says.
        type: The value of its field ``type``.
        fields: The JSON Schemas of its other fields.
        required: Those that it always has.
        examples: Messages of this kind.
    """

    summary: str
    type: str
    fields: Mapping[str, Any]
    required: tuple[str, ...]
    examples: tuple[Mapping[str, Any], ...]


#: What clients send.
CLIENT_MESSAGES = {
    "subscribe": Message(
        "Follow a task or a channel. With a position, null at first, the client can resume.",
        "subscribe",
        {
            "task_id": {"anyOf": [_NAME, {"type": "integer"}]},
            "channel": _NAME,
            "position": {"anyOf": [_POSITION, {"type": "null"}]},
            "deltas": {"type": "boolean", "description": "Updates have what was appended, not the whole value."},
            "traces": {"type": "boolean", "description": "With a position: send the contexts of traced updates."},
            "children": _CHILDREN,
        },
        (),
        (
            {"type": "subscribe", "task_id": "film-1"},
            {"type": "subscribe", "task_id": "film-1", "position": None},
            {"type": "subscribe", "task_id": "film-1", "children": True, "position": None},
            {"type": "subscribe", "channel": "general", "position": _EXAMPLE_POSITION},
        ),
    ),
    "unsubscribe": Message(
        "Follow a task or a channel no longer.",
        "unsubscribe",
        {"task_id": {"anyOf": [_NAME, {"type": "integer"}]}, "channel": _NAME, "children": _CHILDREN},
        (),
        ({"type": "unsubscribe", "task_id": "film-1"},),
    ),
    "ping": Message("Ask whether the connection lives.", "ping", {}, (), ({"type": "ping"},)),
    "authenticate": Message(
        "Show a token, where the relay asks for one, or a newer one before the last ends.",
        "authenticate",
        {"token": {"type": "string", "minLength": 1}},
        ("token",),
        ({"type": "authenticate", "token": "eyJhbGciOi..."},),
    ),
}

#: What the relay sends.
RELAY_MESSAGES = {
    "subscribed": Message(
        "The client follows the task or channel. The fields after the name are for those that gave a position.",
        "subscribed",
        {
            "task_id": _NAME,
            "channel": _NAME,
            "children": _CHILDREN,
            "position": _POSITION,
            "recovered": {"type": "boolean", "description": "Every update after the client's position follows."},
            "state": {"type": "boolean", "description": "The task's whole state follows."},
        },
        (),
        (
            {"type": "subscribed", "task_id": "film-1"},
            {
                "type": "subscribed",
                "task_id": "film-1",
                "position": _EXAMPLE_POSITION,
                "recovered": True,
                "state": False,
            },
        ),
    ),
    "unsubscribed": Message(
        "The client follows the task or channel no longer.",
        "unsubscribed",
        {"task_id": _NAME, "channel": _NAME, "children": _CHILDREN},
        (),
        ({"type": "unsubscribed", "task_id": "film-1"},),
    ),
    "taskUpdate": Message(
        "Fields of a task that changed, or its whole state.",
        "task_update",
        {"task_id": _NAME, "position": _POSITION, "data": _DATA, "family": _FAMILY},
        ("task_id", "data"),
        (
            {"type": "task_update", "task_id": "film-1", "data": {"status": "in_progress", "progress": 40}},
            {"type": "task_update", "task_id": "film-1", "position": _EXAMPLE_POSITION, "data": {"progress": 41}},
        ),
    ),
    "taskStates": Message(
        "The states of a task and its children: where a client begins that follows all of them.",
        "task_states",
        {
            "family": _FAMILY,
            "tasks": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"task_id": _NAME, "data": _DATA},
                    "required": ["task_id", "data"],
                },
            },
            "truncated": {"type": "boolean", "description": "There are more children."},
            "position": _POSITION,
        },
        ("family", "tasks"),
        (
            {
                "type": "task_states",
                "family": "film-1",
                "tasks": [{"task_id": "film-1", "data": {"status": "in_progress"}}],
                "position": _EXAMPLE_POSITION,
            },
        ),
    ),
    "generalUpdate": Message(
        "An update for every client.",
        "general_update",
        {"channel": _NAME, "position": _POSITION, "data": {}},
        ("data",),
        ({"type": "general_update", "data": {"type": "task_created", "task_info": {"task_id": "film-1"}}},),
    ),
    "trace": Message(
        "The W3C trace context of the update at a position, which follows; for clients that asked for traces.",
        "trace",
        {"task_id": _NAME, "channel": _NAME, "position": _POSITION, "traceparent": {"type": "string"}},
        ("position", "traceparent"),
        (
            {
                "type": "trace",
                "task_id": "film-1",
                "position": _EXAMPLE_POSITION,
                "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            },
        ),
    ),
    "authenticated": Message(
        "The token holds; for so many seconds, if it ends.",
        "authenticated",
        {"expires_in": {"type": "number"}},
        (),
        ({"type": "authenticated", "expires_in": 3600},),
    ),
    "tokenExpires": Message(
        "The token ends in so many seconds: show a newer one.",
        "token_expires",
        {"seconds": {"type": "number"}},
        ("seconds",),
        ({"type": "token_expires", "seconds": 30},),
    ),
    "pong": Message(
        "The connection lives.",
        "pong",
        {"timestamp": {"type": "string", "format": "date-time"}},
        ("timestamp",),
        ({"type": "pong", "timestamp": "2026-11-26T18:00:00.000Z"},),
    ),
    "error": Message(
        "A message of the client was not understood, or cannot be served. The connection lives on.",
        "error",
        {"code": {"type": "string"}, "message": {"type": "string"}, "task_id": _NAME, "channel": _NAME},
        ("code", "message"),
        ({"type": "error", "code": "unknown_channel", "message": "no such channel", "channel": "news"},),
    ),
}

#: What the relay sends on `/events`.
_EVENTS = ("taskUpdate", "taskStates", "generalUpdate")


def schema_of(message: Message) -> dict[str, Any]:
    """Return the JSON Schema of a kind of message. Clients ignore fields that they do not know."""
    return {
        "type": "object",
        "properties": {"type": {"const": message.type}, **message.fields},
        "required": ["type", *message.required],
    }


def asyncapi_document() -> dict[str, Any]:
    """Return the document."""
    messages = {
        name: {
            "name": name,
            "summary": message.summary,
            "contentType": "application/json",
            "payload": schema_of(message),
            "examples": [{"payload": example} for example in message.examples],
        }
        for name, message in (CLIENT_MESSAGES | RELAY_MESSAGES).items()
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Relay",
            "version": version("trio-relay"),
            "description": "Live updates of background tasks. Messages on extra channels are sent as they were published.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "channels": {
            "tasks": {
                "address": "/ws/tasks",
                "title": "WebSocket",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
                "bindings": {"ws": {"method": "GET"}},
            },
            "events": {
                "address": "/events",
                "title": "Server-sent events",
                "description": (
                    "The query has what is followed: task (repeatable), general=1, channel (repeatable), deltas=1, "
                    "children=1, and last_event_id, or the header Last-Event-ID, to resume. "
                    "The event's name is the message's type."
                ),
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in _EVENTS},
            },
        },
        "operations": {
            "fromClients": _operation("receive", "tasks", CLIENT_MESSAGES),
            "toClients": _operation("send", "tasks", RELAY_MESSAGES),
            "toEventStreams": _operation("send", "events", _EVENTS),
        },
        "components": {"messages": messages},
    }


def _operation(action: str, channel: str, names: Any) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in names],
    }
