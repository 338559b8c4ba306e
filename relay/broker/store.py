"""Durable updates in Redis: the scripts, their arguments, and their answers.

The publish script is in `relay_wire.publications`, for it is the clients' as well.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from relay_wire import keys, publications, scripts
from relay_wire.channels import TASK_PREFIX
from relay_wire.position import new_epoch
from relay_wire.publications import DedupKey, Retention
from relay_wire.scripts import Script

from relay.config import Settings
from relay.core.recovery import Snapshot
from relay.core.taskstate import STALLED, fields_of, object_of, status_of
from relay.core.updates import Position, Update

PUBLISH_SCRIPT = publications.publish_script()
READ_SCRIPT = scripts.load("read")
CLOCK_SCRIPT = Script.of("local now = redis.call('TIME') return now[1] * 1000 + math.floor(now[2] / 1000)")

#: What `Position(...)` does, at half of its cost: there is one for each update.
_position = tuple.__new__

_decode_created = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def retention_of(settings: Settings) -> Retention:
    """The bounds of what is kept, as configured."""
    return Retention(
        settings.history_size,
        settings.history_ttl,
        settings.history_meta_ttl,
        settings.task_state_ttl,
        settings.terminal_state_ttl,
    )


def publish_arguments(
    channel: str, kind: str, data: bytes, retention: Retention, *, sharded: bool = False, dedup: DedupKey | None = None
) -> tuple[list[str], list[Any]]:
    """KEYS and ARGV of the publish script. Raises BadMessage when a task's data is no object or has too many fields."""
    if not channel.startswith(TASK_PREFIX):
        return publications.publish_arguments(channel, kind, data, retention, dedup=dedup, sharded=sharded)
    fields = fields_of(data)
    return publications.publish_arguments(
        channel, kind, data, retention, fields=fields, status=status_of(fields), dedup=dedup, sharded=sharded
    )


def created_arguments(
    data: bytes, retention: Retention, *, sharded: bool = False
) -> tuple[list[str], list[Any]] | None:
    """The arguments that make a ``task_created`` announcement the task's first state, or None when data is none."""
    if b'"task_created"' not in data:
        return None
    try:
        fields = _decode_created(data)
    except (msgspec.DecodeError, RecursionError):
        return None
    info = fields.get("task_info")
    if bytes(fields.get("type", b"")) != b'"task_created"' or info is None or not bytes(info).startswith(b"{"):
        return None
    task = fields_of(bytes(info))
    try:
        task_id = msgspec.json.decode(task.pop("task_id", b""), type=str | int)
    except msgspec.DecodeError:
        return None
    if not task or not 0 < len(str(task_id)) < 256:
        return None
    channel = f"{TASK_PREFIX}{task_id}"
    return publish_arguments(
        channel, "task_update", object_of(task), retention, sharded=sharded, dedup=DedupKey("create", "", 0)
    )


def beat_arguments(task_id: str, retention: Retention, *, sharded: bool = False) -> tuple[list[str], list[Any]]:
    """The arguments for a task's sign of life."""
    dedup = DedupKey("beat", "", 0)
    return publish_arguments(f"{TASK_PREFIX}{task_id}", "task_update", b"{}", retention, sharded=sharded, dedup=dedup)


def stall_arguments(
    task_id: str, last_activity: bytes, retention: Retention, *, sharded: bool = False
) -> tuple[list[str], list[Any]]:
    """The arguments that mark a task as stalled, if its last activity is still the given one."""
    data = object_of({STALLED: b"true"})
    dedup = DedupKey("stall", last_activity.decode(), 0)
    return publish_arguments(f"{TASK_PREFIX}{task_id}", "task_update", data, retention, sharded=sharded, dedup=dedup)


def read_arguments(
    channel: str, since: Position | None, most: int, retention: Retention, *, is_ours: bool = False
) -> tuple[list[str], list[Any]]:
    """KEYS and ARGV of ``read.lua``. is_ours: the position is one that this relay has passed on, not a client's word."""
    epoch, offset = since or ("", 0)
    names = [keys.meta(channel), keys.log(channel), keys.state(channel)]
    return names, [epoch, offset, most, new_epoch(), retention.history_ttl * 1000, int(is_ours)]


def snapshot(channel: str, answer: Sequence[Any], heard: float) -> Snapshot:
    """What ``read.lua`` answered."""
    epoch, top, flat, state = answer
    top = Position(epoch.decode(), int(top))
    entries = None
    if flat is not None:
        entries = [
            Update(channel, kind.decode(), data, heard, Position(top.epoch, int(offset)))
            for offset, kind, data in zip(*[iter(flat)] * 3, strict=True)
        ]
    return Snapshot(top, entries, state_update(channel, pairs(state), top, heard))


def pairs(state: Any) -> dict[str, bytes]:
    """The answer of HGETALL, in RESP2's or RESP3's form."""
    items: Iterable[tuple[bytes, bytes]]
    items = state.items() if isinstance(state, Mapping) else zip(*[iter(state)] * 2, strict=True)
    return {name.decode(errors="replace"): value for name, value in items}


def state_update(channel: str, fields: dict[str, bytes], top: Position, heard: float) -> Update | None:
    """A channel's state as one update, at the position that it is the state of; None when there is none."""
    if not fields:
        return None
    return Update(channel, "task_update", object_of(fields), heard, top)


def live_message(channel: str, message: bytes, heard: float) -> Update:
    """An update as the scripts publish it. Raises ValueError when it is something else."""
    header, _, data = message.partition(b"\n")
    epoch, offset, kind = header.decode().split(" ")
    return Update(channel, kind, data, heard, None if epoch == "-" else _position(Position, (epoch, int(offset))))
