"""Calls of the Lua scripts as the server makes them, and their answers as updates and snapshots.

The scripts themselves, and the calls that clients make as well, are in `relay_wire`. Answers are checked here, where they come
in: what cannot be read is a refusal that concerns one channel.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import msgspec
from relay_wire import keys, publications, scripts
from relay_wire.channels import FAMILY_UPDATE, GENERAL, MAX_NAME_LENGTH, TASK_DELTA, TASK_PREFIX, TASK_UPDATE
from relay_wire.creation import NO_OPTIONS, CreationOptions, owner_of
from relay_wire.position import new_epoch
from relay_wire.publications import Occurrence, PublishResult, Retention, ScriptCall
from relay_wire.scripts import Script

from relay.config import Settings
from relay.core.errors import BrokerRefused
from relay.core.field_operations import check_operation, literal, may_have_operations, operation_of
from relay.core.json_errors import NOT_JSON
from relay.core.recovery import Snapshot
from relay.core.shared_updates import SharedUpdates
from relay.core.task_state import STALLED, fields_of, join_fields, status_of
from relay.core.updates import Position, Update

_decode_raw = msgspec.json.Decoder(msgspec.Raw).decode
_decode_created = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

_CLOCK = Script.of("local now = redis.call('TIME') return now[1] * 1000 + math.floor(now[2] / 1000)")

#: The error of an update that appends more than the state of its task has room for.
TRUNCATED = "what is appended does not fit into RELAY_MAX_STATE_BYTES; the update's other fields were stored"

#: In the data of every update that announces a task.
CREATED_MARK = b'"task_created"'

#: What answers of an unexpected form raise when they are read.
MALFORMED = (ValueError, TypeError, AttributeError, IndexError, OverflowError)


def retention_of(settings: Settings) -> Retention:
    """Return the configured bounds of what Redis keeps."""
    return Retention(
        settings.history_size,
        settings.history_ttl,
        settings.history_meta_ttl,
        settings.task_state_ttl,
        settings.terminal_state_ttl,
        settings.max_state_bytes,
    )


def publish_call(
    channel: str,
    kind: str,
    data: bytes,
    retention: Retention,
    *,
    options: CreationOptions = NO_OPTIONS,
    idempotency_key: str | None = None,
    fingerprint: str = "",
    sharded: bool = False,
    trace: str = "",
) -> ScriptCall:
    """Return a call that publishes an update.

    Args:
        channel: Relay's channel name.
        kind: The update's type as clients see it.
        data: JSON text, as clients are to get it.
        retention: How much is kept, and for how long.
        options: The task's owner and parent.
        idempotency_key: A name of this update, see `relay_wire.publications.publish_call`.
        fingerprint: What distinguishes this update from others of the same name.
        sharded: Whether the server is a cluster.
        trace: The trace context that relays receive with it.

    Raises:
        BadMessage: The data of a task is no object, has too many fields, or an operation that cannot be done.
    """
    kind, fields, status = typed_fields(channel, kind, data)
    return publications.publish_call(
        channel,
        kind,
        data,
        retention,
        fields=fields,
        status=status,
        options=options,
        idempotency_key=idempotency_key,
        fingerprint=fingerprint,
        sharded=sharded,
        trace=trace,
    )


def ingest_call(update: Update, occurrence: Occurrence, retention: Retention, *, sharded: bool = False) -> ScriptCall:
    """Return a call that records an update which was published plainly, unless another relay has recorded it.

    Args:
        update: The update.
        occurrence: Which one of several equal messages it is.
        retention: How much is kept, and for how long.
        sharded: Whether the server is a cluster.

    Raises:
        BadMessage: The data of a task is no object, has too many fields, or an operation that cannot be done.
    """
    kind, fields, status = typed_fields(update.channel, update.type, update.data)
    return publications.ingest_call(
        update.channel,
        kind,
        update.data,
        retention,
        occurrence,
        fields=fields,
        status=status,
        options=update.options,
        sharded=sharded,
        trace=update.trace,
    )


def ingest_created_call(
    update: Update, occurrence: Occurrence, retention: Retention, *, sharded: bool = False
) -> ScriptCall | None:
    """Return a call that creates the task of a plain ``task_created`` announcement.

    Args:
        update: A general update.
        occurrence: Which one of several equal announcements it is.
        retention: How much is kept, and for how long.
        sharded: Whether the server is a cluster.

    Returns:
        None if the update announces no task.

    Raises:
        BadMessage: The announced task has too many fields.
    """
    announced = announced_task(update.data)
    if announced is None:
        return None
    task_id, task = announced
    kind, fields, status = _with_operations(TASK_UPDATE, task)
    return publications.ingest_created_call(
        task_id,
        fields,
        join_fields(task),
        retention,
        occurrence,
        kind=kind,
        status=status,
        options=update.options,
        sharded=sharded,
    )


def create_call(
    announcement: bytes,
    retention: Retention,
    *,
    idempotency_key: str,
    options: CreationOptions = NO_OPTIONS,
    sharded: bool = False,
) -> ScriptCall | None:
    """Return a call that creates the task of a ``task_created`` announcement which is published durably.

    Args:
        announcement: The data of a general update.
        retention: How much is kept, and for how long.
        idempotency_key: A name of the announcement.
        options: The task's owner and parent.
        sharded: Whether the server is a cluster.

    Returns:
        None if the update announces no task.

    Raises:
        BadMessage: The announced task has too many fields.
    """
    announced = announced_task(announcement)
    if announced is None:
        return None
    task_id, task = announced
    kind, fields, status = _with_operations(TASK_UPDATE, task)
    return publications.create_call(
        task_id,
        fields,
        join_fields(task),
        retention,
        kind=kind,
        status=status,
        idempotency_key=idempotency_key,
        options=options,
        sharded=sharded,
    )


def announced_task(data: bytes) -> tuple[str, dict[str, bytes]] | None:
    """Return the id and the fields of the task that a general update announces; None if it announces none.

    Raises:
        BadMessage: The announced task has too many fields.
    """
    if CREATED_MARK not in data:
        return None
    try:
        announcement = _decode_created(data)
    except NOT_JSON:
        return None
    info = announcement.get("task_info")
    if bytes(announcement.get("type", b"")) != CREATED_MARK or info is None or not bytes(info).startswith(b"{"):
        return None
    task = fields_of(bytes(info))
    try:
        task_id = str(msgspec.json.decode(task.pop("task_id", b""), type=str | int))
    except NOT_JSON:
        return None
    if not task or not 0 < len(task_id) <= MAX_NAME_LENGTH:
        return None
    return task_id, task


def typed_fields(channel: str, kind: str, data: bytes) -> tuple[str, dict[str, bytes] | None, str | None]:
    """Return an update's type, its fields and its status as the scripts take them.

    Raises:
        BadMessage: The data of a task is no object, has too many fields, or an operation that cannot be done.
    """
    if not channel.startswith(TASK_PREFIX):
        return kind, None, None
    fields = fields_of(data)
    return _with_operations(kind, fields) if may_have_operations(data) else (kind, fields, status_of(fields))


def _with_operations(kind: str, fields: Mapping[str, bytes]) -> tuple[str, dict[str, bytes], str | None]:
    marked, plain = dict(fields), dict(fields)
    for name, value in fields.items():
        operation = operation_of(value)
        if operation is not None:
            check_operation(name, operation)
            marked[name] = publications.encode_operation(operation.operand, is_append=operation.is_append)
            plain[name] = operation.operand
            kind = TASK_DELTA
    return kind, marked, status_of(plain)


def mark_stalled_call(task_id: str, last_activity: str, retention: Retention, *, sharded: bool = False) -> ScriptCall:
    """Return a call that marks a task as stalled, if its last activity is still the given one.

    Args:
        task_id: The task.
        last_activity: The score in the index of running tasks, as Redis returned it.
        retention: How much is kept, and for how long.
        sharded: Whether the server is a cluster.
    """
    return publications.mark_stalled_call(task_id, last_activity, STALLED, retention, sharded=sharded)


def clock_call() -> ScriptCall:
    """Return a call that answers with Redis' time in milliseconds since the Unix epoch."""
    return ScriptCall(_CLOCK, [keys.meta(GENERAL)], [])


def read_call(
    channel: str, since: Position | None, retention: Retention, max_bytes: int, *, is_relay_position: bool = False
) -> ScriptCall:
    """Return a call that reads where a channel stands, what came after a position, and its state.

    Args:
        channel: Relay's channel name.
        since: The position; without one no entries are read.
        retention: Its history size bounds the entries, and its times say which epoch a new channel has.
        max_bytes: Most bytes of entries, with 128 for each besides its data, give or take one entry. Of more than that the
            first part comes.
        is_relay_position: The position is one that this relay has delivered, not a client's claim. If Redis has forgotten
            it, the channel continues in a new epoch.
    """
    epoch, offset = since or ("", 0)
    names = [keys.meta(channel), keys.log(channel), keys.state(channel), keys.channel_keys(channel)[3]]
    values: list[Any] = [epoch, offset, retention.history_size, max_bytes, retention.history_meta_ttl * 1000]
    if is_relay_position and since is not None:
        return ScriptCall(scripts.load("catch_up"), names, [*values, new_epoch()])
    return ScriptCall(scripts.load("read"), names, values)


def history_call(channel: str, since: Position | None, retention: Retention, max_bytes: int) -> ScriptCall:
    """Return a call that reads a page of a channel's history, and nothing of its state.

    Args:
        channel: Relay's channel name.
        since: The position after which it begins; None for the oldest update that is kept.
        retention: Its history size bounds the entries.
        max_bytes: Most bytes of entries, as for `read_call`.
    """
    names = [keys.meta(channel), keys.log(channel)]
    return ScriptCall(scripts.load("history"), names, [*(since or ("", 0)), retention.history_size, max_bytes])


def prepare_call(buckets: Iterable[int], retention: Retention) -> ScriptCall:
    """Return a call that names the memory of some buckets, which is a write.

    Args:
        buckets: Buckets that lie on one node.
        retention: Its times say for how long the names are kept.
    """
    names = [keys.generation(bucket) for bucket in buckets]
    return ScriptCall(scripts.load("prepare"), names, [new_epoch(), retention.history_meta_ttl * 1000])


def read_result(answer: Any) -> PublishResult | BrokerRefused:
    """Return what the publish, ingest, create, heartbeat or mark_stalled script says, or a refusal if that cannot be read."""
    try:
        return publications.publish_result(answer)
    except MALFORMED as error:
        return unreadable("a script", error)


def read_clock(answer: Any) -> int | BrokerRefused:
    """Return the milliseconds that `clock_call` answered with, or a refusal if it cannot be read."""
    return answer if isinstance(answer, int) else unreadable("its clock", TypeError(f"{answer!r:.200}"))


def read_snapshot(channel: str, answer: Any, received_at: float) -> Snapshot | BrokerRefused:
    """Return the look at a channel, or a refusal if it cannot be read: somebody else has written to the channel's keys.

    Args:
        channel: Relay's channel name.
        answer: What the call of `read_call` returned.
        received_at: When, on the monotonic clock.
    """
    try:
        epoch, offset, flat, state, owner = answer
        top = Position(epoch.decode(), int(offset))
        entries = None if flat is None else SharedUpdates(read_entries(channel, top.epoch, flat, received_at))
        state_now = state_update(channel, readable_fields(state), top, received_at)
        owners = owner_of(owner)
        return Snapshot(top, entries, state_now, owners)
    except MALFORMED as error:
        return unreadable(channel, error)


def read_entries(channel: str, epoch: str, flat: Iterable[bytes], received_at: float) -> list[Update]:
    """Return the updates of a history: offset, type, data, offset, ... Raises ValueError and others for another form."""
    return [
        _entry(channel, kind.decode(errors="replace"), data, received_at, Position(epoch, int(offset)))
        for offset, kind, data in zip(*[iter(flat)] * 3, strict=True)
    ]


def _entry(channel: str, kind: str, data: bytes, received_at: float, position: Position) -> Update:
    has_operations = kind in (TASK_DELTA, FAMILY_UPDATE)
    return Update(
        channel, TASK_UPDATE if kind == TASK_DELTA else kind, utf8(data), received_at, position, has_operations
    )


def unreadable(what: str, error: Exception) -> BrokerRefused:
    """Return the refusal for an answer of an unexpected form."""
    return BrokerRefused(f"Redis gave an answer about {what} that cannot be read: {type(error).__name__}: {error}")


def readable_fields(state: Any) -> dict[str, bytes]:
    """Return the fields of a task from the answer of HGETALL, in RESP2's or RESP3's form.

    Fields that no publisher of Relay's can have written, whose names are not UTF-8 or whose values are not JSON, are left out:
    they would break the frame for the clients.

    Raises:
        ValueError: The answer has another form. So does TypeError.
    """
    items: Iterable[tuple[bytes, bytes]]
    items = state.items() if isinstance(state, Mapping) else zip(*[iter(state)] * 2, strict=True)
    fields: dict[str, bytes] = {}
    for name, value in items:
        with suppress(*NOT_JSON):
            _decode_raw(value)
            if not value.isascii():
                value.decode()
            fields[name.decode()] = value
    return fields


def utf8(data: bytes) -> bytes:
    """Return data that may become a part of a text frame: what is not UTF-8, as none of Relay's publishers sends, is U+FFFD."""
    return data if data.isascii() else data.decode(errors="replace").encode()


def state_update(channel: str, fields: dict[str, bytes], top: Position, received_at: float) -> Update | None:
    """Return a channel's state as one update, at the position that it is the state of; None when there is none.

    It has operations only where a value would be taken for one.
    """
    if not fields:
        return None
    literals = {name: literal(value) for name, value in fields.items()}
    return Update(channel, TASK_UPDATE, join_fields(literals), received_at, top, literals != fields)
