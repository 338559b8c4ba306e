"""The subscriptions of one client, which are its only way into the hub: a set that is closed subscribes to nothing."""

from collections.abc import Iterable, Iterator

from relay.core.batches import Format
from relay.core.groups import Subscriber
from relay.core.hub import Hub
from relay.core.recovery import RecoveryBuffer
from relay.core.subscription import Request, Subscription
from relay.core.updates import Update


class EarlyUpdates:
    """Keeps what is published while a client connects that has no session yet.

    Used as a context manager: at the end of the block the channels are left.
    """

    def __init__(self, hub: Hub, channels: Iterable[str]) -> None:
        """Begin to keep the updates of some channels.

        Args:
            hub: Where they are delivered.
            channels: Those that the client gets without asking, and without history.
        """
        self._hub = hub
        self._channels = list(channels)
        self._buffer = RecoveryBuffer()
        for channel in self._channels:
            hub.start_recovery(channel, self)

    def __enter__(self) -> "EarlyUpdates":
        return self

    def __exit__(self, *_: object) -> None:
        for channel in self._channels:
            self._hub.end_recovery(channel, self)

    def on_update(self, update: Update) -> None:
        """A channel delivers an update. Beyond the limits of a buffer, of a client that is slow to connect, it is dropped."""
        self._buffer.append(update)

    def on_reset(self) -> None:
        """A channel's sequence was broken. A client without positions gets no reset."""

    def take(self, channel: str) -> list[Update]:
        """Remove and return the updates of a channel so far, in order."""
        updates = self._buffer.take_all()
        for update in updates:
            if update.channel != channel:
                self._buffer.append(update)
        return [update for update in updates if update.channel == channel]


class SubscriptionSet:
    """All subscriptions of one client, at most one for each channel.

    Attributes:
        is_closed: The client has gone; the set stays empty.
    """

    __slots__ = ("_by_channel", "_hub", "_subscriber", "is_closed")

    def __init__(self, hub: Hub, subscriber: Subscriber) -> None:
        self._hub = hub
        self._subscriber = subscriber
        #: Of a live subscription only its format is kept: there are many of them.
        self._by_channel: dict[str, Subscription | Format] = {}
        self.is_closed = False

    def __len__(self) -> int:
        return len(self._by_channel)

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_channel)

    def __contains__(self, channel: str) -> bool:
        return channel in self._by_channel

    def has(self, channel: str, format: Format) -> bool:
        """Whether a channel is followed in this format."""
        entry = self._by_channel.get(channel)
        return (entry.format if isinstance(entry, Subscription) else entry) is format

    def start(self, request: Request) -> Subscription | None:
        """Subscribe, in place of a subscription to the same channel. Call `Subscription.next_effect` afterwards.

        Args:
            request: What the client asks for.

        Returns:
            The subscription that begins; None if the set is closed.
        """
        if self.is_closed:
            return None
        self.end(request.channel)
        subscription = self._by_channel[request.channel] = Subscription(
            self._hub, self._subscriber, request, self._keep_format
        )
        if request.wants_history:
            self._hub.start_recovery(request.channel, subscription)
        return subscription

    def follow(self, channel: str, format: Format) -> None:
        """Follow a channel from now on, without its history, in place of a subscription to it. Nothing if the set is closed."""
        if self.is_closed:
            return
        self.end(channel)
        subscriber = self._subscriber
        self._by_channel[channel] = format
        self._hub.subscribe(subscriber, channel, format)
        if channel not in self._by_channel:  # the client was closed for what that flushed
            self._hub.unsubscribe(subscriber, channel, format)

    def _keep_format(self, subscription: Subscription) -> None:
        if self._by_channel.get(subscription.channel) is subscription:
            self._by_channel[subscription.channel] = subscription.format

    def discard(self, subscription: Subscription) -> None:
        """Forget a subscription that has ended by itself."""
        if self._by_channel.get(subscription.channel) is subscription:
            del self._by_channel[subscription.channel]

    def end(self, channel: str) -> None:
        """Unsubscribe from a channel, if it is followed."""
        entry = self._by_channel.pop(channel, None)
        if isinstance(entry, Subscription):
            entry.end()
        elif entry is not None:
            self._hub.unsubscribe(self._subscriber, channel, entry)

    def close(self) -> None:
        """Leave all channels, for good. May be called again."""
        if self.is_closed:
            return
        self.is_closed = True
        while self._by_channel:
            self.end(next(reversed(self._by_channel)))
        del self._subscriber  # it refers to this set: a cycle would outlive the client until the next collection
