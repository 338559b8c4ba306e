"""Durable publications: the calls of the scripts that change a channel, and their results.

The publish script gives an update its offset, appends it to the channel's history, folds it into the task's state, and
publishes it to the subscribers, all or nothing. The other scripts here change a channel in the same way. Server and clients
run the same ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from relay_wire import keys, scripts
from relay_wire.channels import MAX_CHILDREN, MAX_FIELDS, TASK_PREFIX, TASK_UPDATE
from relay_wire.creation import NO_OPTIONS, CreationOptions, wire_args
from relay_wire.position import Position, new_epoch
from relay_wire.scripts import Script
from relay_wire.statuses import status_class

#: How long Redis remembers an idempotency key, in milliseconds.
IDEMPOTENCY_TTL_MS = 300_000

#: The first word of Redis' error when what is appended has another type than the field.
APPEND_TYPE = "APPENDTYPE"

#: The first word of Redis' error when an idempotency key was used for an update with another fingerprint.
KEY_REUSED = "KEYREUSED"

#: The first word of Redis' error when an update would make the state of a task larger than its bound.
STATE_TOO_LARGE = "STATETOOLARGE"


@dataclass(frozen=True, slots=True)
class Retention:
    """How much Redis keeps of a channel, and for how long.

    Publishers of one channel should agree: each publish applies its own retention.

    Attributes:
        history_size: Updates kept.
        history_ttl: Seconds for which an update is kept.
        history_meta_ttl: Seconds for which a position is valid after the last update.
        task_state_ttl: Seconds for which a task's state is kept after its last update.
        terminal_state_ttl: The same for a task that has ended.
        max_state_bytes: Most bytes of a task's state; an update that would make it larger is refused.
        wire_args: These numbers in the form that the scripts take, times in milliseconds.
    """

    history_size: int = 1000
    history_ttl: int = 3600
    history_meta_ttl: int = 7 * 86400
    task_state_ttl: int = 86400
    terminal_state_ttl: int = 3600
    max_state_bytes: int = 512 * 1024
    wire_args: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        seconds = (self.history_ttl, self.history_meta_ttl, self.task_state_ttl, self.terminal_state_ttl)
        # Times to live are set again when a hundredth of the shortest has passed.
        numbers = (*(each * 1000 for each in seconds), min(seconds) * 10, self.max_state_bytes, MAX_FIELDS)
        object.__setattr__(self, "wire_args", (str(self.history_size), *map(str, numbers)))


class ScriptCall(NamedTuple):
    """One call of a script.

    Attributes:
        script: The script.
        keys: KEYS; on a cluster the first says which node the call goes to.
        values: ARGV.
    """

    script: Script
    keys: list[str]
    values: list[Any]


class Occurrence(NamedTuple):
    """Which one of several equal plain messages a message is.

    Attributes:
        digest: The digest of the message's bytes.
        number: The how-manieth time the caller has received these bytes, from 1.
        since_ms: When the caller began to count, in milliseconds on Redis' clock; 0 if it counts all that was ever recorded.
        remember_ms: How long Redis remembers the digest, in milliseconds.
    """

    digest: str
    number: int
    since_ms: int
    remember_ms: int


class PublishResult(NamedTuple):
    """The effect of a script on a channel.

    Attributes:
        position: Where the update stands in its channel, or where the channel stands.
        is_duplicate: Whether nothing was done: the update was recorded before, or there was nothing to do.
        previous: How often an equal message had been recorded before the caller of the ingest script began to count.
        is_truncated: Whether text or lists were not appended, since the state would have been too large.
    """

    position: Position
    is_duplicate: bool
    previous: int
    is_truncated: bool = False


def publish_call(
    channel: str,
    kind: str,
    data: bytes,
    retention: Retention,
    *,
    fields: Mapping[str, bytes] | None = None,
    status: str | None = None,
    idempotency_key: str | None = None,
    fingerprint: str = "",
    options: CreationOptions = NO_OPTIONS,
    sharded: bool = False,
    trace: str = "",
) -> ScriptCall:
    """Return a call that publishes an update.

    Args:
        channel: Relay's channel name.
        kind: The update's type as clients see it; TASK_DELTA if fields are marked as operations, see `encode_operation`.
        data: JSON text, as clients are to get it.
        retention: How much is kept, and for how long.
        fields: For a task: the JSON text of each field in ``data``.
        status: For a task: its status, if the update has one.
        idempotency_key: A name of this update. Published again under the same name within `IDEMPOTENCY_TTL_MS`, it keeps its
            position and is not sent again.
        fingerprint: Letters and digits that distinguish this update from others. The key with another fingerprint is an error
            that begins with `KEY_REUSED`.
        options: For a task: its owner and its parent.
        sharded: Whether the server is a cluster.
        trace: The trace context that relays receive with the update, see `relay_wire.trace_context`.
    """
    names, values = _shared_arguments(channel, kind, data, retention, status, sharded, options)
    _add_idempotency_key(names, values, idempotency_key, fingerprint)
    return _with_fields("publish", names, values, fields, trace)


def ingest_call(
    channel: str,
    kind: str,
    data: bytes,
    retention: Retention,
    occurrence: Occurrence,
    *,
    fields: Mapping[str, bytes] | None = None,
    status: str | None = None,
    options: CreationOptions = NO_OPTIONS,
    sharded: bool = False,
    trace: str = "",
) -> ScriptCall:
    """Return a call that records a plain message, unless this occurrence of it was recorded before.

    Args:
        channel: Relay's channel name.
        kind: The update's type as clients see it; TASK_DELTA if fields are marked as operations, see `encode_operation`.
        data: JSON text, as clients are to get it.
        retention: How much is kept, and for how long.
        occurrence: Which one of several equal messages it is.
        fields: For a task: the JSON text of each field in ``data``.
        status: For a task: its status, if the update has one.
        options: For a task: its owner and its parent.
        sharded: Whether the server is a cluster.
        trace: The trace context that relays receive with the update, see `relay_wire.trace_context`.
    """
    names, values = _shared_arguments(channel, kind, data, retention, status, sharded, options)
    _add_occurrence(names, values, occurrence)
    return _with_fields("ingest", names, values, fields, trace)


def create_call(
    task_id: str,
    fields: Mapping[str, bytes],
    data: bytes,
    retention: Retention,
    *,
    kind: str = TASK_UPDATE,
    status: str | None = None,
    idempotency_key: str | None = None,
    options: CreationOptions = NO_OPTIONS,
    sharded: bool = False,
) -> ScriptCall:
    """Return a call that creates an announced task: a first state, or a new life of an id that is used again.

    The announcement itself is an update of `relay_wire.channels.GENERAL`.

    Args:
        task_id: The task.
        fields: Its fields, as JSON text.
        data: The JSON object of the fields.
        retention: How much is kept, and for how long.
        kind: TASK_DELTA if some of the fields are marked as operations, see `encode_operation`.
        status: Its status, if it has one.
        idempotency_key: A name of this announcement; within `IDEMPOTENCY_TTL_MS` it creates the task once.
        options: Its owner and its parent.
        sharded: Whether the server is a cluster.
    """
    names, values = _shared_arguments(TASK_PREFIX + task_id, kind, data, retention, status, sharded, options)
    _add_idempotency_key(names, values, idempotency_key)
    return _with_fields("create", names, values, fields)


def ingest_created_call(
    task_id: str,
    fields: Mapping[str, bytes],
    data: bytes,
    retention: Retention,
    occurrence: Occurrence,
    *,
    kind: str = TASK_UPDATE,
    status: str | None = None,
    options: CreationOptions = NO_OPTIONS,
    sharded: bool = False,
) -> ScriptCall:
    """Return a call that creates a task which was announced plainly, unless this occurrence of the message has created it.

    Args:
        task_id: The task.
        fields: Its fields, as JSON text.
        data: The JSON object of the fields.
        retention: How much is kept, and for how long.
        occurrence: Which one of several equal announcements it is.
        kind: TASK_DELTA if some of the fields are marked as operations, see `encode_operation`.
        status: Its status, if it has one.
        options: Its owner and its parent.
        sharded: Whether the server is a cluster.
    """
    names, values = _shared_arguments(TASK_PREFIX + task_id, kind, data, retention, status, sharded, options)
    _add_occurrence(names, values, occurrence)
    return _with_fields("ingest_created", names, values, fields)


def heartbeat_call(task_id: str, retention: Retention, *, sharded: bool = False) -> ScriptCall:
    """Return a call that notes that a task is active. The result is a duplicate if there is no such task.

    Args:
        task_id: The task.
        retention: How much is kept, and for how long.
        sharded: Whether the server is a cluster.
    """
    names, values = _shared_arguments(TASK_PREFIX + task_id, TASK_UPDATE, b"{}", retention, None, sharded)
    return ScriptCall(scripts.load("heartbeat"), names, values)


def delete_call(task_id: str, retention: Retention, *, sharded: bool = False) -> ScriptCall:
    """Return a call that deletes a task. The result is a duplicate if there is no such task.

    Args:
        task_id: The task.
        retention: How long its numbers are kept.
        sharded: Whether the server is a cluster.
    """
    names, values = _shared_arguments(TASK_PREFIX + task_id, TASK_UPDATE, b"{}", retention, None, sharded)
    return ScriptCall(scripts.load("delete"), names, values)


def mark_stalled_call(
    task_id: str, last_activity: str, field_name: str, retention: Retention, *, sharded: bool = False
) -> ScriptCall:
    """Return a call that marks a task as stalled, if its last activity is still the given one.

    Args:
        task_id: The task.
        last_activity: The score in the index of running tasks, as Redis returned it.
        field_name: The field that is set to ``true``.
        retention: How much is kept, and for how long.
        sharded: Whether the server is a cluster.
    """
    data = b'{"%b":true}' % field_name.encode()
    names, values = _shared_arguments(TASK_PREFIX + task_id, TASK_UPDATE, data, retention, None, sharded)
    values += (last_activity, field_name, b"true")
    return ScriptCall(scripts.load("mark_stalled"), names, values)


class ChildReport(NamedTuple):
    """What a child has come to, as its parent counts it.

    Attributes:
        task_id: The child.
        status: Its status: one of `relay_wire.statuses`. None if it is no child of this parent any more.
        percent: Its progress, from 0 to 100; of one that has ended, 100.
        weight: How much it counts in the parent's percent.
        is_stalled: Whether it is stalled.
    """

    task_id: str
    status: str | None
    percent: float = 0.0
    weight: float = 1.0
    is_stalled: bool = False


def roll_up_call(
    parent_id: str, reports: Sequence[ChildReport], seen_ms: int, retention: Retention, *, sharded: bool = False
) -> ScriptCall:
    """Return a call that rolls up children into their parent. The result is a duplicate if the parent shows nothing new.

    Args:
        parent_id: The parent.
        reports: What some of its children have come to.
        seen_ms: When they were looked at, in milliseconds on Redis' clock. What is older than what is known changes nothing.
        retention: How much is kept, and for how long.
        sharded: Whether the server is a cluster.
    """
    names, values = _shared_arguments(TASK_PREFIX + parent_id, TASK_UPDATE, b"{}", retention, None, sharded)
    values += (seen_ms, MAX_CHILDREN)
    for report in reports:
        numbers = (f"{report.percent:.6g}", f"{report.weight:.6g}", int(report.is_stalled))
        values += (report.task_id, report.status or "gone", *numbers)
    return ScriptCall(scripts.load("roll_up"), names, values)


def encode_operation(operand: bytes, *, is_append: bool) -> bytes:
    """Return a field's operation as the scripts take it, among fields of an update whose type is TASK_DELTA.

    Args:
        operand: JSON text.
        is_append: It is appended to the field's value, or added; else it is the field's value, whatever it looks like.
    """
    return (b"+" if is_append else b"=") + operand


def _shared_arguments(
    channel: str,
    kind: str,
    data: bytes,
    retention: Retention,
    status: str | None,
    sharded: bool,
    options: CreationOptions = NO_OPTIONS,
) -> tuple[list[str], list[Any]]:
    """Return KEYS and ARGV as in ``lua/fragments/arguments.lua``."""
    names = list(keys.channel_keys(channel))
    values: list[Any] = [
        names[0].removesuffix(":meta"),  # the Redis channel
        "SPUBLISH" if sharded else "PUBLISH",
        new_epoch(),
        *retention.wire_args,
        status_class(status),
        channel[len(TASK_PREFIX) :] if channel.startswith(TASK_PREFIX) else "",
        kind,
        data,
        *wire_args(options),
    ]
    return names, values


def _add_idempotency_key(names: list[str], values: list[Any], key: str | None, fingerprint: str = "") -> None:
    if key is None:
        values.append("0")
    else:
        names.append(f"{names[0]}:id:{key}")
        values.append(f"{IDEMPOTENCY_TTL_MS} {fingerprint}" if fingerprint else IDEMPOTENCY_TTL_MS)


def _add_occurrence(names: list[str], values: list[Any], occurrence: Occurrence) -> None:
    names.append(f"{names[0]}:digest:{occurrence.digest}")
    values += (occurrence.remember_ms, occurrence.number, occurrence.since_ms)


def _with_fields(
    script: str, names: list[str], values: list[Any], fields: Mapping[str, bytes] | None, trace: str = ""
) -> ScriptCall:
    for name, value in (fields or {}).items():
        values += (name, value)
    if trace:
        values.append(trace)
        script += "_traced"
    return ScriptCall(scripts.load(script), names, values)


def publish_result(answer: Sequence[Any]) -> PublishResult:
    """Return what a script's answer says.

    Args:
        answer: What the publish, ingest, create, heartbeat or mark_stalled script returned.

    Raises:
        ValueError: It is not of that form. So do TypeError and UnicodeDecodeError.
    """
    epoch, offset, duplicate, previous, truncated = answer
    return PublishResult(Position(to_text(epoch), int(offset)), bool(duplicate), int(previous), bool(truncated))


def unpersisted_message(kind: str, data: bytes) -> bytes:
    """Return what to publish if Redis has no memory to record the update: subscribers get it live, without a position."""
    return b"- 0 %b\n%b" % (kind.encode(), data)


def to_text(answer: str | bytes) -> str:
    """Return a Redis string as text, whether or not the connection decodes answers."""
    return answer.decode() if isinstance(answer, bytes) else answer
