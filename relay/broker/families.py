"""Reads of families: what came after a position, or the states of a task and its children, in one look."""

from typing import Any

import msgspec
from relay_wire import keys, scripts
from relay_wire.channels import FAMILY_STATES, TASK_PREFIX
from relay_wire.creation import owner_of
from relay_wire.position import new_epoch
from relay_wire.publications import Retention, ScriptCall

from relay.broker.script_calls import MALFORMED, read_entries, readable_fields, unreadable
from relay.core.errors import BrokerRefused
from relay.core.families import MAX_CHILDREN, MAX_STATES_BYTES, MIN_TTL, parent_of
from relay.core.field_operations import literal
from relay.core.recovery import Snapshot
from relay.core.shared_updates import SharedUpdates
from relay.core.updates import Position, Update

_json = msgspec.json.Encoder().encode


def read_call(
    channel: str, since: Position | None, retention: Retention, max_bytes: int, *, is_relay_position: bool = False
) -> ScriptCall:
    """Return a call that reads a family, and has Redis keep it from here on; for the arguments see `script_calls.read_call`."""
    epoch, offset = since or ("", 0)
    parent_id = parent_of(channel)
    ttl_ms = max(retention.history_ttl, MIN_TTL) * 1000
    names = [keys.meta(channel), keys.log(channel), keys.meta(TASK_PREFIX + parent_id)]
    limits = [retention.history_size, max_bytes, ttl_ms]
    values = [
        epoch,
        offset,
        *limits,
        new_epoch(),
        parent_id,
        MAX_CHILDREN,
        MAX_STATES_BYTES,
        "1" if is_relay_position else "",
    ]
    return ScriptCall(scripts.load("read_family"), names, values)


def read_snapshot(channel: str, answer: Any, received_at: float) -> Snapshot | BrokerRefused:
    """Return the look at a family, or a refusal if it cannot be read; for the arguments see `script_calls.read_snapshot`."""
    try:
        epoch, offset, flat, states, owner, is_truncated = answer
        top = Position(epoch.decode(), int(offset))
        if flat is not None:
            return Snapshot(
                top, SharedUpdates(read_entries(channel, top.epoch, flat, received_at)), None, owner_of(owner)
            )
        tasks = [
            (
                task_id.decode(),
                sorted(owner_of(task_owner)),
                {name: msgspec.Raw(literal(value)) for name, value in fields.items()},
            )
            for task_id, task_owner, state in states
            if (fields := readable_fields(state))
        ]
        update = Update(channel, FAMILY_STATES, _json([tasks, bool(is_truncated)]), received_at, top, True)
        return Snapshot(top, None, update, owner_of(owner))
    except MALFORMED as error:
        return unreadable(channel, error)
