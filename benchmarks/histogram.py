"""Latencies, in nanoseconds: a quick counter for the load generators, and HDR histograms for the results.

`hdrh`'s `record_value` costs more than all else that a generator does for a frame, so generators count in buckets of 9
leading bits and the HDR histogram is filled from these at the end.
"""

from collections.abc import Mapping
from typing import Self

from hdrh.histogram import HdrHistogram

#: Values keep this many leading bits, which bounds the relative error by 2**-8.
_BITS = 9

#: Microseconds: from 1 us to 10 minutes, with three digits.
_LOWEST, _HIGHEST, _DIGITS = 1, 600_000_000, 3


def bucket_of(value: int) -> int:
    """The bucket of a value: its leading bits; 0 for a negative one."""
    shift = value.bit_length() - _BITS
    return value >> shift << shift if shift > 0 else max(0, value)


class Counts:
    """Counts of nanoseconds by their leading bits."""

    __slots__ = ("buckets",)

    def __init__(self) -> None:
        self.buckets: dict[int, int] = {}

    def add(self, value: int) -> None:
        """Count one value."""
        bucket = bucket_of(value)
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1


class Histogram:
    """An HDR histogram of microseconds."""

    __slots__ = ("_hdr",)

    def __init__(self) -> None:
        self._hdr = HdrHistogram(_LOWEST, _HIGHEST, _DIGITS)

    @classmethod
    def of(cls, buckets: Mapping[str, int]) -> Self:
        """From a generator's counts, as they come out of JSON."""
        histogram = cls()
        for bucket, count in buckets.items():
            histogram._hdr.record_value(min(_HIGHEST, max(_LOWEST, int(bucket) // 1000)), count)
        return histogram

    @classmethod
    def decoded(cls, encoded: str) -> Self:
        """The opposite of `encoded`."""
        histogram = cls()
        histogram._hdr.decode_and_add(encoded.encode())
        return histogram

    def merge(self, other: "Histogram") -> None:
        """Add all that another one has counted."""
        self._hdr.add(other._hdr)

    @property
    def total(self) -> int:
        """How many values were counted."""
        return int(self._hdr.total_count)

    def quantile(self, fraction: float) -> float:
        """Seconds that the given fraction of values does not exceed; 0 when there are none."""
        if not self.total:
            return 0.0
        return float(self._hdr.get_value_at_percentile(fraction * 100)) / 1e6

    @property
    def encoded(self) -> str:
        """HdrHistogram's own compressed form, which its tools read."""
        return str(self._hdr.encode().decode())
