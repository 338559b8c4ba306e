"""The updates that wait for a consumer: in order, bounded, and without those of channels that are no longer followed.

The connection puts, consumers pop. Both may be in different threads.
"""

from collections import deque
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any, NamedTuple

from relay_wire.position import Position

from relay_client.subscriber.channel_state import ChannelState
from relay_client.subscriber.update import Update
from relay_client.tracing import UpdateSpan


class _Entry(NamedTuple):
    """An update; or, without one, a position that the channel has reached without an update."""

    channel: ChannelState
    update: Update | None
    position: Position | None
    state: Mapping[str, Any]
    span: UpdateSpan | None = None


class UpdateQueue:
    """A bounded queue. It never refuses: the connection asks `is_full` before it reads more.

    Args:
        max_updates: Updates at which it is full.
        max_size: Characters of their messages at which it is full.
    """

    def __init__(self, max_updates: int, max_size: int) -> None:
        self._max_updates = max_updates
        self._max_size = max_size
        self._size = 0
        self._entries: deque[_Entry] = deque()
        # Not a Condition: only a plain lock is released whatever a signal handler raises.
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def is_full(self) -> bool:
        """Whether nothing more should be read until the consumer has taken some."""
        return len(self._entries) >= self._max_updates or self._size >= self._max_size

    def put(self, channel: ChannelState, update: Update, span: UpdateSpan | None = None) -> None:
        """Add an update, with which its channel reaches the update's position; its span ends when it is taken."""
        position = None if update.is_reset else update.position
        with self._lock:
            state = channel.fields if channel.is_family else update.state
            self._entries.append(_Entry(channel, update, position, state, span))
            self._size += len(update.text)

    def put_position(self, channel: ChannelState) -> None:
        """Add the channel's position, which it has reached without an update."""
        with self._lock:
            self._entries.append(_Entry(channel, None, channel.position, channel.fields))

    def pop(self, is_current: Callable[[ChannelState], bool]) -> Update | None:
        """Return the next update, None if there is none. Its channel's `consumed` moves on with it."""
        with self._lock:
            while self._entries:
                channel, update, position, state, span = self._entries.popleft()
                if update is not None:
                    self._size -= len(update.text)
                if not is_current(channel):
                    continue
                if update is None or not update.is_reset:
                    channel.consumed = (position or channel.consumed[0], state)
                if update is not None:
                    if span is not None:
                        span.end()
                    return update
        return None
