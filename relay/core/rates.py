"""Rates over the last seconds, from counts that only grow."""

from collections import deque
from collections.abc import Sequence


class RateWindow:
    """Keeps a limited number of samples of some counts, and returns how fast they grow.

    Args:
        samples: Samples that are kept. The rates are those between the oldest and the latest.
    """

    def __init__(self, samples: int) -> None:
        self._samples: deque[tuple[float, Sequence[int]]] = deque(maxlen=samples)

    def add(self, now: float, counts: Sequence[int]) -> None:
        """Take a sample; `now` is the monotonic time in seconds. Every sample has as many counts."""
        self._samples.append((now, counts))

    def rates(self, number: int) -> list[float]:
        """Return how much each of so many counts grew in a second. With one sample or none, that is nothing."""
        if len(self._samples) < 2:
            return [0.0] * number
        (begun, first), (ended, last) = self._samples[0], self._samples[-1]
        seconds = max(ended - begun, 1e-9)
        return [(after - before) / seconds for before, after in zip(first, last, strict=True)]
