"""The updates of publishers: checked, encoded, and made into calls of Redis."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from secrets import token_hex
from typing import Any

from relay_wire import keys, publications
from relay_wire.channels import (
    APPEND,
    GENERAL,
    GENERAL_UPDATE,
    GENERAL_UPDATES,
    MAX_FIELDS,
    MAX_NAME_LENGTH,
    MESSAGE,
    TASK_DELTA,
    TASK_PREFIX,
    TASK_UPDATE,
    TASK_UPDATES,
)
from relay_wire.creation import NO_OPTIONS, CreationOptions
from relay_wire.position import Position
from relay_wire.publications import Retention, ScriptCall
from relay_wire.trace_context import TRACEPARENT

from relay_client import environment, tracing
from relay_client.encoding import encode, encode_fields, is_well_formed, join_fields
from relay_client.errors import StateTooLarge
from relay_client.field_operations import check_append, operation_of
from relay_client.publishing.call import Call
from relay_client.tracing import UpdateSpan

#: Length of an idempotency key, in characters.
_MAX_KEY_LENGTH = 1000


def task_channel(task_id: str | int) -> str:
    """Return the channel of a task. Raises ValueError or TypeError for what cannot be a task id."""
    if isinstance(task_id, bool) or not isinstance(task_id, str | int):
        raise TypeError(f"a task id is a str or an int, not {type(task_id).__name__}")
    name = str(task_id)
    if not 0 < len(name) <= MAX_NAME_LENGTH:
        raise ValueError(f"a task id has 1 to {MAX_NAME_LENGTH} characters, not {len(name)}")
    if not (name.isascii() or is_well_formed(name)):
        # Not repaired: two ids could become one.
        raise ValueError(f"a task id must be Unicode text without lone surrogates, not {name!r}")
    return TASK_PREFIX + name


def position_of(calls: Sequence[Call]) -> Position | None:
    """Return the position of the update that calls have delivered; None where it has none. Raises NotDelivered."""
    outcome = calls[-1].outcome()
    return outcome if isinstance(outcome, Position) else None


def _position(answer: Any) -> Position:
    return publications.publish_result(answer).position


def _appended_position(channel: str, answer: Any) -> Position:
    result = publications.publish_result(answer)
    if result.is_truncated:
        message = "what is appended does not fit into RELAY_MAX_STATE_BYTES; the update's other fields were stored"
        raise StateTooLarge(message, channel)
    return result.position


def _was_accepted(answer: Any) -> bool:
    return not publications.publish_result(answer).is_duplicate


@dataclass(frozen=True, slots=True)
class Updates:
    """Makes calls of updates. All methods raise TypeError or ValueError for what cannot be published.

    Attributes:
        retention: How much Redis keeps, and for how long.
        sharded: Whether the server is a cluster.
        max_bytes: Length of the longest update, in bytes; a relay does not take longer ones.
    """

    retention: Retention
    sharded: bool
    max_bytes: int

    @classmethod
    def from_environment(cls, retention: Retention | None, *, sharded: bool) -> "Updates":
        """Make one with the limits that the environment gives. Raises ValueError that names the variable."""
        return cls(retention or environment.retention(), sharded, environment.max_update_bytes())

    def on(self, channel: str, data: Mapping[str, Any], *, durable: bool = True, key: str | None = None) -> list[Call]:
        """Return the calls of an update on a channel by its name; the last call's outcome is the update's position."""
        if not isinstance(channel, str) or not 0 < len(channel) <= len(TASK_PREFIX) + MAX_NAME_LENGTH:
            raise ValueError(f"a channel's name has 1 to {MAX_NAME_LENGTH} characters, not {channel!r:.80}")
        if channel.startswith(TASK_PREFIX):
            return self.task_update(channel[len(TASK_PREFIX) :], data, durable=durable, key=key)
        if channel == GENERAL:
            return self.general_update(data, durable=durable, key=key)
        if channel in (TASK_UPDATES, GENERAL_UPDATES) or channel.startswith(keys.PREFIX):
            raise ValueError(f"{channel!r} is Redis' name, not Relay's: publish to 'task:<id>' or 'general'")
        if len(channel) > MAX_NAME_LENGTH or not is_well_formed(channel):
            raise ValueError(
                f"a channel's name is Unicode text of 1 to {MAX_NAME_LENGTH} characters, not {channel!r:.80}"
            )
        message = self._checked(join_fields(encode_fields(data)))
        if not durable:
            return [_plain(channel, channel, message)]
        return [self._durable(channel, MESSAGE, message, key)]

    def task_update(
        self,
        task_id: str | int,
        update: Mapping[str, Any],
        *,
        durable: bool = True,
        key: str | None = None,
        options: CreationOptions = NO_OPTIONS,
    ) -> list[Call]:
        """Return the calls of a task's update; the last call's outcome is its position."""
        channel = task_channel(task_id)
        if options.parent_id == str(task_id):
            raise ValueError("a task cannot be its own parent")
        fields = encode_fields(update)
        if len(fields) > MAX_FIELDS:
            raise ValueError(f"an update has {MAX_FIELDS} fields at most, not {len(fields)}")
        data = self._checked(join_fields(fields))
        operations = {name: each for name, value in update.items() if (each := operation_of(value)) is not None}
        for name, (kind, operand) in operations.items():
            if kind == APPEND:
                check_append(name, operand)
            fields[name] = publications.encode_operation(encode(operand), is_append=kind == APPEND)
        if not durable:
            # Twice the same fields come to the same: it may be sent again. To append is another matter.
            return [self._enveloped(channel, TASK_UPDATE, data, str(task_id), options, repeatable=not operations)]
        kind = TASK_DELTA if operations else TASK_UPDATE
        return [self._durable(channel, kind, data, key, fields, _status(update), options)]

    def general_update(
        self,
        update: Mapping[str, Any],
        *,
        durable: bool = True,
        key: str | None = None,
        options: CreationOptions = NO_OPTIONS,
    ) -> list[Call]:
        """Return the calls of an update for every client. A task's announcement gives it its first state."""
        data = self._checked(join_fields(encode_fields(update)))
        if not durable:
            return [self._enveloped(GENERAL, GENERAL_UPDATE, data, None, options)]
        key = key or token_hex(12)
        return [*self._creation(update, key, options), self._durable(GENERAL, GENERAL_UPDATE, data, key)]

    def created(
        self,
        task_id: str | int,
        info: Mapping[str, Any],
        key: str | None = None,
        options: CreationOptions = NO_OPTIONS,
    ) -> list[Call]:
        """Return the calls that announce a new task."""
        task_channel(task_id)
        if options.parent_id == str(task_id):
            raise ValueError("a task cannot be its own parent")
        announced = {"type": "task_created", "task_info": {"task_id": str(task_id), **info}}
        return self.general_update(announced, key=key, options=options)

    def heartbeat(self, task_id: str | int) -> Call:
        """Return a task's heartbeat. Its outcome is False when Redis knows no such task."""
        channel = task_channel(task_id)
        return _task_call(channel, publications.heartbeat_call(str(task_id), self.retention, sharded=self.sharded))

    def _creation(self, update: Mapping[str, Any], key: str, options: CreationOptions) -> list[Call]:
        """Return the call that gives an announced task its first state, as a relay does for a plain announcement."""
        info = update.get("task_info")
        if update.get("type") != "task_created" or not isinstance(info, Mapping):
            return []
        fields = {name: value for name, value in info.items() if name != "task_id"}
        try:
            channel = task_channel(info.get("task_id", ""))
        except (TypeError, ValueError):
            return []
        if not 0 < len(fields) <= MAX_FIELDS:
            return []
        encoded = encode_fields(fields)
        create = publications.create_call(
            channel[len(TASK_PREFIX) :],
            encoded,
            join_fields(encoded),
            self.retention,
            status=_status(fields),
            options=options,
            idempotency_key=key,
            sharded=self.sharded,
        )
        return [_task_call(channel, create)]

    def _durable(
        self,
        channel: str,
        kind: str,
        data: bytes,
        key: str | None,
        fields: Mapping[str, bytes] | None = None,
        status: str | None = None,
        options: CreationOptions = NO_OPTIONS,
    ) -> Call:
        if key is not None and (not isinstance(key, str) or len(key) > _MAX_KEY_LENGTH or not is_well_formed(key)):
            raise ValueError(
                f"an idempotency key is Unicode text of {_MAX_KEY_LENGTH} characters at most, not {key!r:.80}"
            )
        span = tracing.begin_publish(channel)
        script, names, values = publications.publish_call(
            channel,
            kind,
            data,
            self.retention,
            fields=fields,
            status=status,
            options=options,
            idempotency_key=key or token_hex(12),
            sharded=self.sharded,
            trace="" if span is None else span.traceparent,
        )
        live = (
            "SPUBLISH" if self.sharded else "PUBLISH",
            keys.pubsub_channel(channel),
            publications.unpersisted_message(kind, data),
        )
        if kind == TASK_DELTA:  # nothing is appended without a position
            read = partial(_appended_position, channel)
            return Call(channel, names, script, values, needs_replicas=True, read=read, span=span)
        return Call(channel, names, script, values, fallback=live, needs_replicas=True, read=_position, span=span)

    def _checked(self, data: bytes) -> bytes:
        if len(data) > self.max_bytes:
            raise ValueError(f"an update has {self.max_bytes} bytes at most (RELAY_MAX_UPDATE_BYTES), not {len(data)}")
        return data

    def _enveloped(
        self,
        channel: str,
        kind: str,
        data: bytes,
        task_id: str | None,
        options: CreationOptions,
        *,
        repeatable: bool = False,
    ) -> Call:
        """Return the plain PUBLISH of a message as existing services write it."""
        beside = b"" if task_id is None else b'"task_id":%b,' % encode(task_id)
        if options.owner is not None:
            beside += b'"owner":%b,' % encode(sorted(options.owner))
        if options.parent_id is not None:
            beside += b'"parent_id":%b,' % encode(options.parent_id)
        span = tracing.begin_publish(channel)
        if span is not None:
            beside += b'"%b":"%b",' % (TRACEPARENT.encode(), span.traceparent.encode())
        message = self._checked(
            b'{"type":%b,%b"data":%b,"timestamp":%b}' % (encode(kind), beside, data, encode(time.time()))
        )
        redis_channel = GENERAL_UPDATES if task_id is None else TASK_UPDATES
        return _plain(channel, redis_channel, message, repeatable=repeatable, span=span)


def _status(update: Mapping[str, Any]) -> str | None:
    status = update.get("status")
    status = status.value if isinstance(status, Enum) else status
    return status if isinstance(status, str) else None


def _task_call(channel: str, call: ScriptCall) -> Call:
    """Something about a task that is no update. Redis may have no memory for it, or it may come too late: then so be it.

    To create a task once more after it has ended is to begin another one.
    """
    nothing = ("EXISTS", call.keys[0])
    return Call(
        channel, call.keys, call.script, call.values, fallback=nothing, fallback_if_overtaken=True, read=_was_accepted
    )


def _plain(
    channel: str, redis_channel: str, message: bytes, *, repeatable: bool = False, span: UpdateSpan | None = None
) -> Call:
    """Return a plain PUBLISH. Its outcome is the number of subscribers; on a cluster, of one node."""
    command = ("PUBLISH", redis_channel, message)
    return Call(channel, [redis_channel], command=command, repeatable=repeatable, read=int, span=span)
