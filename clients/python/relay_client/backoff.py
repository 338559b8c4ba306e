"""The one backoff of Relay's clients: exponential, with full jitter."""

import random
from collections.abc import Callable


def full_jitter(attempt: int, base: float, cap: float, draw: Callable[[], float] = random.random) -> float:
    """Return how long to wait before a further attempt.

    Args:
        attempt: How many attempts have failed before, from 0.
        base: Upper bound of the first delay, in seconds; it doubles with each attempt.
        cap: Upper bound of every delay, in seconds.
        draw: Returns a random number from 0 to 1.

    Returns:
        Seconds, at random between 0 and the bound.
    """
    return draw() * min(cap, base * 2.0 ** min(attempt, 32))
