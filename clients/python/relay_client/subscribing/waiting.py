"""The updates that wait for a consumer: in order, bounded, and those of channels that it has left are skipped."""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from relay_wire.position import Position

from relay_client.subscribing.followed import Followed
from relay_client.subscribing.updates import Update


class _Entry(NamedTuple):
    """Without an update it is a position that has become certain."""

    channel: Followed
    update: Update | None
    position: Position | None
    state: Mapping[str, Any]


class Waiting:
    """A queue.

    most, most_size: updates, and characters of their messages, at which it is full. What comes all the same is not refused:
                     whoever fills it asks before
    """

    def __init__(self, most: int, most_size: int) -> None:
        self._most = most
        self._most_size = most_size
        self._size = 0
        self._entries: deque[_Entry] = deque()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def is_full(self) -> bool:
        """Nothing more is to be read before some were taken."""
        return len(self._entries) >= self._most or self._size >= self._most_size

    def put(self, channel: Followed, update: Update) -> None:
        """An update, with which the channel stands at its position."""
        position = None if update.is_reset else update.position
        self._entries.append(_Entry(channel, update, position, update.state))
        self._size += len(update.text)

    def put_certain(self, channel: Followed) -> None:
        """The channel stands at its position, and that was no update."""
        self._entries.append(_Entry(channel, None, channel.position, channel.fields))

    def pop(self, is_current: Callable[[Followed], bool]) -> Update | None:
        """The next update, None when there is none. What it says of its channel counts as passed on from here."""
        while self._entries:
            channel, update, position, state = self._entries.popleft()
            if update is not None:
                self._size -= len(update.text)
            if not is_current(channel):
                continue
            if update is None or not update.is_reset:
                channel.passed_on = (position or channel.passed_on[0], state)
            if update is not None:
                return update
        return None
