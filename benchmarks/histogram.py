"""A log-bucketed histogram: every value is kept to within 1%, whatever its size, in a few hundred counters."""

from collections.abc import Mapping
from typing import Self

#: Values keep this many leading bits, which bounds the relative error by 2**-7.
_BITS = 8


class Histogram:
    """Counts of non-negative integers; here always nanoseconds."""

    __slots__ = ("counts",)

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self.counts: dict[int, int] = dict(counts or {})

    def add(self, value: int) -> None:
        """Count one value; a negative one counts as 0."""
        shift = value.bit_length() - _BITS
        bucket = value >> shift << shift if shift > 0 else max(0, value)
        self.counts[bucket] = self.counts.get(bucket, 0) + 1

    def merge(self, other: "Histogram") -> None:
        """Add all that another one has counted."""
        for bucket, count in other.counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + count

    @property
    def total(self) -> int:
        """How many values were counted."""
        return sum(self.counts.values())

    def quantile(self, fraction: float) -> int:
        """The value that the given fraction of values does not exceed, to within a bucket; 0 when there are none."""
        rank = fraction * self.total
        seen = 0
        bucket = 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= rank:
                break
        return bucket

    def to_json(self) -> dict[str, int]:
        """For a result file or a pipe."""
        return {str(bucket): self.counts[bucket] for bucket in sorted(self.counts)}

    @classmethod
    def from_json(cls, counts: Mapping[str, int]) -> Self:
        """The opposite of `to_json`."""
        return cls({int(bucket): count for bucket, count in counts.items()})
