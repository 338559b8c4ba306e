"""Who listens to what, and batches to frames.

The hub takes what Redis gives, keeps each channel's line unbroken (`relay.core.recovery`), encodes every update once per
format, gathers what one turn of the event loop brings, and hands every listener one batch. It never waits and never
touches a socket.
"""

from collections.abc import Callable, Iterable, KeysView
from typing import Protocol

from relay.core.outbox import Batch, Format, Message, batch_of
from relay.core.recovery import Feed, Joining, Reset, Snapshot
from relay.core.updates import Position, Update

#: Updates of one channel that are handed out together at most, give or take a few. A client's queue has to hold them several
#: times over, or one that reads well is dropped.
FULL = 1024


class Listener(Protocol):
    """One client, as the hub sees it."""

    def offer(self, batch: Batch) -> None:
        """Take a batch, now, without waiting. It may leave the hub while doing so."""


class _Group:
    """The listeners of one channel that share a format, and what this turn has brought them."""

    __slots__ = ("batch", "blind", "format", "listeners", "pending", "places")

    def __init__(self, format: Format) -> None:
        self.format = format
        #: One of them has not seen the channel's state, since Redis was away.
        self.blind = False
        self.listeners: dict[Listener, None] = {}
        self.pending: list[Update | Message] = []
        #: The place in the turn of each that is pending.
        self.places: list[int] = []
        self.batch: Batch | None = None

    def gather(self) -> Batch:
        """What is pending as one batch, made once for all."""
        batch = self.batch
        if batch is None:
            batch = self.batch = self.format.batch(self.pending)
        return batch

    def entries(self) -> list[tuple[int, Message]]:
        """What is pending as messages, with their places."""
        messages = [item if isinstance(item, Message) else self.format.message(item) for item in self.pending]
        self.batch = batch_of(messages)  # encoded once, for those who follow nothing else as well
        return list(zip(self.places, messages, strict=True))

    def clear(self) -> None:
        """It was handed out."""
        self.pending = []
        self.places = []
        self.batch = None


class _Channel:
    """One channel that somebody follows."""

    __slots__ = ("feed", "groups", "joinings")

    def __init__(self) -> None:
        self.feed = Feed()
        self.groups: dict[Format, _Group] = {}
        self.joinings: dict[Joining, Callable[[], None]] = {}


class Hub:
    """The channels that this process serves.

    on_pending:   called when there is something to flush, once until the next flush; `is_in_turn` tells whether it will be
                  flushed anyway, at the end of the turn
    on_watched:   called when a channel gets its first follower: it must be attached, and then caught up with
    on_unwatched: called when it loses the last one
    on_behind:    called when a channel's line has a hole: it must be caught up with
    """

    def __init__(
        self,
        on_pending: Callable[[], None],
        on_watched: Callable[[str], None] = lambda _: None,
        on_unwatched: Callable[[str], None] = lambda _: None,
        on_behind: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._on_pending = on_pending
        self._on_watched = on_watched
        self._on_unwatched = on_unwatched
        self._on_behind = on_behind
        self._channels: dict[str, _Channel] = {}
        self._dirty: list[_Group] = []
        self._sequence = 0
        #: Messages come in, one after the other, and `flush` is called after the last.
        self.is_in_turn = False
        #: A channel has so much pending that it should be flushed: it must go into a client's queue at once.
        self.is_full = False
        self.subscriptions = 0
        self.resets = 0

    @property
    def has_pending(self) -> bool:
        """There is something to flush."""
        return bool(self._dirty)

    @property
    def channels(self) -> KeysView[str]:
        """The channels that somebody follows."""
        return self._channels.keys()

    # Who follows what.

    def _channel(self, name: str) -> _Channel:
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = _Channel()
            self._on_watched(name)
        return channel

    def _forget_if_unwatched(self, name: str, channel: _Channel) -> None:
        if not channel.groups and not channel.joinings:
            del self._channels[name]
            self._on_unwatched(name)

    def subscribe(self, listener: Listener, name: str, format: Format, *, blind: bool = False) -> None:
        """Let a listener follow a channel from now on; following it already in this format changes nothing.

        blind: it has not been given the channel's state and is to get it as soon as that can be read
        """
        channel = self._channel(name)
        group = channel.groups.get(format)
        if group is None:
            group = channel.groups[format] = _Group(format)
        if listener not in group.listeners:
            if group.pending:
                self.flush()  # what came before the subscription goes to those who were there before
            group.listeners[listener] = None
            self.subscriptions += 1
        if blind:
            group.blind = True
            if channel.feed.is_live:
                self._on_behind(name)

    def unsubscribe(self, listener: Listener, name: str, format: Format) -> None:
        """The opposite. What this turn has brought and not yet flushed does not reach the listener any more."""
        channel = self._channels.get(name)
        group = channel.groups.get(format) if channel is not None else None
        if channel is None or group is None or listener not in group.listeners:
            return
        del group.listeners[listener]
        self.subscriptions -= 1
        if not group.listeners:
            del channel.groups[format]
            self._forget_if_unwatched(name, channel)

    def join(self, name: str, joining: Joining, on_ready: Callable[[], None]) -> None:
        """Have a subscription that begins gather what is live. `settle` or `leave` ends that.

        on_ready: called when what is live has come as far as its welcome; it must then settle
        """
        self._channel(name).joinings[joining] = on_ready

    def leave(self, name: str, joining: Joining) -> None:
        """A subscription that had begun is given up."""
        channel = self._channels.get(name)
        if channel is not None and channel.joinings.pop(joining, None) is not None:
            self._forget_if_unwatched(name, channel)

    def settle(self, listener: Listener, name: str, joining: Joining, format: Format, *, blind: bool = False) -> None:
        """A subscription has got its welcome and what was gathered: from now on it follows like all others."""
        self.subscribe(listener, name, format, blind=blind)
        self.leave(name, joining)

    def position(self, name: str) -> Position | None:
        """The last position that a channel has passed on; None when it is not known yet."""
        channel = self._channels.get(name)
        return channel.feed.last if channel is not None else None

    # What Redis gives.

    def hear(self, update: Update) -> None:
        """One update from the live feed."""
        channel = self._channels.get(update.channel)
        if channel is None:
            return
        feed = channel.feed
        if update.position is None or feed.is_next(
            update.position
        ):  # without one Redis could not record it: live, or never
            self._pass_on(channel, update)
            return
        was_live = feed.is_live
        passed = feed.hear(update)
        if passed is not None:
            self._pass_on(channel, passed)
        elif was_live and not feed.is_live:
            self._on_behind(update.channel)

    def cut_off(self, names: Iterable[str]) -> None:
        """The live feeds of these channels broke: they must be caught up with once they are attached again."""
        for name in names:
            channel = self._channels.get(name)
            if channel is not None:
                channel.feed.cut_off()

    def catch_up(self, name: str, snapshot: Snapshot) -> None:
        """What was read of a channel after its `position`, with the live feed attached before."""
        channel = self._channels.get(name)
        if channel is None:
            return
        before = channel.feed.last
        if before is not None and before.epoch == snapshot.top.epoch and before > snapshot.top:
            # The feed was live and has come further meanwhile: what is shown of the state must not be older.
            if any(group.blind for group in channel.groups.values()):
                self._on_behind(name)
            if channel.feed.is_live:
                return
        out = channel.feed.catch_up(snapshot)
        for item in out:
            if isinstance(item, Reset):
                self._reset(name, channel, item.snapshot)
                continue
            if item.position is not None and item.position > snapshot.top:
                self._show_blind(name, channel, snapshot)
            self._pass_on(channel, item)
        self._show_blind(name, channel, snapshot)
        if not channel.feed.is_live:
            self._on_behind(name)

    # What goes out.

    def _reset(self, name: str, channel: _Channel, snapshot: Snapshot) -> None:
        self.resets += 1
        for joining, on_ready in list(channel.joinings.items()):
            if joining.is_welcomed:
                on_ready()  # it is one of the others now, and is told with them
            else:
                joining.restart()
        for group in list(channel.groups.values()):
            self._tell(name, group, snapshot)

    def _show_blind(self, name: str, channel: _Channel, snapshot: Snapshot) -> None:
        """Those who have not seen the state get it, when all that it has in it was passed on."""
        for group in list(channel.groups.values()):
            if group.blind:
                self._tell(name, group, snapshot)

    def _tell(self, name: str, group: _Group, snapshot: Snapshot) -> None:
        group.blind = False
        if group.format.encoding.stateful and self._dirty:
            self.flush()  # it is encoded now, and what is pending came before
        for payload in group.format.encoding.reset(name, snapshot):
            self._put(group, group.format.payload(payload))

    def _pass_on(self, channel: _Channel, update: Update) -> None:
        self._sequence += 1
        for group in channel.groups.values():
            self._put(group, update)
        if channel.joinings:
            for joining, on_ready in list(channel.joinings.items()):
                joining.live(update)
                if joining.is_ready_at(update.position):
                    on_ready()

    def _put(self, group: _Group, item: Update | Message) -> None:
        if not group.pending:
            if not self._dirty:
                self._on_pending()
            self._dirty.append(group)
        group.pending.append(item)
        group.places.append(self._sequence)
        if len(group.pending) >= FULL:
            self.is_full = True

    def flush(self) -> None:
        """Hand out what has gathered, one batch to each listener."""
        self.is_full = False
        dirty, self._dirty = self._dirty, []
        first: dict[Listener, _Group] = {}
        several: dict[Listener, list[_Group]] = {}
        if len(dirty) > 1:
            for group in dirty:
                for listener in group.listeners:
                    if first.setdefault(listener, group) is not group:
                        several.setdefault(listener, [first[listener]]).append(group)
        if several:
            self._flush_merged(several)
        for group in dirty:
            # Whoever leaves while a batch is handed out is not asked any more.
            for listener in tuple(group.listeners):
                if listener not in several:
                    listener.offer(group.gather())
        for group in dirty:
            group.clear()

    @staticmethod
    def _flush_merged(several: dict[Listener, list[_Group]]) -> None:
        """A listener of several channels gets their updates in the order in which they came, as one batch."""
        batches: dict[tuple[int, ...], Batch] = {}  # listeners that follow the same channels share it
        entries: dict[_Group, list[tuple[int, Message]]] = {}
        for listener, groups in several.items():
            key = tuple(map(id, groups))
            batch = batches.get(key)
            if any(group.format.encoding.stateful for group in groups):
                batch = batch_of(_in_order(groups))  # of nobody else's groups
            elif batch is None:
                for group in groups:
                    if group not in entries:
                        entries[group] = group.entries()
                merged = sorted((entry for group in groups for entry in entries[group]), key=_by_place)
                batch = batches[key] = batch_of([message for _, message in merged])
            listener.offer(batch)


def _by_place(entry: tuple[int, Message]) -> int:
    return entry[0]


def _in_order(groups: Iterable[_Group]) -> list[Message]:
    """What is pending in several groups, encoded in the order in which it came: what is said of one depends on those before."""
    items = [
        (place, group.format, item) for group in groups for place, item in zip(group.places, group.pending, strict=True)
    ]
    items.sort(key=lambda entry: entry[0])
    return [item if isinstance(item, Message) else format.message(item) for _, format, item in items]
