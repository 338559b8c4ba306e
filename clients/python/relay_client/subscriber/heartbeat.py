"""Whether the relay is still there: when to send a ping, and when to give the connection up."""

import math
from enum import Enum, auto


class Health(Enum):
    """The result of `Heartbeat.check`."""

    GOOD = auto()
    PING_DUE = auto()
    LOST = auto()


class Heartbeat:
    """Judges one connection by the bytes that arrive on it. Times are in seconds, of any one clock.

    Args:
        interval: Silence after which a ping is due.
        timeout: How long the answer may take.
        now: When the connection was opened.
    """

    def __init__(self, interval: float, timeout: float, now: float) -> None:
        self._interval = interval
        self._timeout = timeout
        self._received_at = now
        self._pinged_at = -math.inf
        self._is_paused = False

    def received(self, now: float) -> None:
        """Take note that bytes have arrived."""
        self._received_at = now
        self._pinged_at = -math.inf

    def pause(self) -> None:
        """Take note that the connection is not read for a while, so that silence means nothing."""
        self._is_paused = True

    def resume(self, now: float) -> None:
        """Take note that the connection is read again."""
        self._is_paused = False
        self.received(now)

    @property
    def next_check(self) -> float:
        """When to call `check` again at the latest."""
        if self._is_paused:
            return math.inf
        if self._pinged_at > self._received_at:
            return self._pinged_at + self._timeout
        return self._received_at + self._interval

    def check(self, now: float) -> Health:
        """Judge the connection. PING_DUE is reported once for each silence, and counts as sent."""
        if now < self.next_check:
            return Health.GOOD
        if self._pinged_at > self._received_at:
            return Health.LOST
        self._pinged_at = now
        return Health.PING_DUE
