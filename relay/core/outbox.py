"""What waits for one client: bounded in messages, bytes and age."""

from collections import deque
from collections.abc import Sequence
from typing import Any

from relay.core.closecodes import Close


class Bounds:
    """How much may wait for one client: messages, bytes, and seconds since the oldest was queued."""

    __slots__ = ("age", "messages", "size")

    def __init__(self, messages: int, size: int, age: float) -> None:
        self.messages = messages
        self.size = size
        self.age = age


class Batch:
    """Messages that go to one or many clients together, encoded once and shared by all of them.

    ``chunk`` is what the transport writes: one bytes object for sockets, a tuple of texts for plain ASGI. ``count`` and
    ``size`` are its messages and bytes.
    """

    __slots__ = ("chunk", "count", "size")

    def __init__(self, chunk: Any, count: int, size: int) -> None:
        self.chunk = chunk
        self.count = count
        self.size = size


class Outbox:
    """The queue of one client. It counts and judges; who drops the client is not its business.

    The head may be partly written: ``written`` is how many bytes of its chunk the socket took. ``delivered`` counts the
    messages that were popped.
    """

    __slots__ = ("_bounds", "_queue", "count", "delivered", "size", "written")

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._queue: deque[tuple[Batch, float]] = deque()
        self.count = 0
        self.size = 0
        self.written = 0
        self.delivered = 0

    def __bool__(self) -> bool:
        return bool(self._queue)

    def push(self, batch: Batch, now: float) -> None:
        """Queue a batch. It is never refused: ask `overflow` afterwards."""
        self._queue.append((batch, now))
        self.count += batch.count
        self.size += batch.size

    def head(self) -> Batch:
        """The batch that is to be written next; IndexError when nothing waits."""
        return self._queue[0][0]

    def heads(self, most: int) -> Sequence[Batch]:
        """Up to ``most`` batches from the front."""
        return [self._queue[i][0] for i in range(min(most, len(self._queue)))]

    def pop(self) -> Batch:
        """The head was written whole: remove it."""
        batch, _ = self._queue.popleft()
        self.count -= batch.count
        self.size -= batch.size
        self.written = 0
        self.delivered += batch.count
        return batch

    def clear(self) -> int:
        """Give up all that waits; returns how many messages that were, the partly written ones included."""
        lost = self.count
        self._queue.clear()
        self.count = self.size = self.written = 0
        return lost

    def overflow(self) -> Close | None:
        """The bound in messages or bytes that is passed, if one is."""
        if self.count > self._bounds.messages:
            return Close.SLOW_MESSAGES
        if self.size - self.written > self._bounds.size:
            return Close.SLOW_BYTES
        return None

    def overdue(self, now: float) -> Close | None:
        """SLOW_AGE when the oldest has waited longer than the bound."""
        if self._queue and now - self._queue[0][1] > self._bounds.age:
            return Close.SLOW_AGE
        return None
