"""The subscribers of one channel that share a format: what a turn has brought them, and what is withheld from them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from relay.core.batches import Batch, Format, Message, batch_of
from relay.core.updates import Position, Update
from relay.core.whole_values import WithheldUpdates


class Subscriber(Protocol):
    """One client, as the hub sees it."""

    def offer(self, batch: Batch) -> None:
        """Take a batch now, without waiting. It may leave the hub while doing so."""


class Recovering(Protocol):
    """A subscription that reads history, and needs what is live meanwhile."""

    def on_update(self, update: Update) -> None:
        """The channel delivers an update. The subscription may leave the hub while doing so, or begin to follow."""

    def on_reset(self) -> None:
        """The channel's sequence was broken. The subscription may begin to follow, and then gets the reset with the others."""


@runtime_checkable
class Selective(Protocol):
    """An encoding whose clients want only some updates of a channel.

    Attributes:
        keys: The keys of the updates that they want, see `Groups`; None for all, of which it encodes those that they do not
            want as nothing.
    """

    keys: frozenset[str] | None


@runtime_checkable
class Traced(Protocol):
    """An encoding whose clients want the trace contexts of updates."""

    def trace(self, channel: str, position: Position, context: str) -> bytes:
        """Return the payload with the trace context of the update at a position, which comes before that."""


#: Returns the keys by which some want an update and others do not.
KeysOf = Callable[[Update], Iterable[str]]


class Group:
    """The subscribers of one channel that share a format, and what this turn has brought them."""

    __slots__ = (
        "batch",
        "format",
        "joined",
        "needs_snapshot",
        "pending",
        "reached",
        "sequence_numbers",
        "subscribers",
        "withheld",
    )

    def __init__(self, format: Format) -> None:
        self.format = format
        self.subscribers: dict[Subscriber, None] = {}
        #: Those that have not got the channel's state, since Redis was away when they subscribed.
        self.needs_snapshot: dict[Subscriber, None] = {}
        self.pending: list[Update | Message] = []
        #: For each that is pending, the order in which it came in this hub.
        self.sequence_numbers: list[int] = []
        self.batch: Batch | None = None
        #: What is not delivered as it comes, since the subscribers want whole values.
        self.withheld = WithheldUpdates()
        #: The offset up to which the subscribers have everything, and other offsets for those that came while something was
        #: withheld.
        self.reached = 0
        self.joined: dict[Subscriber, int] = {}

    def entries(self) -> list[tuple[int, Message]]:
        """Encode what is pending into messages with their sequence numbers."""
        messages = [item if isinstance(item, Message) else self.format.message(item) for item in self.pending]
        self.batch = batch_of(messages)  # encoded once, also for subscribers that have nothing else pending
        return list(zip(self.sequence_numbers, messages, strict=True))

    def settle_withheld(self, top: Position) -> None:
        """Note that the subscribers have the values of a state at this position."""
        if self.withheld.last is None or top >= self.withheld.last:
            self.withheld.clear()
            self.joined.clear()
            return
        self.reached = max(self.reached, top.offset)
        self.joined = {subscriber: offset for subscriber, offset in self.joined.items() if offset > top.offset}

    def clear(self) -> None:
        """Forget what is pending, after it was flushed."""
        self.pending = []
        self.sequence_numbers = []
        self.batch = None


class Groups:
    """The groups of one channel. Of a channel whose updates have keys, an update costs only the groups that want it.

    Args:
        keys_of: Returns the keys of the channel's updates; None where all updates are for all groups.
    """

    __slots__ = ("_by_format", "_by_key", "_keys_of", "_of_all_keys")

    def __init__(self, keys_of: KeysOf | None = None) -> None:
        self._by_format: dict[Format, Group] = {}
        self._keys_of = keys_of
        self._by_key: dict[str, dict[Format, Group]] = {}
        self._of_all_keys: dict[Format, Group] = {}

    def __bool__(self) -> bool:
        return bool(self._by_format)

    def find(self, format: Format) -> Group | None:
        """Return the group of a format, if there is one."""
        return self._by_format.get(format)

    def all(self) -> Iterable[Group]:
        """Return all groups; a view, for as long as no group is added or removed."""
        return self._by_format.values()

    def wanting(self, update: Update) -> Iterable[Group]:
        """Return the groups for which an update is, as `all` does."""
        if self._keys_of is None:
            return self._by_format.values()
        wanting = dict(self._of_all_keys)
        for key in self._keys_of(update):
            wanting |= self._by_key.get(key, {})
        return wanting.values()

    def add(self, format: Format) -> Group:
        """Add a group for a format that has none."""
        group = self._by_format[format] = Group(format)
        keys = self._keys(format)
        if keys is None:
            self._of_all_keys[format] = group
        for key in keys or ():
            self._by_key.setdefault(key, {})[format] = group
        return group

    def remove(self, format: Format) -> None:
        """Remove the group of a format."""
        del self._by_format[format]
        self._of_all_keys.pop(format, None)
        for key in self._keys(format) or ():
            groups = self._by_key[key]
            del groups[format]
            if not groups:
                del self._by_key[key]

    def _keys(self, format: Format) -> frozenset[str] | None:
        encoding = format.encoding
        return encoding.keys if self._keys_of is not None and isinstance(encoding, Selective) else None


def offer_merged(several: Mapping[Subscriber, Sequence[Group]]) -> None:
    """Give each subscriber of several channels what is pending in their groups, in the order in which it came, as one batch."""
    batches: dict[tuple[int, ...], Batch] = {}  # shared by subscribers of the same channels
    entries: dict[Group, list[tuple[int, Message]]] = {}
    for subscriber, groups in several.items():
        key = tuple(map(id, groups))
        batch = batches.get(key)
        if any(group.format.encoding.stateful for group in groups):
            batch = batch_of(_encode_in_order(groups))  # no other subscriber shares these groups
        elif batch is None:
            for group in groups:
                if group not in entries:
                    entries[group] = group.entries()
            merged = sorted((entry for group in groups for entry in entries[group]), key=_sequence_number_of)
            batch = batches[key] = batch_of([message for _, message in merged])
        if batch.count:
            subscriber.offer(batch)


def _sequence_number_of(entry: tuple[int, Message]) -> int:
    return entry[0]


def _encode_in_order(groups: Sequence[Group]) -> list[Message]:
    """Encode what is pending in several groups in the order in which it came: each payload depends on those before it."""
    items = [
        (number, group.format, item)
        for group in groups
        for number, item in zip(group.sequence_numbers, group.pending, strict=True)
    ]
    items.sort(key=lambda entry: entry[0])
    return [item if isinstance(item, Message) else format.message(item) for _, format, item in items]
