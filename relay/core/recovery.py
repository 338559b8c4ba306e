"""Resuming without holes: how the live feed of a channel and what Redis has kept become one line of updates.

Two state machines, fed by whoever does the I/O:

- `Feed`, one for each channel that this process watches. It passes on an unbroken run of offsets. What it has passed on
  already it drops; where it sees a hole, or was cut off, it holds back what is live until it is given a `Snapshot`.
- `Joining`, one for each subscription that begins: it gathers what is live while the past is read, and then says what
  the client gets, and from which offset on it follows the others.

With E for an epoch, a channel's line is E:1, E:2, ...; offsets have no holes within an epoch, and a new epoch means that the
history was lost.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from relay.core.updates import Position, Update


class Snapshot(NamedTuple):
    """One look at a channel: where it stands, its state there, and what came after the position that was asked about.

    ``entries`` is None when those are not all there any more (or the position is of another epoch): never a part of them.
    ``state`` is the folded update that brings a newcomer up to date, or None where there is none.
    """

    top: Position
    entries: Sequence[Update] | None
    state: Update | None


@dataclass(frozen=True, slots=True)
class Reset:
    """The line of a channel is broken: its listeners are told, and go on from the snapshot."""

    snapshot: Snapshot


class Feed:
    """What one channel has passed on, and what is held back.

    ``last`` is the position of the last update passed on, None before the first snapshot. ``is_live`` is False from the start,
    from `cut_off`, and from a hole, until `catch_up`.
    """

    #: Updates held back while catching up; when more come, the snapshot that is asked for then has them.
    MAX_HELD = 4096

    __slots__ = ("_held", "_older", "is_live", "last")

    def __init__(self) -> None:
        self.last: Position | None = None
        self.is_live = False
        self._held: list[Update] = []
        # So many of them were there before the read began that is awaited.
        self._older = 0

    def is_next(self, position: Position) -> bool:
        """Whether this is what follows, so that it is to be passed on now, and counts as passed on. `hear` says the same, and
        what to do otherwise; nearly always it is the next, and this costs less."""
        last = self.last
        if last is not None and self.is_live and position[1] == last[1] + 1 and position[0] == last[0]:
            self.last = position
            return True
        return False

    def hear(self, update: Update) -> Update | None:
        """An update from the live feed: what is to be passed on now. Look at `is_live` afterwards."""
        if not self.is_live:
            self._held.append(update)
            if len(self._held) > self.MAX_HELD:
                del self._held[: -self.MAX_HELD // 2]
                self._older = 0
            return None
        position, last = update.position, self.last
        assert position is not None
        assert last is not None
        if position.epoch == last.epoch:
            if position.offset == last.offset + 1:
                self.last = position
                return update
            if position.offset <= last.offset:
                return None
        self.is_live = False
        self._held.append(update)
        self._older = 1
        return None

    def cut_off(self) -> None:
        """The live feed broke: whatever comes next may have a hole before it."""
        self.is_live = False
        self._held.clear()
        self._older = 0

    def catch_up(self, snapshot: Snapshot) -> list[Update | Reset]:
        """What was read after `last`, as it was when the read began: what is to be passed on, in order. The feed is live
        afterwards, or the snapshot was already old when it came, and another one is needed."""
        top, last = snapshot.top, self.last
        # What was heard before the read began and is of another epoch is of one that has ended.
        old, held = self._held[: self._older], self._held[self._older :]
        held[:0] = [update for update in old if update.position is not None and update.position.epoch == top.epoch]
        self._held = []
        out: list[Update | Reset] = []
        if last is None:
            self.last = top
        elif self.is_live and top.epoch == last.epoch and top.offset <= last.offset:
            pass  # it was live all the same, and has come further
        elif snapshot.entries is None or top.epoch != last.epoch:
            out.append(Reset(snapshot))
            self.last = top
        else:
            # A feed that was live all the same has passed on some of them meanwhile.
            out += [update for update in snapshot.entries if update.position and update.position.offset > last.offset]
            self.last = max(last, top)
        self.is_live = True
        for update in held:
            if not self.is_live:
                self._held.append(update)
            elif (passed := self.hear(update)) is not None:
                out.append(passed)
        self._older = len(self._held)
        return out


class Welcome(NamedTuple):
    """What a new subscription gets first. ``recovered`` is None when no position was given."""

    position: Position
    recovered: bool | None
    updates: Sequence[Update]


class Joining:
    """One subscription that begins.

    since: the position that the client has, None for a newcomer
    """

    #: Updates gathered while the past is read; when more come, it must be read anew.
    MAX_GATHERED = 4096

    __slots__ = ("_gathered", "_until", "is_stale", "since")

    def __init__(self, since: Position | None) -> None:
        self.since = since
        self._gathered: list[Update] = []
        self._until: Position | None = None
        #: What is being read is out of date: `begin` again, and read again.
        self.is_stale = False

    @property
    def is_welcomed(self) -> bool:
        """The past was read."""
        return self._until is not None

    def begin(self) -> None:
        """The past is about to be read."""
        self._gathered.clear()
        self.is_stale = False

    def live(self, update: Update) -> None:
        """An update that the feed passes on meanwhile."""
        if len(self._gathered) < self.MAX_GATHERED:
            self._gathered.append(update)
        else:
            self.is_stale = True

    def restart(self) -> None:
        """The line broke."""
        self.is_stale = True

    def welcome(self, snapshot: Snapshot) -> Welcome:
        """The past was read: what the client gets first."""
        self._until = snapshot.top
        if self.since is not None and snapshot.entries is not None:
            return Welcome(snapshot.top, True, snapshot.entries)
        state = [snapshot.state] if snapshot.state is not None else []
        return Welcome(snapshot.top, None if self.since is None else False, state)

    def is_ready_at(self, position: Position | None) -> bool:
        """The feed, which has passed on this position, has come as far as the welcome. One that is of another epoch has not
        noticed yet that it ended."""
        until = self._until
        if until is None or position is None:
            return False
        return position.epoch == until.epoch and position.offset >= until.offset

    def rest(self) -> list[Update]:
        """What was gathered and was not in the welcome, in order."""
        until = self._until
        assert until is not None
        gathered, self._gathered = self._gathered, []
        # What is of another epoch came before the welcome: when a newer one begins, all is read anew.
        return [update for update in gathered if update.position is None or _follows(until, update.position)]


def _follows(first: Position, second: Position) -> bool:
    return second.epoch == first.epoch and second.offset > first.offset
