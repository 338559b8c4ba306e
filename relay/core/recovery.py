"""Recovery without gaps: how a channel's live updates and what Redis has kept become one unbroken sequence.

With E for an epoch, the updates of a channel are E:1, E:2, ... There are no missing offsets within an epoch; a new epoch means
that Redis lost the channel's history. `ChannelSequence` keeps the order of one channel in this process, `RecoveryBuffer` keeps
what is live while one subscription reads history.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from relay.core.updates import Position, Update


class Snapshot(NamedTuple):
    """One consistent look at a channel.

    Attributes:
        top: Where the channel stands.
        entries: The updates right after the position that was asked about, without a gap: all up to `top`, or only the first of
            them where a limit in bytes was reached. None if the first is not kept any more, or the position is of another
            epoch.
        state: The folded state at `top`, or None where there is none.
        owner: The users and groups that own the task; empty where it has no owner or does not exist.
    """

    top: Position
    entries: Sequence[Update] | None
    state: Update | None
    owner: frozenset[str] = frozenset()

    @property
    def is_partial(self) -> bool:
        """There is more history between the entries and `top`."""
        entries = self.entries
        if not entries:
            return False
        last = entries[-1].position
        return last is not None and last.offset < self.top.offset


class SubscribeResult(NamedTuple):
    """The first answer to a new subscription.

    Attributes:
        position: Where the channel stood.
        recovered: Whether all updates after the client's position follow; None if the client gave no position.
        updates: The first of the missed updates if recovered, else the folded state, if there is one.
    """

    position: Position
    recovered: bool | None
    updates: Sequence[Update]

    @property
    def has_state(self) -> bool:
        """Exactly one update with the folded state follows."""
        return not self.recovered and bool(self.updates)


@dataclass(frozen=True, slots=True)
class Reset:
    """Updates were lost: subscribers get a reset and continue from the snapshot."""

    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class StateReached:
    """All updates that are part of the snapshot's state were delivered: subscribers that lack the state can get it here."""

    snapshot: Snapshot


class ChannelSequence:
    """Lets the updates of one channel pass in an unbroken sequence, and holds them back where there is a gap.

    ==========  ============================================  ==========  ==========================================
    state       event                                         next        result
    ==========  ============================================  ==========  ==========================================
    held        update                                        held        held back (the newest MAX_HELD of them)
    held        merge of a complete snapshot                  live, held  what was missed, then what was held back
    held        merge of a partial snapshot                   held        the first part of what was missed
    live        the next offset                               live        delivered
    live        an offset that was delivered                  live        dropped
    live        an offset beyond the next, or a new epoch     held        held back; a snapshot is needed
    live        merge of a snapshot                           live, held  what is newer than what was delivered
    any         merge of another epoch, with a state          live, held  a reset to the snapshot
    any         merge of another epoch, without a state       held        a reset to the start of that epoch
    any         disconnect                                    held        what was held back is dropped
    ==========  ============================================  ==========  ==========================================

    "Live, held": if what was held back has a gap itself, the sequence is held again and another snapshot is needed.

    Attributes:
        last: Position of the last update that was delivered; None before the first snapshot.
        is_live: Updates pass.
    """

    #: Updates held back at most, and their bytes. Those beyond it are in the snapshot that is read later.
    MAX_HELD = 4096
    MAX_HELD_BYTES = 4 * 1024 * 1024

    __slots__ = ("_held", "_held_bytes", "_stale_count", "is_live", "last")

    def __init__(self) -> None:
        self.last: Position | None = None
        self.is_live = False
        self._held: list[Update] = []
        self._held_bytes = 0  # since the last were let go
        # How many of them came before the awaited read began.
        self._stale_count = 0

    def admit(self, update: Update) -> bool:
        """Take a live update; return whether it is to be delivered now. `Hub.on_publication` has the common case inline."""
        if not self.is_live:
            self._held.append(update)
            self._held_bytes += len(update.data)
            if len(self._held) > self.MAX_HELD or self._held_bytes > self.MAX_HELD_BYTES:
                del self._held[: (len(self._held) + 1) // 2]
                self._held_bytes = sum(len(held.data) for held in self._held)
                self._stale_count = 0
            return False
        position, last = update.position, self.last
        assert position is not None
        assert last is not None
        if position.epoch == last.epoch:
            if position.offset == last.offset + 1:
                self.last = position
                return True
            if position.offset <= last.offset:
                return False
        self.is_live = False
        self._held.append(update)
        self._held_bytes = len(update.data)
        self._stale_count = 1
        return False

    def disconnect(self) -> None:
        """The connection that brought live updates is gone: there may be a gap before the next one."""
        self.is_live = False
        self._held.clear()
        self._held_bytes = 0
        self._stale_count = 0

    def merge(self, snapshot: Snapshot) -> list[Update | Reset | StateReached]:
        """Merge a snapshot, read after `last` as it was when the read began, with what was delivered and held back since.

        Args:
            snapshot: The answer to the read. It may be older than what was delivered meanwhile.

        Returns:
            What is to be delivered, in order, with StateReached where the snapshot's state belongs. If the sequence is not live
            afterwards, another snapshot is needed.
        """
        top, last = snapshot.top, self.last
        is_newer = last is None or top.epoch != last.epoch or top.offset >= last.offset
        out: list[Update | Reset | StateReached] = []
        if last is None:
            self.last = top
        elif top.epoch == last.epoch and (snapshot.entries is not None or (self.is_live and not is_newer)):
            missed = [update for update in snapshot.entries or () if update.position and update.position > last]
            out += missed
            if snapshot.is_partial:
                self._hold_from(missed[-1].position if missed else None)
                return out
            self.last = max(last, top)
        elif not (self.is_live and top == last):
            if top.epoch != last.epoch and snapshot.state is None and top.offset > 0:
                # No state stands for the updates of the new epoch: read them, as far as they are kept.
                start = Position(top.epoch, 0)
                out.append(Reset(snapshot._replace(top=start)))
                self._hold_from(start)
                return out
            out.append(Reset(snapshot))
            self.last = top
        if is_newer:
            out.append(StateReached(snapshot))
        out += self._release_held(top.epoch)
        return out

    def _hold_from(self, delivered: Position | None) -> None:
        """Only a part of what was missed came: hold updates back until the rest is read."""
        if delivered is not None:
            self.last = delivered
        elif self.is_live:
            return  # it has come further by itself meanwhile
        self.is_live = False
        self._stale_count = len(self._held)

    def _release_held(self, epoch: str) -> list[Update]:
        # What came before the read began and is of another epoch belongs to one that has ended.
        old, held = self._held[: self._stale_count], self._held[self._stale_count :]
        held[:0] = [update for update in old if update.position is not None and update.position.epoch == epoch]
        self._held = []
        self._held_bytes = 0
        self.is_live = True
        released = [update for update in held if self.admit(update)]
        self._stale_count = len(self._held)
        return released


class RecoveryBuffer:
    """Keeps the live updates of a channel while a subscription reads its history.

    Attributes:
        is_stale: It overflowed, or the sequence was reset, since `restart`: history has to be read again.
    """

    #: Updates kept at most, and their bytes.
    MAX_UPDATES = 4096
    MAX_BYTES = 4 * 1024 * 1024

    __slots__ = ("_size", "_updates", "is_stale")

    def __init__(self) -> None:
        self._updates: list[Update] = []
        self._size = 0
        self.is_stale = False

    def restart(self) -> None:
        """History is about to be read. Drops what the read will bring; unpersisted updates, which it will not, stay."""
        self._updates = [update for update in self._updates if update.position is None]
        self._size = sum(len(update.data) for update in self._updates)
        self.is_stale = False

    def append(self, update: Update) -> None:
        """Add a live update; at the limit the buffer becomes stale instead."""
        if len(self._updates) < self.MAX_UPDATES and self._size < self.MAX_BYTES:
            self._updates.append(update)
            self._size += len(update.data)
        else:
            self.is_stale = True

    def take_all(self) -> list[Update]:
        """Remove and return everything, in order."""
        updates, self._updates = self._updates, []
        self._size = 0
        return updates

    def take(self, after: Position) -> list[Update]:
        """Remove and return what follows a position, in order, with the unpersisted updates among it."""
        # What is of another epoch came before the read: when a newer epoch begins, the buffer becomes stale.
        return [update for update in self.take_all() if update.position is None or _follows(after, update.position)]


def _follows(first: Position, second: Position) -> bool:
    return second.epoch == first.epoch and second.offset > first.offset
