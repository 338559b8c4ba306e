"""Reading a channel's history for a client that subscribes, until the read and the live updates meet."""

from collections.abc import Awaitable, Callable

from relay.core.errors import BrokerUnavailable
from relay.core.outbox import Bounds
from relay.core.recovery import Joining, Snapshot
from relay.core.updates import Position

#: Reads where a channel stands, its state, and what came after a position. Raises BrokerUnavailable or BrokerRefused.
ReadHistory = Callable[[str, Position | None], Awaitable[Snapshot]]

#: Reads of one channel for one client, when live updates overtake each of them.
_ATTEMPTS = 5


class HistoryLoader:
    """Loads history that fits into a client's queue.

    Args:
        read: Reads one channel from Redis.
        bounds: The limits of a client's queue.
    """

    def __init__(self, read: ReadHistory, bounds: Bounds) -> None:
        self._read = read
        self._bounds = bounds

    async def load(self, channel: str, joining: Joining) -> Snapshot:
        """Read a channel's history as often as it takes to be sure that no update is missed.

        A history that would fill more than half of the client's queue counts as not recoverable.

        Raises:
            BrokerUnavailable: Redis is away, or the channel moves faster than its history can be read.
            BrokerRefused: Redis refused the read.
        """
        for _ in range(_ATTEMPTS):
            joining.begin()
            snapshot = await self._read(channel, joining.since)
            if not joining.is_stale:
                break
        else:
            raise BrokerUnavailable("the channel moves faster than its history can be read")
        entries = snapshot.entries
        if entries and (
            len(entries) > self._bounds.messages // 2
            or sum(len(update.data) + 128 for update in entries) > self._bounds.size // 2
        ):
            return snapshot._replace(entries=None)
        return snapshot
