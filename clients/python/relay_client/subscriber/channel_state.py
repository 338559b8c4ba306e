"""One channel that is followed, and the names and positions that a relay accepts."""

from collections.abc import Mapping
from enum import Enum, auto
from typing import Any

from relay_wire.channels import FAMILY_PREFIX, GENERAL, MAX_NAME_LENGTH, TASK_PREFIX
from relay_wire.position import Position

from relay_client.tracing import UpdateSpan, begin_receive

#: Longest epoch and largest offset that a relay accepts.
_MAX_EPOCH, _MAX_OFFSET = 64, 2**53


class Phase(Enum):
    """How far a channel's subscription has come, on the present connection. `ChannelState` has the transitions."""

    UNSUBSCRIBED = auto()
    REQUESTED = auto()
    AWAITING_STATE = auto()
    LIVE = auto()


class ChannelState:
    """One channel: its phase, its position, its folded state.

    What moves a channel from one phase to the next; "-" is a protocol error, and an empty field changes nothing:

    | phase          | request sent | subscribed, nothing follows | subscribed, state follows | task_update | unavailable  |
    |----------------|--------------|-----------------------------|---------------------------|-------------|--------------|
    | UNSUBSCRIBED   | REQUESTED    | (ignored)                   | (ignored)                 | (ignored)   |              |
    | REQUESTED      |              | LIVE                        | AWAITING_STATE            | (ignored)   | UNSUBSCRIBED |
    | AWAITING_STATE |              | LIVE (reset)                | AWAITING_STATE (reset)    | LIVE        |              |
    | LIVE           |              | LIVE (reset)                | AWAITING_STATE (reset)    | LIVE        |              |

    A lost connection leads back to UNSUBSCRIBED from everywhere. From AWAITING_STATE it also discards the position: the state
    that belongs to it has not arrived, so the next connection subscribes without one and receives the state after all.

    Attributes:
        name: ``task:<id>`` or ``general``.
        phase: See the table.
        position: Position of the last update received, to resume from. None if there is none.
        awaited: In AWAITING_STATE, the position of the state that follows.
        fields: The folded state.
        consumed: Position and state of the last update that the consumer has taken.
        trace: The position of an update that is a part of a trace, and its trace context, until it comes.
    """

    __slots__ = ("awaited", "consumed", "fields", "name", "phase", "position", "trace")

    def __init__(self, name: str, position: Position | None = None, fields: Mapping[str, Any] | None = None) -> None:
        self.name = name
        self.phase = Phase.UNSUBSCRIBED
        self.position = position
        self.awaited: Position | None = None
        self.fields: Mapping[str, Any] = fields or {}
        self.consumed = (position, self.fields)
        self.trace: tuple[Position, str] | None = None

    @property
    def is_confirmed(self) -> bool:
        """Whether the relay has confirmed the subscription on this connection."""
        return self.phase in (Phase.AWAITING_STATE, Phase.LIVE)

    @property
    def is_family(self) -> bool:
        """Whether it is a task together with its children; `fields` then has the state of each task by its id."""
        return self.name.startswith(FAMILY_PREFIX)

    def request_fields(self) -> dict[str, str | bool]:
        """Return how a request names the channel."""
        if self.is_family:
            return {"task_id": self.name[len(FAMILY_PREFIX) :], "children": True}
        if self.name.startswith(TASK_PREFIX):
            return {"task_id": self.name[len(TASK_PREFIX) :]}
        return {"channel": self.name}

    def confirm(self, position: Position, *, state_follows: bool, is_recovered: bool) -> None:
        """Take a ``subscribed`` message. Unless what came after our position was recovered, the state starts empty."""
        if is_recovered:
            self.phase = Phase.LIVE
            return
        self.fields = {}
        if state_follows:
            self.phase, self.awaited = Phase.AWAITING_STATE, position
        else:
            self.phase, self.awaited, self.position = Phase.LIVE, None, position

    def disconnect(self) -> None:
        """Take note that the connection is lost."""
        self.trace = None
        if self.phase is Phase.AWAITING_STATE:
            self.position = self.awaited = None
        self.phase = Phase.UNSUBSCRIBED

    def begin_receive(self) -> UpdateSpan | None:
        """Begin the span of the update that has come, which may be merged of several, if one of them is a part of a trace."""
        if self.trace is None or self.position is None:
            return None
        awaited, traceparent = self.trace
        if self.position.epoch == awaited.epoch and self.position.offset < awaited.offset:
            return None
        self.trace = None
        return begin_receive(self.name, traceparent) if self.position.epoch == awaited.epoch else None


def task_channel(task_id: str) -> str:
    """Return the channel of a task. Raises ValueError if it cannot be a task id."""
    if not isinstance(task_id, str) or not 1 <= len(task_id) <= MAX_NAME_LENGTH:
        raise ValueError(f"a task id is a text of 1 to {MAX_NAME_LENGTH} characters, not {str(task_id)[:80]!r}")
    return TASK_PREFIX + task_id


def checked_name(name: str) -> str:
    """Return a channel's name. Raises ValueError if it is not one."""
    if name.startswith(FAMILY_PREFIX) and 1 <= len(name) - len(FAMILY_PREFIX) <= MAX_NAME_LENGTH:
        return name
    if name == GENERAL or (name.startswith(TASK_PREFIX) and 1 <= len(name) - len(TASK_PREFIX) <= MAX_NAME_LENGTH):
        return name
    raise ValueError(f"the keys of positions and states are channels, 'general' or 'task:ID', not {name[:80]!r}")


def checked_position(name: str, position: tuple[str, int]) -> Position:
    """Return a position that the caller has stored. Raises ValueError if no relay can have issued it."""
    epoch, offset = position
    if not (isinstance(epoch, str) and 1 <= len(epoch) <= _MAX_EPOCH):
        raise ValueError(
            f"no relay has issued the epoch in the position of {name}; leave the position out to start afresh"
        )
    if not isinstance(offset, int) or not 0 <= offset <= _MAX_OFFSET:
        raise ValueError(
            f"no relay has issued the offset in the position of {name}; leave the position out to start afresh"
        )
    return Position(epoch, offset)


def read_name(message: Mapping[str, Any]) -> str:
    """Return the channel of a relay's message. Raises KeyError if it names none."""
    if "family" in message:
        return FAMILY_PREFIX + str(message["family"])
    if "task_id" in message and message.get("children") is True:
        return FAMILY_PREFIX + str(message["task_id"])
    if "task_id" in message:
        return TASK_PREFIX + str(message["task_id"])
    return str(message["channel"])


def read_position(message: Mapping[str, Any]) -> Position | None:
    """Return the position in a relay's message, None if there is none. Raises KeyError, TypeError or ValueError if it is
    malformed."""
    position = message.get("position")
    return None if position is None else Position(str(position["epoch"]), int(position["offset"]))
