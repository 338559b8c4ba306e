"""What was read of channels' histories a moment ago, so that clients that return together share one read.

A client that resumes needs what came after its position, up to where its channel's sequence is; what follows, it gets live. As
long as the sequence is unbroken, that is what a read has brought and what the sequence has delivered since the read was asked
for.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Protocol

from relay.core.families import is_family
from relay.core.recovery import ChannelSequence, Snapshot
from relay.core.shared_updates import SharedUpdates
from relay.core.updates import Position, Update

#: Seconds for which a history is shared: as long as clients need that return at once. A history that was removed, or has passed
#: its time, may be given out for so long.
MAX_AGE = 2.0

#: Bytes of the updates of one channel, and of all of them together. Each update counts `_OVERHEAD` besides its data.
MAX_BYTES = 256 * 1024
TOTAL_BYTES = 8 * 1024 * 1024
_OVERHEAD = 128

#: What is encoded may take so many times what the updates do, or is encoded again.
_ENCODED = 8

#: Positions of one channel for which it is kept what clients share: a client may resume from one after the other.
_MAX_SHARED = 256


class RecentHistory:
    """The recent history of one channel.

    =========  ================================================  =========  =============================================
    state      event                                             next       result
    =========  ================================================  =========  =============================================
    (start)                                                      RECORDING
    RECORDING  an update is delivered                            RECORDING  it is recorded
    RECORDING  a position is asked for                           RECORDING  none: history has to be read
    RECORDING  a read that reaches what is recorded              KNOWN      its updates stand before the recorded ones
    KNOWN      an update is delivered                            KNOWN      it is recorded
    KNOWN      a position is asked for, within what is known     KNOWN      the updates after it
    KNOWN      another position is asked for                     KNOWN      none: history has to be read
    KNOWN      a read from an earlier position                   KNOWN      its updates stand before those that are known
    any        an update that is not the next one; too many      OVER       all updates are forgotten
               bytes; too old
    OVER       anything                                          OVER       none
    =========  ================================================  =========  =============================================

    Args:
        top: Where the channel's sequence is.
        now: The time, in seconds of the monotonic clock.

    Attributes:
        top: Where the sequence is.
        started_at: When it was made. All of it was read or delivered later.
        size: Bytes of its updates.
        is_over: Nothing is known, now or later.
    """

    __slots__ = ("_after", "_is_known", "_owner", "_shared", "_updates", "is_over", "size", "started_at", "top")

    def __init__(self, top: Position, now: float) -> None:
        self.started_at = now
        self.size = 0
        self.is_over = False
        self._is_known = False
        self._owner: frozenset[str] = frozenset()
        #: The updates are those from after the one position up to the other.
        self._after = self.top = top
        self._updates: list[Update] = []
        #: What clients with equal positions share, and its bytes, by the offset of the position.
        self._shared: dict[int, tuple[SharedUpdates, int]] = {}

    def end(self) -> None:
        """Forget everything, for good."""
        self.is_over = True
        self.size = 0
        self._updates.clear()
        self._shared.clear()

    def record(self, update: Update) -> None:
        """The sequence has delivered an update."""
        position, top = update.position, self.top
        if position is None or self.is_over:
            return
        if position != (top.epoch, top.offset + 1):
            self.end()
            return
        self.top = position
        self._updates.append(update)
        self._shared.clear()
        self._grow([update])

    def learn(self, since: Position, snapshot: Snapshot) -> None:
        """Take what was read after a position, all of it up to the snapshot's top."""
        entries, after = snapshot.entries, self._after
        is_next = snapshot.top.epoch == since.epoch == after.epoch and snapshot.top.offset >= after.offset
        if self.is_over or entries is None or not is_next or (self._is_known and since.offset >= after.offset):
            return
        if since.offset < after.offset:
            earlier = entries[: after.offset - since.offset]
            self._updates[:0] = earlier
            self._after = since
            self._shared.clear()
            self._grow(earlier)
        self._is_known = not self.is_over
        self._owner = snapshot.owner

    def snapshot(self, since: Position) -> Snapshot | None:
        """Return what came after a position, up to where the sequence is; None where that is not known."""
        after, top = self._after, self.top
        if (
            not self._is_known
            or self.is_over
            or since.epoch != top.epoch
            or not after.offset <= since.offset <= top.offset
        ):
            return None
        shared = self._shared.get(since.offset)
        if shared is None:
            if len(self._shared) >= _MAX_SHARED or self._shared_size() > _ENCODED * self.size:
                self._shared.clear()
            updates = SharedUpdates(self._updates[since.offset - after.offset :])
            shared = self._shared[since.offset] = updates, _size_of(updates)
        return Snapshot(top, shared[0], None, self._owner)

    def _shared_size(self) -> int:
        return sum([len(updates.encodings) * size for updates, size in self._shared.values()])

    def _grow(self, updates: Sequence[Update]) -> None:
        self.size += _size_of(updates)
        if self.size > MAX_BYTES:
            self.end()


def _size_of(updates: Sequence[Update]) -> int:
    return sum([len(update.data) + _OVERHEAD for update in updates])


class Channel(Protocol):
    """A channel of the hub.

    Attributes:
        sequence: Lets its updates pass.
        recent: Its recent history, which records what it delivers.
    """

    sequence: ChannelSequence
    recent: RecentHistory | None


class RecentHistories:
    """The recent histories of all channels but those of families: bounded in age, and in bytes together.

    Args:
        channels: The channels that there are.
    """

    def __init__(self, channels: Mapping[str, Channel]) -> None:
        self._channels = channels
        #: Those that may not be over, the oldest first.
        self._all: deque[RecentHistory] = deque()
        #: Their bytes, without what was recorded since the last look at all of them.
        self._total = 0

    def find(self, name: str, since: Position, now: float) -> Snapshot | None:
        """Return what came after a position; None where history has to be read, and then what is delivered is recorded.

        Args:
            name: The channel.
            since: The position.
            now: The time, in seconds of the monotonic clock.
        """
        recent = self._recent(name, now)
        return None if recent is None else recent.snapshot(since)

    def learn(self, name: str, since: Position, snapshot: Snapshot, now: float) -> None:
        """Take what was read after a position, for clients that return soon. For the arguments see `find`."""
        if snapshot.entries is None or snapshot.is_partial:
            return
        recent = self._recent(name, now)
        if recent is not None:
            before = recent.size
            recent.learn(since, snapshot)
            self._total += recent.size - before
            self._drop_oldest(now)

    def _recent(self, name: str, now: float) -> RecentHistory | None:
        channel = self._channels.get(name)
        if channel is None or is_family(name):
            return None
        last = channel.sequence.last
        if last is None or not channel.sequence.is_live:
            return None
        recent = channel.recent
        if recent is None or recent.is_over or recent.top != last or now - recent.started_at > MAX_AGE:
            if recent is not None:
                recent.end()
            recent = channel.recent = RecentHistory(last, now)
            self._all.append(recent)
        return recent

    def expire(self, now: float) -> int:
        """Forget what is too old, and the oldest of what is too much; return how many there are. Call it now and then."""
        self._total = sum(recent.size for recent in self._all)
        self._drop_oldest(now)
        return len(self._all)

    def _drop_oldest(self, now: float) -> None:
        while self._all and (self._total > TOTAL_BYTES or now - self._all[0].started_at > MAX_AGE):
            oldest = self._all.popleft()
            self._total -= oldest.size
            oldest.end()
