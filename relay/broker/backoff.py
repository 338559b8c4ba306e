"""How long to wait before trying again."""

import random
from collections.abc import Callable

#: Seconds: the first step, which doubles with each attempt, and the longest.
BASE = 0.05
CAP = 1.0


def backoff(attempt: int, draw: Callable[[], float] = random.random) -> float:
    """Return the seconds to wait before an attempt, with full jitter, at least a tenth of the step.

    Args:
        attempt: Counts from 0.
        draw: Returns a random number from 0 to 1.
    """
    step = min(CAP, BASE * 2.0 ** min(attempt, 16))
    return step * (0.1 + 0.9 * draw())
