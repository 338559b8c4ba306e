"""The lag of the event loop: by how much tasks are woken too late, looked at ten times a second without a task for that."""

from collections.abc import Callable
from time import monotonic

import trio

#: Seconds between two looks.
_LOOK_SECONDS = 0.1


class EventLoopLag(trio.abc.Instrument):
    """Observes the lag of a task that would sleep a tenth of a second again and again. Such a task would wake an idle process.

    Trio says when it waits and when it has waited. A sleeper that is due while Trio waits is woken in time, unless the wait
    ends late because the process did not get a CPU. One that is due while tasks run is woken after them.
    """

    def __init__(self, observe: Callable[[float], None], clock: Callable[[], float] = monotonic) -> None:
        """Make it; it observes once it is one of Trio's instruments.

        Args:
            observe: Called with the seconds of each look.
            clock: Returns the monotonic time in seconds.
        """
        self._observe = observe
        self._clock = clock
        self._waits_until = self._woken_at = clock()
        self._due = self._woken_at + _LOOK_SECONDS

    def before_io_wait(self, timeout: float) -> None:
        """Take the looks that were due since the last wait began."""
        now = self._clock()
        if self._due <= now:
            self._look(now)
        self._waits_until = now + timeout

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - as Trio calls it
        """Note when tasks begin to run."""
        self._woken_at = self._clock()

    def _look(self, now: float) -> None:
        due = self._due
        in_time_until = min(self._woken_at, self._waits_until)
        while due <= in_time_until:  # a wait lasts for a tick of `relay.ticks` at most
            self._observe(0.0)
            due += _LOOK_SECONDS
        if due <= now:
            # What was due before tasks ran waited for the CPU only, and the first task was woken as soon as there was one.
            self._observe((self._woken_at if due <= self._woken_at else now) - due)
            due = now + _LOOK_SECONDS
        self._due = due
