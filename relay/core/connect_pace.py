"""The pace at which clients connect: a limit for each second, and a time to return for those whom it keeps out.

Many clients that lose their relay at once come back at once. A handshake, a token and a history for each of them cost the next
relay more than serving them does, so it takes them in one after the other, and says to the rest when to come.
"""

import random
from collections.abc import Callable

from relay.core.client_budget import TokenBucket

#: The share of a second's connects that may come at once.
_BURST_SECONDS = 0.05

#: Seconds before which no client is asked to come back, and seconds at random that each is given in addition.
MIN_RETURN = 0.1
RETURN_SPREAD = 1.0

#: Longest time that a client is asked to stay away, in seconds.
MAX_RETURN = 60.0


class ConnectPace:
    """Lets no more than a number of connects through in any second.

    What may come at once is a part of that number, not in addition to it: after a pause, or after a stall of the event loop, a
    second has no more connects than any other.

    Args:
        rate: Connects in any second, above 0.
    """

    def __init__(self, rate: float) -> None:
        at_once = max(1.0, float(int(rate * _BURST_SECONDS)))
        #: Connects per second on end, once what may come at once is used up.
        self.steady_rate = rate - at_once + 1.0
        self._bucket = TokenBucket(at_once, self.steady_rate)

    def seconds_until_next(self, now: float) -> float:
        """Return the seconds until one more client may connect; 0 if it may now.

        Args:
            now: The monotonic time in seconds.
        """
        self._bucket.take(now, 0.0)
        return self._bucket.seconds_until(1.0)

    def take(self, now: float) -> None:
        """Count a client that connects, after the wait of `seconds_until_next`."""
        self._bucket.take(now, 1.0)


class ReturnSchedule:
    """Gives clients that must go, or cannot come in, a time to return: each a place of its own, and a little at random.

    Args:
        rate: Clients that may come back each second; 0 if that is not limited.
        draw: Returns a random number from 0 to 1.
    """

    def __init__(self, rate: float, draw: Callable[[], float] = random.random) -> None:
        self._interval = 1.0 / rate if rate else 0.0
        self._draw = draw
        self._last = 0.0

    def delay(self, now: float, after: float = 0.0) -> float:
        """Return for how many seconds one more client should stay away, `MAX_RETURN` at most.

        Beyond that the places are given away, and it is any time up to it.

        Args:
            now: The monotonic time in seconds.
            after: Seconds for which there is no room for it, since others wait already.
        """
        due = max(self._last + self._interval, now + MIN_RETURN + after)
        longest = MAX_RETURN - RETURN_SPREAD
        if due - now > longest:
            return MIN_RETURN + self._draw() * (MAX_RETURN - MIN_RETURN)
        self._last = due
        return due - now + self._draw() * RETURN_SPREAD
