"""The suite's side of the publisher: a process that publishes in bursts, on a schedule that is kept, or one by one."""

from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.latency import Latencies
from benchmarks.machine import LOAD_CORE
from benchmarks.protocol import Publishing
from benchmarks.remote import Remote
from benchmarks.wire import Update

#: Seconds for what a server should do at once.
TIMEOUT = 60.0


class Published(NamedTuple):
    """When publishing began (on a schedule: was to begin), when all was sent, and when all was acknowledged, in nanoseconds of
    the monotonic clock; CPU seconds of the publisher; seconds by which an update was late at most."""

    started: int
    sent: int
    acknowledged: int
    cpu: float
    late: float


class PublishFailed(Exception):
    """The server refused an update or did not acknowledge it; has its reply."""


class Publisher(Remote):
    """A publisher process for one server. Calls wait until everything is published."""

    def __init__(self, publishing: Publishing, port: int) -> None:
        super().__init__("benchmarks.publisher_process", LOAD_CORE)
        self.call("open", publishing=publishing, port=port)

    def use(self, updates: Sequence[Update]) -> None:
        """From now on publish these updates in turn."""
        self.call("use", updates=list(updates))

    def burst(self, count: int, *, first: int = 0, seed: int = 0) -> Published:
        """Publish each update `count` times in one go, numbered from `first`; the seed shuffles the order of the updates."""
        return Published(*self.call("burst", timeout=TIMEOUT * 2, count=count, first=first, seed=seed))

    def paced(self, count: int, rate: float) -> Published:
        """Publish `count` in all, `rate` a second, each stamped with the time that the schedule has for it.

        Where the publisher falls behind, it sends at once all that is due, with the times of the schedule: the latency
        contains the delay, so there is no coordinated omission.
        """
        return Published(*self.call("paced", timeout=count / rate + TIMEOUT, count=count, rate=rate))

    def round_trips(self, count: int) -> Latencies:
        """Publish one after the other, each when the one before was acknowledged; returns how long each took."""
        taken: Latencies = self.call("round_trips", timeout=TIMEOUT, count=count)
        return taken
