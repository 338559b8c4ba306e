"""The messages that wait for one client: limited in number, bytes and time without progress, and coalesced before a drop.

Two kinds of batches wait here. Live updates come when they come; they count against the limits. Paced batches (answers, states,
history) are added only while the queue is below its low-water mark, so the client's own speed limits them and they count
against nothing. No single batch is ever the reason for an overflow, however large it is: the queue overflows when it was over
its limit already before the newest batch came.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from relay.core.batches import Batch, Message, batch_of
from relay.core.closecodes import Close
from relay.core.coalescing import coalesce

#: Bytes that a client has to read within the maximum age for the queue to count as moving, if that much waits.
MIN_PROGRESS = 16 * 1024


class QueueLimits(NamedTuple):
    """How much may wait for one client.

    Attributes:
        coalesce_after: Messages beyond which updates of one task are merged.
        messages: Messages beyond which the client is dropped.
        size: Bytes beyond which it is dropped.
        age: Seconds without progress after which it is dropped.
    """

    coalesce_after: int
    messages: int
    size: int
    age: float


class QueueReport(NamedTuple):
    """What waits for one client, for operators.

    Attributes:
        messages: Messages that wait.
        size: Bytes that wait.
        age: Seconds since nothing waited.
        limit_used: How much of the limit is used up that is used up the most; at 1 the client is about to be dropped.
    """

    messages: int
    size: int
    age: float
    limit_used: float


class _Entry(NamedTuple):
    batch: Batch
    is_paced: bool


#: What waits for nearly every client: nothing. It stays empty; a queue of its own takes three quarters of a kilobyte.
_NOTHING: deque[_Entry] = deque()


class SendQueue:
    """The queue of one client. It counts, coalesces and judges; dropping the client is left to the caller.

    Attributes:
        count: Messages that wait.
        size: Bytes that wait, including what is written of the head.
        written: How much of the head's chunk the transport has taken: bytes on sockets, messages on plain ASGI.
        delivered: Messages popped since the caller last set it to zero.
        coalesced: Messages merged into others since the caller last set it to zero.
    """

    __slots__ = (
        "_behind_since",
        "_coalesce_at",
        "_limits",
        "_live_count",
        "_live_size",
        "_on_low",
        "_overflow",
        "_popped",
        "_progress_at",
        "_progress_goal",
        "_queue",
        "coalesced",
        "count",
        "delivered",
        "size",
        "written",
    )

    def __init__(self, limits: QueueLimits) -> None:
        self._limits = limits
        self._queue = _NOTHING
        self._coalesce_at = limits.coalesce_after
        self._behind_since = 0.0
        self._live_count = 0
        self._live_size = 0
        self._overflow: Close | None = None  # as it was before the newest live batch came
        self._on_low: Callable[[], None] | None = None
        self._popped = 0
        self._progress_at = 0.0
        self._progress_goal = 0
        self.count = 0
        self.size = 0
        self.written = 0
        self.delivered = 0
        self.coalesced = 0

    def __bool__(self) -> bool:
        return bool(self._queue)

    def push(self, batch: Batch, now: float, *, paced: bool = False) -> None:
        """Add a batch, coalescing beyond the soft limit. Never refuses one: ask `overflow` afterwards.

        Args:
            batch: What to send.
            now: The monotonic time in seconds.
            paced: The caller has waited for `is_low`, so the batch does not count against the limits.
        """
        if not self._queue:
            self._behind_since = now
            self._begin_progress(now, batch.size)
        if not paced:
            self._overflow = self._exceeded()
        self._append(_Entry(batch, paced))
        if self.count > self._coalesce_at and len(self._queue) > 1:
            self._coalesce()
            # What could not be merged is not looked at again before there is as much again.
            self._coalesce_at = max(self._limits.coalesce_after, 2 * self.count)

    def _append(self, entry: _Entry) -> None:
        batch, is_paced = entry
        if self._queue is _NOTHING:
            self._queue = deque()
        self._queue.append(entry)
        self.count += batch.count
        self.size += batch.size
        if not is_paced:
            self._live_count += batch.count
            self._live_size += batch.size

    def _coalesce(self) -> None:
        """Merge what waits behind the head, which may be partly written. Paced batches keep their place and their content."""
        head = self._queue.popleft()
        waiting = list(self._queue)
        before = self.count
        self._queue.clear()
        self.count = self.size = self._live_count = self._live_size = 0
        self._append(head)
        run: list[Message] = []
        for entry in waiting:
            messages = None if entry.is_paced else entry.batch.messages
            if messages is not None:
                run += messages
                continue
            if entry.is_paced:
                self._append_run(run)
            self._append(entry)  # a pong or a heartbeat: its place among the updates does not matter
        self._append_run(run)
        self.coalesced += before - self.count
        self._progress_goal = min(self._progress_goal, self._popped + self.size)

    def _append_run(self, run: list[Message]) -> None:
        if run:
            self._append(_Entry(batch_of(coalesce(run)), False))
            run.clear()

    def head(self) -> Batch:
        """Return the batch to be written next. Raises IndexError if nothing waits."""
        return self._queue[0].batch

    def peek(self, limit: int) -> Sequence[Batch]:
        """Return up to `limit` batches from the front, without removing them."""
        return [self._queue[i].batch for i in range(min(limit, len(self._queue)))]

    def pop(self) -> Batch:
        """Remove the head, which was written whole, and return it."""
        batch, is_paced = self._queue.popleft()
        self.count -= batch.count
        self.size -= batch.size
        if not is_paced:
            self._live_count -= batch.count
            self._live_size -= batch.size
        self._popped += batch.size
        self.written = 0
        self.delivered += batch.count
        if not self._queue:
            self._queue = _NOTHING
            self._coalesce_at = self._limits.coalesce_after
        if self._on_low is not None and self.is_low:
            self._call_on_low()
        return batch

    def clear(self) -> None:
        """Discard everything that waits."""
        self._queue = _NOTHING
        self.count = self.size = self.written = self._live_count = self._live_size = 0
        self._overflow = None
        self._call_on_low()

    @property
    def is_low(self) -> bool:
        """So little waits that a paced batch may be added."""
        return self.size <= self._limits.size // 4 and self.count <= self._limits.messages // 4

    def call_when_low(self, callback: Callable[[], None]) -> None:
        """Call back once, as soon as `is_low` becomes true by what is popped. Replaces an earlier callback."""
        self._on_low = callback

    def _call_on_low(self) -> None:
        callback, self._on_low = self._on_low, None
        if callback is not None:
            callback()

    def overflow(self) -> Close | None:
        """Return the limit in messages or bytes that was exceeded before the newest live batch came, or None."""
        return self._overflow

    def _exceeded(self) -> Close | None:
        if self._live_count > self._limits.messages:
            return Close.SLOW_MESSAGES
        written = self.written if self._queue and not self._queue[0].is_paced else 0
        if self._live_size - written > self._limits.size:
            return Close.SLOW_BYTES
        return None

    def expired(self, now: float) -> Close | None:
        """Return SLOW_AGE if the client has not made progress for the maximum age, else None.

        Progress is to read what waited at the last look, or MIN_PROGRESS bytes of it. The caller has to ask several times
        within the maximum age, for progress is noticed here.
        """
        if not self._queue:
            return None
        if self._popped + self.written >= self._progress_goal:
            self._begin_progress(now, self.size - self.written)
        elif now - self._progress_at > self._limits.age:
            return Close.SLOW_AGE
        return None

    def report(self, now: float) -> QueueReport:
        """Return what waits for the client. `now` is the monotonic time in seconds."""
        if not self._queue:
            return QueueReport(0, 0, 0.0, 0.0)
        limits = self._limits
        used = (
            self._live_count / limits.messages,
            self._live_size / limits.size,
            (now - self._progress_at) / limits.age,
        )
        return QueueReport(self.count, self.size - self.written, now - self._behind_since, max(used))

    def _begin_progress(self, now: float, waiting: int) -> None:
        self._progress_at = now
        self._progress_goal = self._popped + self.written + min(waiting, MIN_PROGRESS)
