"""The updates of a task together with its children, as `/ws/tasks` and `/events` send them."""

from collections.abc import Iterable

import msgspec
from relay_wire.channels import FAMILY_STATES

from relay.core.families import MayWatch, parent_of
from relay.core.recovery import Snapshot
from relay.core.updates import Position, Update
from relay.protocols.positions import position_json

_json = msgspec.json.Encoder().encode
_decode_update = msgspec.json.Decoder(tuple[str, list[str], msgspec.Raw]).decode
_decode_states = msgspec.json.Decoder(tuple[list[tuple[str, list[str], msgspec.Raw]], bool]).decode


def subscribed(channel: str, position: Position, recovered: bool | None, *, has_state: bool) -> bytes:
    """Return the answer to a subscription to a family; the arguments are those for a task."""
    outcome = {} if recovered is None else {"recovered": recovered}
    names = {"task_id": parent_of(channel), "children": True}
    return _json({"type": "subscribed", **names, "position": position_json(position), **outcome, "state": has_state})


def is_hidden(update: Update, may_watch: MayWatch) -> bool:
    """Whether a client may not watch the task that an update of a family is of."""
    if update.type == FAMILY_STATES:
        return False  # those that it may not watch are left out of it
    task_id, owner, _ = _decode_update(update.data)
    return not may_watch(task_id, frozenset(owner))


def message_of(update: Update, may_watch: MayWatch | None, *, with_position: bool = True) -> bytes:
    """Return an update of a family as a message.

    Args:
        update: An update of one of its tasks, or the states of all of them.
        may_watch: Which tasks the client may watch; None for all. The states of others are left out.
        with_position: The message says where it stands.
    """
    position = {} if update.position is None or not with_position else {"position": position_json(update.position)}
    family = parent_of(update.channel)
    if update.type == FAMILY_STATES:
        tasks, is_truncated = _decode_states(update.data)
        states = [
            {"task_id": task_id, "data": state}
            for task_id, owner, state in tasks
            if may_watch is None or may_watch(task_id, frozenset(owner))
        ]
        more = {"truncated": True} if is_truncated else {}
        return _json({"type": "task_states", "family": family, "tasks": states, **more, **position})
    task_id, _, data = _decode_update(update.data)
    return _json({"type": "task_update", "task_id": task_id, "data": data, "family": family, **position})


class FamilyUpdates:
    """Updates of families, with positions and with operations on fields.

    Args:
        may_watch: Which tasks the one client may watch; None for an encoding that clients share which may watch all.
    """

    whole_values = False

    def __init__(self, may_watch: MayWatch | None = None) -> None:
        self.stateful = may_watch is not None
        self._may_watch = may_watch

    def hides(self, update: Update) -> bool:
        return self._may_watch is not None and is_hidden(update, self._may_watch)

    def encode(self, update: Update) -> bytes:
        return message_of(update, self._may_watch)

    def reset(self, channel: str, snapshot: Snapshot) -> Iterable[bytes]:
        answer = subscribed(channel, snapshot.top, False, has_state=snapshot.state is not None)
        return [answer, *([] if snapshot.state is None else [self.encode(snapshot.state)])]


FAMILY = FamilyUpdates()
