"""Ticks: times that all periodic work of a process has in common, so that an idle process wakes up once for all of it."""

from math import floor

import trio

#: Seconds between two ticks. Limits in seconds are kept to within this.
TICK = 0.25

#: By the time for which tasks sleep: set when that has come, or when the one that sleeps for all of them is cancelled.
_sleepers: trio.lowlevel.RunVar[dict[float, trio.Event]] = trio.lowlevel.RunVar("relay_sleepers")


async def sleep_until_tick(seconds: float = TICK) -> None:
    """Sleep until the next time that is a multiple of a period.

    Work whose periods are multiples of each other is due at the same moments, in one turn of the event loop. Trio's clock
    begins at a random time in each process, so several relays are not due together.

    Args:
        seconds: The period. The first sleep may be shorter. Times that have passed are left out.
    """
    until = (floor(trio.current_time() / seconds) + 1) * seconds
    try:
        sleepers = _sleepers.get()
    except LookupError:
        sleepers = {}
        _sleepers.set(sleepers)
    while True:
        # One task has a timer; to be woken by an event costs the others a quarter of what a timer of their own would.
        if (awake := sleepers.get(until)) is not None:
            await awake.wait()
        else:
            awake = sleepers[until] = trio.Event()
            try:
                await trio.sleep_until(until)
            finally:
                del sleepers[until]
                awake.set()
        if trio.current_time() >= until:
            return
