"""Latencies: counted in cheap buckets while measuring, turned into an HDR histogram for quantiles and for the result file.

`hdrh.record_value` costs more than all else that a load generator does for an update, so it is only called once per bucket.
"""

from hdrh.histogram import HdrHistogram

#: Values keep this many leading bits, which bounds the relative error by 2**-8.
_BITS = 9

#: Microseconds: from 1 us to 10 minutes, with three digits.
_LOWEST, _HIGHEST, _DIGITS = 1, 600_000_000, 3


class Latencies:
    """How often each latency occurred, in nanoseconds rounded down to their leading bits."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def __add__(self, other: "Latencies") -> "Latencies":
        both = Latencies()
        both._counts = {
            key: self._counts.get(key, 0) + other._counts.get(key, 0) for key in {*self._counts, *other._counts}
        }
        return both

    def add(self, nanoseconds: int) -> None:
        """Count one value; a negative one as 0."""
        shift = nanoseconds.bit_length() - _BITS
        bucket = nanoseconds >> shift << shift if shift > 0 else max(0, nanoseconds)
        self._counts[bucket] = self._counts.get(bucket, 0) + 1

    @property
    def total(self) -> int:
        """How many values were counted."""
        return sum(self._counts.values())

    def _histogram(self) -> HdrHistogram:
        histogram = HdrHistogram(_LOWEST, _HIGHEST, _DIGITS)
        for bucket, count in self._counts.items():
            histogram.record_value(min(_HIGHEST, max(_LOWEST, bucket // 1000)), count)
        return histogram

    def quantile(self, fraction: float) -> float:
        """Return the seconds that this fraction of the values does not exceed; 0 when there are none."""
        return float(self._histogram().get_value_at_percentile(fraction * 100)) / 1e6 if self._counts else 0.0

    def quantiles(self) -> dict[str, float]:
        """Return the figures of a row that describe the distribution; none when nothing was counted."""
        names = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1.0}
        return {name: self.quantile(fraction) for name, fraction in names.items()} if self._counts else {}

    def encoded(self) -> str | None:
        """Return HdrHistogram's own compressed form, in microseconds, which its tools read; None when empty."""
        return str(self._histogram().encode().decode()) if self._counts else None
