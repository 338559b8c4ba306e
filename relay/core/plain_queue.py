"""The queue of plain updates that wait to be persisted: each channel's in order, and where many wait, each task's together.

Updates of one task keep their order, and those of two tasks have none (docs/promises.md). So where many wait, a batch takes
several of one task and then several of the next. They come back from Redis side by side, and each client gets them in one
write. All other updates keep their place among all that were received: announcements of tasks, updates that name an owner or a
parent, and operators' channels.
"""

from collections import OrderedDict, deque
from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple

from relay_wire.channels import TASK_PREFIX
from relay_wire.creation import NO_OPTIONS

from relay.core.occurrences import CountedMessage
from relay.core.updates import Update

#: Updates of one task that are taken in a row. Then it is the next task's turn, and the rest waits behind all others.
MAX_RUN = 32

#: Bytes that an update or a request is taken for beside its data; more than it takes.
OVERHEAD = 1_600

#: Where updates wait that keep their place among all others. No channel has this name.
_IN_PLACE = ""


class Pending(NamedTuple):
    """An update that waits to be persisted."""

    update: Update
    counted: CountedMessage


class BarrierRequest(NamedTuple):
    """Another relay's request, at its place in the queue.

    Attributes:
        request: Its name.
        held_count: For the answer "held" of `relay.core.plain_agreement`: how much had been received; None if it says nothing.
        held_since: For the answer "held": all that was received before this time was taken from the queue. None for "done".
    """

    request: bytes
    held_count: int | None = None
    held_since: float | None = None


class _Segment(OrderedDict[str, list[Pending]]):
    """Updates by channel, or all as `_IN_PLACE`. What was received earlier than it stays before all of it.

    Attributes:
        is_in_place: Whether they are as `_IN_PLACE`.
        since: When the first was received.
    """

    __slots__ = ("is_in_place", "since")

    def __init__(self, is_in_place: bool, since: float) -> None:
        super().__init__()
        self.is_in_place = is_in_place
        self.since = since


class PlainQueue:
    """Updates and requests, in segments: only updates of one segment change places."""

    def __init__(self) -> None:
        self._items: deque[_Segment | BarrierRequest] = deque()
        self._tail: _Segment | None = None  # the last item, while updates may be added to it
        #: Updates and requests, and the bytes that they take. Attributes, since there is one look at them for each message.
        self.length = self.size = 0
        #: The bytes that the updates of each channel take.
        self.shares: dict[str, int] = {}

    def append(self, pending: Pending) -> None:
        """Add an update that was received now."""
        update = pending[0]
        channel = update.channel
        is_in_place = update.options is not NO_OPTIONS or not channel.startswith(TASK_PREFIX)
        segment = self._tail
        if segment is None or segment.is_in_place is not is_in_place:
            segment = self._tail = _Segment(is_in_place, update.received_at)
            self._items.append(segment)
        self._count(update)
        if is_in_place:
            channel = _IN_PLACE
        waiting = segment.get(channel)
        if waiting is None:
            segment[channel] = [pending]
        else:
            waiting.append(pending)

    def _count(self, update: Update) -> None:
        size = len(update.data) + OVERHEAD
        channel = update.channel
        self.length += 1
        self.size += size
        self.shares[channel] = self.shares.get(channel, 0) + size

    def append_request(self, request: BarrierRequest) -> None:
        """Add a request behind all that was received so far."""
        self.end_segment()
        self._items.append(request)
        self.length += 1
        self.size += OVERHEAD

    def insert_request(self, request: BarrierRequest, before: float) -> None:
        """Add a request behind what was received before a time; `end_segment` was called then."""
        old = takewhile(lambda item: isinstance(item, BarrierRequest) or item.since < before, self._items)
        self._items.insert(sum(1 for _ in old), request)
        self.length += 1
        self.size += OVERHEAD

    def end_segment(self) -> None:
        """Let nothing that is added from now on come before what is here."""
        self._tail = None

    def restore(self, batch: Sequence[Pending]) -> None:
        """Add what was taken, in order, before everything else."""
        if not batch:
            return
        segment = _Segment(True, batch[0].update.received_at)
        segment[_IN_PLACE] = list(batch)
        self._items.appendleft(segment)
        for pending in batch:
            self._count(pending.update)

    def take(self, count: int, size: int, before: float) -> list[Pending]:
        """Remove updates from the head, up to a request.

        Args:
            count: Most updates.
            size: Most bytes, give or take one update.
            before: Only those that were received before this time; `end_segment` was called then.
        """
        batch: list[Pending] = []
        left = size
        while len(batch) < count and left > 0:
            segment = self._items[0] if self._items else None
            if not isinstance(segment, _Segment) or segment.since >= before:
                break
            channel, waiting = next(iter(segment.items()))
            room = count - len(batch)
            taken = 0
            for pending in waiting[: room if segment.is_in_place else min(room, MAX_RUN)]:
                taken += 1
                batch.append(pending)
                left -= len(pending.update.data)
                if left <= 0:
                    break
            if taken < len(waiting):
                del waiting[:taken]
                segment.move_to_end(channel)
                continue
            del segment[channel]
            if not segment:
                self._items.popleft()
                if segment is self._tail:
                    self._tail = None
        self._discount(batch)
        return batch

    def _discount(self, batch: Sequence[Pending]) -> None:
        shares = self.shares
        for update, _ in batch:
            size = len(update.data) + OVERHEAD
            self.size -= size
            left = shares[update.channel] - size
            if left:
                shares[update.channel] = left
            else:
                del shares[update.channel]
        self.length -= len(batch)

    def take_request(self) -> BarrierRequest | None:
        """Remove the request at the head; None if something else is there."""
        if self._items and isinstance(head := self._items[0], BarrierRequest):
            self._items.popleft()
            self.length -= 1
            self.size -= OVERHEAD
            return head
        return None
