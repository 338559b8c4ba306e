"""Who listens to what, and batches to frames.

The hub takes updates in the order in which Redis gave them, encodes each once per format, gathers what one turn of
the event loop brings, and hands every listener one batch. It never waits and never touches a socket.
"""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from relay.core.outbox import Batch
from relay.core.updates import Update


class Format:
    """How updates reach one kind of client: a protocol's encoding in a transport's framing.

    There is one instance for each combination, shared by all clients that use it: it is the key under which the hub
    encodes once.
    """

    __slots__ = ("encode", "frame", "join")

    def __init__(
        self,
        encode: Callable[[Update], bytes],
        frame: Callable[[bytes], Any],
        join: Callable[[Iterable[Any]], Any],
    ) -> None:
        self.encode = encode
        self.frame = frame
        self.join = join

    def batch(self, frames: list[Any]) -> Batch:
        """One batch of several frames."""
        return Batch(self.join(frames), len(frames), sum(map(len, frames)))


class Listener(Protocol):
    """One client, as the hub sees it."""

    def offer(self, batch: Batch) -> None:
        """Take a batch, now, without waiting. It may leave the hub while doing so."""


class _Group:
    """The listeners of one channel that share a format, and what this turn has brought them."""

    __slots__ = ("channel", "format", "listeners", "pending")

    def __init__(self, channel: str, format: Format) -> None:
        self.channel = channel
        self.format = format
        self.listeners: dict[Listener, None] = {}
        self.pending: list[tuple[int, Any]] = []


class Hub:
    """The channels that this process serves.

    ``on_pending`` is called when there is something to flush, once until the next flush. ``on_watched`` and
    ``on_unwatched`` are called when a channel gets its first and loses its last listener.
    """

    def __init__(
        self,
        on_pending: Callable[[], None],
        on_watched: Callable[[str], None] = lambda _: None,
        on_unwatched: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._on_pending = on_pending
        self._on_watched = on_watched
        self._on_unwatched = on_unwatched
        self._channels: dict[str, dict[Format, _Group]] = {}
        self._dirty: list[_Group] = []
        self._sequence = 0
        self.subscriptions = 0

    @property
    def channels(self) -> Iterable[str]:
        """The channels that have listeners."""
        return self._channels.keys()

    def subscribe(self, listener: Listener, channel: str, format: Format) -> None:
        """Let a listener follow a channel from now on; following it already in this format changes nothing."""
        groups = self._channels.get(channel)
        if groups is None:
            groups = self._channels[channel] = {}
            self._on_watched(channel)
        group = groups.get(format)
        if group is None:
            group = groups[format] = _Group(channel, format)
        if listener not in group.listeners:
            if group.pending:
                self.flush()  # what came before the subscription goes to those who were there before
            group.listeners[listener] = None
            self.subscriptions += 1

    def unsubscribe(self, listener: Listener, channel: str, format: Format) -> None:
        """The opposite. What this turn has brought and not yet flushed does not reach the listener any more."""
        groups = self._channels.get(channel)
        group = groups.get(format) if groups is not None else None
        if groups is None or group is None or listener not in group.listeners:
            return
        del group.listeners[listener]
        self.subscriptions -= 1
        if not group.listeners:
            del groups[format]
            if not groups:
                del self._channels[channel]
                self._on_unwatched(channel)

    def publish(self, update: Update) -> None:
        """Take one update; it goes out with the next flush, behind all that came before it."""
        groups = self._channels.get(update.channel)
        if groups is None:
            return
        self._sequence += 1
        for group in groups.values():
            if not group.pending:
                if not self._dirty:
                    self._on_pending()
                self._dirty.append(group)
            format = group.format
            group.pending.append((self._sequence, format.frame(format.encode(update))))

    def flush(self) -> int:
        """Hand out what has gathered, one batch to each listener; returns the number of messages handed out."""
        dirty, self._dirty = self._dirty, []
        if len(dirty) == 1:
            return self._flush_one(dirty[0])
        # A listener of several channels gets their updates in the order in which they came, as one batch; listeners
        # that follow the same channels share it.
        turn: dict[Listener, list[_Group]] = {}
        for group in dirty:
            for listener in group.listeners:
                followed = turn.get(listener)
                if followed is None:
                    turn[listener] = [group]
                else:
                    followed.append(group)
        batches: dict[tuple[int, ...], Batch] = {}
        delivered = 0
        for listener, groups in turn.items():
            key = tuple(map(id, groups))
            batch = batches.get(key)
            if batch is None:
                merged = groups[0].pending
                if len(groups) > 1:
                    merged = sorted((entry for group in groups for entry in group.pending), key=_by_sequence)
                batch = batches[key] = groups[0].format.batch([frame for _, frame in merged])
            delivered += batch.count
            listener.offer(batch)
        for group in dirty:
            group.pending = []
        return delivered

    @staticmethod
    def _flush_one(group: _Group) -> int:
        pending, group.pending = group.pending, []
        listeners = tuple(group.listeners)
        if not listeners:
            return 0
        batch = group.format.batch([frame for _, frame in pending])
        for listener in listeners:
            listener.offer(batch)
        return batch.count * len(listeners)


def _by_sequence(entry: tuple[int, Any]) -> int:
    return entry[0]
