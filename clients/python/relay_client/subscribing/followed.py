"""One channel that a subscriber follows, and the names and positions that a relay knows."""

from collections.abc import Mapping
from typing import Any

from relay_wire.channels import GENERAL, TASK_PREFIX
from relay_wire.position import Position

#: What a relay takes: longest task id and epoch, largest offset.
_MAX_TASK_ID, _MAX_EPOCH, _MAX_OFFSET = 255, 64, 2**53


class Followed:
    """A channel, and how far its updates have come.

    name:        ``task:<id>`` or ``general``
    position:    of the last update received, to resume from
    top:         where the relay says that the channel stands, as long as its state may still come; else None
    fields:      the folded state
    passed_on:   position and state of the last update that the consumer has got
    is_followed: the relay has confirmed it, on this connection
    """

    __slots__ = ("fields", "is_followed", "name", "passed_on", "position", "top")

    def __init__(self, name: str, position: Position | None = None, fields: Mapping[str, Any] | None = None) -> None:
        self.name = name
        self.position = position
        self.top: Position | None = None
        self.fields: Mapping[str, Any] = fields or {}
        self.passed_on = (position, self.fields)
        self.is_followed = False

    @property
    def words(self) -> dict[str, str]:
        """What the relay calls it."""
        if self.name.startswith(TASK_PREFIX):
            return {"task_id": self.name[len(TASK_PREFIX) :]}
        return {"channel": self.name}


def task_channel(task_id: str) -> str:
    """The channel of a task. Raises ValueError for what cannot be a task id."""
    if not isinstance(task_id, str) or not 1 <= len(task_id) <= _MAX_TASK_ID:
        raise ValueError(f"a task id is a text of 1 to {_MAX_TASK_ID} characters, not {str(task_id)[:80]!r}")
    return TASK_PREFIX + task_id


def checked_name(name: str) -> str:
    """A channel's name. Raises ValueError when it is not one."""
    if name == GENERAL or (name.startswith(TASK_PREFIX) and 1 <= len(name) - len(TASK_PREFIX) <= _MAX_TASK_ID):
        return name
    raise ValueError(f"positions and states are by channel, 'general' or 'task:ID', not by {name[:80]!r}")


def checked_position(name: str, position: tuple[str, int]) -> Position:
    """A position that came from outside. Raises ValueError when no relay can have given it out."""
    epoch, offset = position
    if not (isinstance(epoch, str) and 1 <= len(epoch) <= _MAX_EPOCH):
        raise ValueError(f"the position of {name} has an epoch that was never given out; leave it out to start anew")
    if not isinstance(offset, int) or not 0 <= offset <= _MAX_OFFSET:
        raise ValueError(f"the position of {name} has an offset that was never given out; leave it out to start anew")
    return Position(epoch, offset)


def name_in(message: Mapping[str, Any]) -> str:
    """The channel that a relay's message is about. Raises KeyError when it names none."""
    if "task_id" in message:
        return TASK_PREFIX + str(message["task_id"])
    return str(message["channel"])


def position_in(message: Mapping[str, Any]) -> Position | None:
    """The position in a relay's message. Raises KeyError, TypeError or ValueError when there is one that is none."""
    position = message.get("position")
    return None if position is None else Position(str(position["epoch"]), int(position["offset"]))
