"""Ticks: times that all periodic work of a process has in common, so that an idle process wakes up once for all of it."""

from math import floor

import trio

#: Seconds between two ticks. Limits in seconds are kept to within this.
TICK = 0.25


async def sleep_until_tick(seconds: float = TICK) -> None:
    """Sleep until the next time that is a multiple of a period.

    Work whose periods are multiples of each other is due at the same moments, in one turn of the event loop. Trio's clock
    begins at a random time in each process, so several relays are not due together.

    Args:
        seconds: The period. The first sleep may be shorter. Times that have passed are left out.
    """
    await trio.sleep_until((floor(trio.current_time() / seconds) + 1) * seconds)
