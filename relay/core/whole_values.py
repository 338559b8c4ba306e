"""Whole values for clients that do not take deltas: while a field grows, they get its value as it is in Redis now and then.

A relay does not keep the values. It withholds the updates of such a client's task from the first with an operation on, notes
which fields they change, and reads the state. What it then sends has the present values of these fields, at the state's
position.
"""

from math import inf

from relay.core.errors import BadMessage
from relay.core.field_operations import without_operations
from relay.core.recovery import Snapshot
from relay.core.task_state import fields_of, is_terminal, join_fields
from relay.core.updates import Position, Update

#: Seconds between two readings of whole values, at least and at most.
MIN_INTERVAL, MAX_INTERVAL = 0.1, 5.0

#: Bytes per second of one task's values, beyond which they are read less often.
BYTES_PER_SECOND = 256 * 1024


class WholeValuePace:
    """When each channel is read for whole values: the first time soon, then as often as the size of its values allows.

    A text that is sent as a whole again and again costs more the longer it is. With a bound in bytes per second it does not.

    Attributes:
        next_at: When something is due, in seconds of the monotonic clock.
    """

    def __init__(self) -> None:
        self._due: dict[str, float] = {}
        self._not_before: dict[str, float] = {}
        self.next_at = inf

    def note(self, channel: str, now: float, *, is_urgent: bool) -> None:
        """Note that a channel's values have changed; if it is urgent, it is due at once."""
        at = now if is_urgent else max(now + MIN_INTERVAL, self._not_before.get(channel, -inf))
        self._due[channel] = min(at, self._due.get(channel, inf))
        self.next_at = min(self.next_at, at)

    def on_read(self, channel: str, size: int, now: float) -> None:
        """Note that a channel's values of so many bytes were read."""
        if channel in self._not_before or channel in self._due:
            self._not_before[channel] = now + min(max(size / BYTES_PER_SECOND, MIN_INTERVAL), MAX_INTERVAL)

    def take_due(self, now: float) -> list[str]:
        """Remove and return the channels that are due."""
        due = [channel for channel, at in self._due.items() if at <= now]
        for channel in due:
            del self._due[channel]
            self._not_before[channel] = now
        self.next_at = min(self._due.values(), default=inf)
        return due

    def forget(self, channel: str) -> None:
        """Note that nobody follows a channel any more."""
        self._due.pop(channel, None)
        self._not_before.pop(channel, None)


class WithheldUpdates:
    """The updates of one channel that some clients have not got, and what is to be sent instead.

    Attributes:
        names: The fields that they change.
        ending_names: The fields of the last of them that ends the task.
        last: The position of the last of them; None when there are none.
    """

    __slots__ = ("ending_names", "last", "names")

    def __init__(self) -> None:
        self.names: dict[str, None] = {}
        self.ending_names: frozenset[str] = frozenset()
        self.last: Position | None = None

    def __bool__(self) -> bool:
        return self.last is not None

    def add(self, update: Update) -> bool:
        """Withhold an update that has a position. Return whether it ends the task, so that its clients should not wait."""
        self.last = update.position
        try:
            names = dict.fromkeys(fields_of(update.data))
        except BadMessage:  # Redis would not have taken it
            return False
        self.names |= names
        is_ending = is_terminal(update.data)
        if is_ending:
            self.ending_names = frozenset(names)
        return is_ending

    def merge(self, other: "WithheldUpdates") -> None:
        """Withhold what others withhold as well."""
        self.names |= other.names
        self.ending_names |= other.ending_names
        if self.last is None or (other.last is not None and other.last > self.last):
            self.last = other.last

    def clear(self) -> None:
        """Forget all of them: their clients got a state that is newer, or are to get it."""
        self.names = {}
        self.ending_names = frozenset()
        self.last = None

    def updates_from(self, snapshot: Snapshot) -> list[Update]:
        """Return what is sent instead of those that are in a snapshot's state: one update, and the end of the task by itself.

        Without the end the first one has the position; else only the end has, since both are of one state.
        """
        state = snapshot.state
        if state is None:
            return []
        values = without_operations(fields_of(state.data))
        parts = [
            {name: values[name] for name in names if name in values}
            for names in ([name for name in self.names if name not in self.ending_names], self.ending_names)
        ]
        parts = [part for part in parts if part]
        positions = [None] * (len(parts) - 1) + [snapshot.top]
        return [
            Update(state.channel, state.type, join_fields(part), state.received_at, position)
            for part, position in zip(parts, positions, strict=False)
        ]


def plain_data(update: Update) -> bytes:
    """Return the data of an update for a client that knows no operations: values that were marked as none are plain again."""
    return join_fields(without_operations(fields_of(update.data))) if update.has_operations else update.data
