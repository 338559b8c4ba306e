"""The listeners of one channel that share a format: what a turn has brought them, and what is withheld from them."""

from typing import Protocol

from relay.core.batches import Batch, Format, Message, batch_of
from relay.core.updates import Position, Update
from relay.core.whole_values import WithheldUpdates


class Listener(Protocol):
    """One client, as the hub sees it."""

    def offer(self, batch: Batch) -> None:
        """Take a batch now, without waiting. It may leave the hub while doing so."""


class Group:
    """The listeners of one channel that share a format, and what this turn has brought them."""

    __slots__ = (
        "batch",
        "format",
        "joined",
        "listeners",
        "needs_snapshot",
        "pending",
        "reached",
        "sequence_numbers",
        "withheld",
    )

    def __init__(self, format: Format) -> None:
        self.format = format
        self.listeners: dict[Listener, None] = {}
        #: Those that have not got the channel's state, since Redis was away when they subscribed.
        self.needs_snapshot: dict[Listener, None] = {}
        self.pending: list[Update | Message] = []
        #: For each that is pending, the order in which it came in this hub.
        self.sequence_numbers: list[int] = []
        self.batch: Batch | None = None
        #: What is not delivered as it comes, since the listeners want whole values.
        self.withheld = WithheldUpdates()
        #: The offset up to which the listeners have everything, and other offsets for those that came while something was
        #: withheld.
        self.reached = 0
        self.joined: dict[Listener, int] = {}

    def entries(self) -> list[tuple[int, Message]]:
        """Encode what is pending into messages with their sequence numbers."""
        messages = [item if isinstance(item, Message) else self.format.message(item) for item in self.pending]
        self.batch = batch_of(messages)  # encoded once, also for listeners that have nothing else pending
        return list(zip(self.sequence_numbers, messages, strict=True))

    def settle_withheld(self, top: Position) -> None:
        """Note that the listeners have the values of a state at this position."""
        if self.withheld.last is None or top >= self.withheld.last:
            self.withheld.clear()
            self.joined.clear()
            return
        self.reached = max(self.reached, top.offset)
        self.joined = {listener: offset for listener, offset in self.joined.items() if offset > top.offset}

    def clear(self) -> None:
        """Forget what is pending, after it was flushed."""
        self.pending = []
        self.sequence_numbers = []
        self.batch = None
