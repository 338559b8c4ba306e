"""How busy this process is: rates and lags of the last seconds, sampled by one task."""

from collections import deque
from collections.abc import Callable

import trio

from relay.core.rates import RateWindow
from relay.server.flusher import Flusher

#: Seconds that rates and lags are of.
WINDOW = 10

#: Seconds between two looks at how late the event loop is; and looks for each sample of the counts.
_TICK = 0.25
_TICKS_IN_SAMPLE = 4

#: Returns the counts: see `Activity`.
ReadCounts = Callable[[], tuple[int, int, int, int]]


class Activity:
    """Samples counts once a second, and the lag of the event loop four times.

    Args:
        read_counts: Returns counts that only grow: updates received, plain publishes among them, messages written to clients,
            and updates coalesced.
        flusher: Measures how long updates are pending.
    """

    def __init__(self, read_counts: ReadCounts, flusher: Flusher) -> None:
        self._read_counts = read_counts
        self._flusher = flusher
        self._window = RateWindow(WINDOW + 1)
        #: The worst of each second: of the event loop, and of deliveries.
        self._loop_lags: deque[float] = deque(maxlen=WINDOW)
        self._delivery_lags: deque[float] = deque(maxlen=WINDOW)

    @property
    def rates(self) -> list[float]:
        """How much each of the counts grew in a second."""
        return self._window.rates(4)

    @property
    def event_loop_lag(self) -> float:
        """The longest seconds by which a task ran late."""
        return max(self._loop_lags, default=0.0)

    @property
    def delivery_lag(self) -> float:
        """The longest seconds from receiving an update to having written it."""
        return max(self._delivery_lags, default=0.0)

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            self._window.add(trio.current_time(), self._read_counts())
            worst = 0.0
            for _ in range(_TICKS_IN_SAMPLE):
                due = trio.current_time() + _TICK
                await trio.sleep_until(due)
                worst = max(worst, trio.current_time() - due)
            self._loop_lags.append(worst)
            self._delivery_lags.append(self._flusher.worst)
            self._flusher.worst = 0.0
