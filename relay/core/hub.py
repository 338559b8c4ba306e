"""Who is subscribed to what, and from updates to batches.

The hub takes what Redis brings, keeps each channel's sequence unbroken (`relay.core.recovery`), encodes every update once per
format, collects what one turn of the event loop brings, and hands every subscriber one batch. It never waits and never touches
a socket.
"""

from collections.abc import Callable, Iterable, Iterator, KeysView, Mapping
from types import MappingProxyType

from relay_wire.channels import FAMILY_PREFIX, TASK_PREFIX

from relay.core.batches import Format, batch_of
from relay.core.groups import Group, Groups, KeysOf, Recovering, Subscriber, Traced, offer_merged
from relay.core.recent_history import RecentHistories, RecentHistory
from relay.core.recovery import ChannelSequence, Reset, Snapshot
from relay.core.updates import Position, Update
from relay.core.whole_values import WithheldUpdates

#: Updates of one channel that are flushed together at most: a client's queue has to hold them several times over, or one that
#: reads well is dropped.
FLUSH_THRESHOLD = 1024

#: Bytes of updates of all channels that are flushed together, give or take one update.
FLUSH_BYTES = 1024 * 1024


class _Channel:
    """One channel that has a subscriber, or is kept without."""

    __slots__ = ("groups", "is_pinned", "recent", "recovering", "sequence")

    def __init__(self, keys_of: KeysOf | None) -> None:
        self.sequence = ChannelSequence()
        self.groups = Groups(keys_of)
        self.recovering: dict[Recovering, None] = {}
        self.recent: RecentHistory | None = None
        self.is_pinned = False


class Hub:
    """The channels that this process serves.

    Attributes:
        is_receiving: The messages of one turn are coming in; `flush` is called after the last.
        is_full: So much is pending that it should be flushed now.
        subscriptions: Number of subscriptions over all channels.
        resets: Number of broken sequences so far.
        histories: What was read a moment ago for clients that returned.
        oldest_flushed: The oldest update of the last flush; None if that was no update.
    """

    def __init__(
        self,
        on_pending: Callable[[], None],
        on_first_subscriber: Callable[[str], None] = lambda _: None,
        on_last_unsubscribed: Callable[[str], None] = lambda _: None,
        on_gap: Callable[[str], None] = lambda _: None,
        on_owner: Callable[[str, frozenset[str]], None] = lambda _name, _owner: None,
        on_withheld: Callable[[str, bool], None] = lambda _name, _is_urgent: None,
        keys_of: Mapping[str, KeysOf] = MappingProxyType({}),
    ) -> None:
        """Make an empty hub.

        Args:
            on_pending: Called when there is something to flush, once until the next flush.
            on_first_subscriber: Called with a channel that needs to be subscribed to, and then caught up with.
            on_last_unsubscribed: Called with a channel that is no longer needed.
            on_gap: Called with a channel that needs a snapshot: see `catch_up`.
            on_owner: Called with a task's channel and its owner when the owner may have changed: before the first update that
                a new owner may see and the former one may not.
            on_withheld: Called with a channel that needs a snapshot at some time, since updates were withheld from clients
                that want whole values, and with whether it is urgent, since the task has ended.
            keys_of: By channel: what returns the keys of its updates, for channels of which clients want some updates only.
        """
        self._on_pending = on_pending
        self._on_first_subscriber = on_first_subscriber
        self._on_last_unsubscribed = on_last_unsubscribed
        self._on_gap = on_gap
        self._on_owner = on_owner
        self._on_withheld = on_withheld
        self._keys_of = keys_of
        self._channels: dict[str, _Channel] = {}
        self._dirty: list[Group] = []
        self.histories = RecentHistories(self._channels)
        self._sequence_number = 0
        self._pending_bytes = 0
        self.is_receiving = False
        self.is_full = False
        self.subscriptions = 0
        self.resets = 0
        self.oldest_flushed: Update | None = None

    @property
    def has_pending(self) -> bool:
        """There is something to flush."""
        return bool(self._dirty)

    @property
    def channels(self) -> KeysView[str]:
        """The channels that have subscribers, or are kept."""
        return self._channels.keys()

    def position(self, name: str) -> Position | None:
        """Return the position of the last update that a channel delivered; None if it is not known yet."""
        channel = self._channels.get(name)
        return channel.sequence.last if channel is not None else None

    def subscriber_counts(self) -> Iterator[tuple[str, int]]:
        """Return how many subscribers each channel has, where there are any."""
        for name, channel in self._channels.items():
            if count := sum(len(group.subscribers) for group in channel.groups.all()):
                yield name, count

    def subscriber_count(self, name: str) -> int:
        """Return how many subscribers a channel has."""
        channel = self._channels.get(name)
        return 0 if channel is None else sum(len(group.subscribers) for group in channel.groups.all())

    def needs_snapshot(self, name: str) -> bool:
        """Whether a subscriber of a channel still needs its state."""
        channel = self._channels.get(name)
        return channel is not None and any(group.needs_snapshot for group in channel.groups.all())

    # Subscribers.

    def _channel(self, name: str) -> _Channel:
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = _Channel(self._keys_of.get(name))
            self._on_first_subscriber(name)
        return channel

    def pin(self, name: str) -> None:
        """Keep following a channel while it has no subscribers, so that the next one finds its sequence up to date."""
        self._channel(name).is_pinned = True

    def _remove_if_unused(self, name: str, channel: _Channel) -> None:
        is_used = channel.groups or channel.recovering or channel.is_pinned
        if not is_used and self._channels.get(name) is channel:
            del self._channels[name]
            self._on_last_unsubscribed(name)

    def subscribe(
        self,
        subscriber: Subscriber,
        name: str,
        format: Format,
        *,
        needs_snapshot: bool = False,
        withheld: WithheldUpdates | None = None,
        position: Position | None = None,
    ) -> None:
        """Deliver a channel to a subscriber from now on. Repeating it changes nothing.

        Args:
            subscriber: The client.
            name: The channel.
            format: How it gets the updates.
            needs_snapshot: It has not got the channel's state, and gets it as soon as that can be read.
            withheld: Updates that it has not got, since it wants whole values.
            position: Up to where it has everything.
        """
        channel = self._channels.get(name)
        group = channel.groups.find(format) if channel is not None else None
        if group is not None and group.pending and subscriber not in group.subscribers:
            self.flush()  # what came before the subscription is for those that were there before, who may leave by that
        channel = self._channel(name)
        group = channel.groups.find(format)
        if group is None:
            group = channel.groups.add(format)
        if subscriber not in group.subscribers:
            group.subscribers[subscriber] = None
            self.subscriptions += 1
        if withheld:
            group.joined[subscriber] = position.offset if position is not None else 0
            if not group.withheld and withheld.last is not None:
                group.reached = withheld.last.offset
            group.withheld.merge(withheld)
            self._on_withheld(name, bool(withheld.ending_names))
        elif group.withheld:
            reached = position or channel.sequence.last
            group.joined[subscriber] = reached.offset if reached is not None else 0
        if needs_snapshot:
            group.needs_snapshot[subscriber] = None
            if channel.sequence.is_live:
                self._on_gap(name)

    def unsubscribe(self, subscriber: Subscriber, name: str, format: Format) -> None:
        """End a subscription. What is pending does not reach the subscriber any more."""
        channel = self._channels.get(name)
        group = channel.groups.find(format) if channel is not None else None
        if channel is None or group is None or subscriber not in group.subscribers:
            return
        del group.subscribers[subscriber]
        group.needs_snapshot.pop(subscriber, None)
        group.joined.pop(subscriber, None)
        self.subscriptions -= 1
        if not group.subscribers:
            channel.groups.remove(format)
            self._remove_if_unused(name, channel)

    def start_recovery(self, name: str, recovering: Recovering) -> None:
        """Pass everything that a channel delivers to a subscription that reads history, until `end_recovery`."""
        self._channel(name).recovering[recovering] = None

    def end_recovery(self, name: str, recovering: Recovering) -> None:
        """Undo `start_recovery`. A subscription that goes on calls `subscribe` before."""
        channel = self._channels.get(name)
        if channel is not None and recovering in channel.recovering:
            del channel.recovering[recovering]
            self._remove_if_unused(name, channel)

    # What Redis brings.

    def on_publication(self, update: Update) -> None:
        """Take one update from the live subscription."""
        channel = self._channels.get(update.channel)
        if channel is None:
            return
        position = update.position
        if position is not None:  # unpersisted updates have no position: deliver at once
            sequence = channel.sequence
            last = sequence.last
            # Nearly always it is the next one; `admit` would say the same at three times the cost.
            if last is not None and sequence.is_live and position[1] == last[1] + 1 and position[0] == last[0]:
                sequence.last = position
            else:
                was_live = sequence.is_live
                if not sequence.admit(update):
                    if was_live and not sequence.is_live:
                        self._on_gap(update.channel)
                    return
        self._deliver(channel, update)

    def on_owner(self, name: str, owner: frozenset[str]) -> None:
        """Take the news that a task has another owner; the updates that follow are of the task as the new owner has it."""
        if channel := self._channels.get(name):
            channel.recent = None
            self._on_owner(name, owner)

    def on_trace(self, name: str, position: Position, context: str) -> None:
        """Take the trace context of the update that comes next, for those that want it."""
        channel = self._channels.get(name)
        for group in channel.groups.all() if channel is not None else ():
            if isinstance(group.format.encoding, Traced):
                payload = group.format.encoding.trace(name, position, context)
                self._append_payload(group, payload)

    def on_disconnect(self, names: Iterable[str]) -> None:
        """The connection that brought these channels is gone: each needs a snapshot when it is subscribed again."""
        for name in names:
            channel = self._channels.get(name)
            if channel is not None:
                channel.sequence.disconnect()

    def catch_up(self, name: str, snapshot: Snapshot) -> None:
        """Merge a snapshot into a channel, read after its `position` while it was subscribed."""
        channel = self._channels.get(name)
        if channel is None:
            return
        channel.recent = None
        if name.startswith((TASK_PREFIX, FAMILY_PREFIX)):
            self._on_owner(name, snapshot.owner)
        for item in channel.sequence.merge(snapshot):
            if isinstance(item, Update):
                self._deliver(channel, item)
            elif isinstance(item, Reset):
                self._reset(name, channel, item.snapshot)
            else:
                self._send_missing_states(name, channel, item.snapshot)
        self._send_withheld(name, channel, snapshot)
        if not channel.sequence.is_live or self.needs_snapshot(name):
            self._on_gap(name)

    # What goes out.

    def _deliver(self, channel: _Channel, update: Update) -> None:
        self._sequence_number += 1
        self._pending_bytes += len(update.data)
        if self._pending_bytes >= FLUSH_BYTES:
            self.is_full = True
        for group in channel.groups.wanting(update):
            if (update.has_operations or group.withheld.last is not None) and self._withhold(group, update):
                continue
            if not group.pending:
                self._mark_dirty(group)
            group.pending.append(update)
            group.sequence_numbers.append(self._sequence_number)
            if len(group.pending) >= FLUSH_THRESHOLD:
                self.is_full = True
        if channel.recent is not None:
            channel.recent.record(update)
        if channel.recovering:
            for recovering in list(channel.recovering):
                recovering.on_update(update)

    def _withhold(self, group: Group, update: Update) -> bool:
        """Withhold an update from clients that want whole values, or may not have it; return whether that is necessary."""
        encoding = group.format.encoding
        if update.position is None or not encoding.whole_values:
            return encoding.stateful and encoding.hides(update)
        is_first = not group.withheld
        if is_first:
            group.reached = update.position.offset - 1
        is_urgent = group.withheld.add(update)
        if is_first or is_urgent:
            self._on_withheld(update.channel, is_urgent)
        return True

    def _send_withheld(self, name: str, channel: _Channel, snapshot: Snapshot) -> None:
        """Give the present values to those from whom updates were withheld."""
        last = channel.sequence.last
        for group in list(channel.groups.all()):
            # A snapshot may be older than what was withheld last, but not newer than what the sequence has delivered.
            if not group.withheld or last is None or snapshot.top.epoch != last.epoch or snapshot.top > last:
                continue
            self.flush()  # what is pending came before
            offset = snapshot.top.offset
            due = [each for each in group.subscribers if group.joined.get(each, group.reached) < offset]
            updates = group.withheld.updates_from(snapshot)
            group.settle_withheld(snapshot.top)
            if group.withheld:
                self._on_withheld(name, False)
            if not updates:
                continue
            batch = batch_of([group.format.message(update) for update in updates])
            for subscriber in due:
                if subscriber in group.subscribers:
                    subscriber.offer(batch)

    def _mark_dirty(self, group: Group) -> None:
        if not self._dirty:
            self._on_pending()
        self._dirty.append(group)

    def _reset(self, name: str, channel: _Channel, snapshot: Snapshot) -> None:
        self.resets += 1
        for recovering in list(channel.recovering):
            recovering.on_reset()
        for group in list(channel.groups.all()):
            self._send_reset(name, group, snapshot)

    def _send_reset(self, name: str, group: Group, snapshot: Snapshot) -> None:
        """Send to a whole group that updates were lost, and how the channel continues."""
        group.needs_snapshot.clear()
        group.withheld.clear()
        group.joined.clear()
        if group.format.encoding.stateful and self._dirty:
            self.flush()  # it is encoded now, and what is pending came before
        for payload in group.format.encoding.reset(name, snapshot):
            self._append_payload(group, payload)

    def _append_payload(self, group: Group, payload: bytes) -> None:
        if not group.pending:
            self._mark_dirty(group)
        group.pending.append(group.format.payload(payload))
        group.sequence_numbers.append(self._sequence_number)

    def _send_missing_states(self, name: str, channel: _Channel, snapshot: Snapshot) -> None:
        """Give the state to the subscribers that lack it, and to no others."""
        for group in list(channel.groups.all()):
            if not group.needs_snapshot:
                continue
            self.flush()  # what is pending came before
            subscribers, group.needs_snapshot = group.needs_snapshot, {}
            messages = [group.format.payload(payload) for payload in group.format.encoding.reset(name, snapshot)]
            if messages:
                batch = batch_of(messages)
                for subscriber in subscribers:
                    if subscriber in group.subscribers:
                        subscriber.offer(batch)

    def flush(self) -> None:
        """Hand out what is pending, one batch to each subscriber."""
        self.is_full = False
        self._pending_bytes = 0
        dirty, self._dirty = self._dirty, []
        oldest = dirty[0].pending[0] if dirty and dirty[0].pending else None
        self.oldest_flushed = oldest if isinstance(oldest, Update) else None
        first: dict[Subscriber, Group] = {}
        several: dict[Subscriber, list[Group]] = {}
        if len(dirty) > 1:
            for group in dirty:
                for subscriber in group.subscribers:
                    if first.setdefault(subscriber, group) is not group:
                        several.setdefault(subscriber, [first[subscriber]]).append(group)
        if several:
            offer_merged(several)
        for group in dirty:
            batch = group.batch
            # A subscriber that leaves while a batch is handed out is not offered anything more.
            for subscriber in tuple(group.subscribers):
                if subscriber not in several:
                    if batch is None:
                        batch = group.batch = group.format.batch(group.pending)
                    if batch.count:
                        subscriber.offer(batch)
        for group in dirty:
            group.clear()
