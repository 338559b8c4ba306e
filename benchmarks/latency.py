"""Latencies: counted in cheap buckets while measuring, turned into an HDR histogram for quantiles and for the result file.

`hdrh.record_value` costs more than all else that a load generator does for an update, so it is only called once per bucket.
"""

from collections import Counter

from hdrh.histogram import HdrHistogram

#: Values keep this many leading bits, which bounds the relative error by 2**-8.
_BITS = 9

#: Microseconds: from 1 us to 10 minutes, with three digits.
_LOWEST, _HIGHEST, _DIGITS = 1, 600_000_000, 3


def bucket_of(nanoseconds: int) -> int:
    """Round a value down to its leading bits; a negative one to 0."""
    shift = nanoseconds.bit_length() - _BITS
    return nanoseconds >> shift << shift if shift > 0 else max(0, nanoseconds)


class Latencies(Counter[int]):
    """How often each latency occurred, in nanoseconds rounded by `bucket_of`."""

    def __add__(self, other: Counter[int]) -> "Latencies":  # type: ignore[override]  # of this kind only
        both = Latencies(self)
        both.update(other)
        return both

    def add(self, nanoseconds: int) -> None:
        """Count one value."""
        self[bucket_of(nanoseconds)] += 1

    def _histogram(self) -> HdrHistogram:
        histogram = HdrHistogram(_LOWEST, _HIGHEST, _DIGITS)
        for bucket, count in self.items():
            histogram.record_value(min(_HIGHEST, max(_LOWEST, bucket // 1000)), count)
        return histogram

    def quantile(self, fraction: float) -> float:
        """Return the seconds that this fraction of the values does not exceed; 0 when there are none."""
        return float(self._histogram().get_value_at_percentile(fraction * 100)) / 1e6 if self else 0.0

    def quantiles(self) -> dict[str, float]:
        """Return the figures of a row that describe the distribution; none when nothing was counted."""
        names = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1.0}
        return {name: self.quantile(fraction) for name, fraction in names.items()} if self else {}

    def encoded(self) -> str | None:
        """Return HdrHistogram's own compressed form, in microseconds, which its tools read; None when empty."""
        return str(self._histogram().encode().decode()) if self else None
