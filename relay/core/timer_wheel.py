"""Timers of many clients in one structure, instead of a task for each: buckets of equal times, and a heap of the buckets."""

from heapq import heappop, heappush
from math import ceil
from typing import Generic, TypeVar

T = TypeVar("T")

#: Buckets in one second.
_PER_SECOND = 4

#: Seconds ahead for which timers are kept at most. One that is later comes due early, and is to be scheduled again: so however
#: far apart the times are, there are only so many buckets.
HORIZON = 3600.0


class TimerWheel(Generic[T]):
    """Timers by item, of which each has one at most. A timer comes due at its time or up to a quarter of a second later."""

    def __init__(self) -> None:
        self._buckets: dict[int, dict[T, None]] = {}
        self._bucket_of: dict[T, int] = {}
        self._order: list[int] = []

    def __len__(self) -> int:
        return len(self._bucket_of)

    def schedule(self, item: T, at: float, now: float) -> None:
        """Set an item's timer, in place of the one that it has.

        Args:
            item: The item.
            at: When the timer is due, in seconds of any clock.
            now: The present time of the same clock.
        """
        if item in self._bucket_of:
            self.cancel(item)
        latest = now + HORIZON
        number = ceil((at if at < latest else latest) * _PER_SECOND)
        bucket = self._buckets.get(number)
        if bucket is None:
            bucket = self._buckets[number] = {}
            heappush(self._order, number)
        bucket[item] = None
        self._bucket_of[item] = number

    def cancel(self, item: T) -> None:
        """Forget an item's timer, if it has one."""
        number = self._bucket_of.pop(item, None)
        if number is not None:
            del self._buckets[number][item]

    def due(self, now: float) -> list[T]:
        """Remove and return the items whose timers are due, the earliest first."""
        items: list[T] = []
        while self._order and self._order[0] <= now * _PER_SECOND:
            bucket = self._buckets.pop(heappop(self._order))
            items += bucket
            for item in bucket:
                del self._bucket_of[item]
        return items
