"""How busy this process is: rates and lags of the last seconds, sampled by one task."""

from collections import deque
from collections.abc import Callable

import trio

from relay.core.rates import RateWindow
from relay.server.flusher import Flusher
from relay.ticks import sleep_until_tick

#: Seconds that rates and lags are of.
WINDOW = 10

#: Seconds between two samples.
_SAMPLE_SECONDS = 1.0

#: Returns the counts: see `Activity`.
ReadCounts = Callable[[], tuple[int, int, int, int]]


class Activity:
    """Samples counts and lags once a second.

    Args:
        read_counts: Returns counts that only grow: updates received, plain publishes among them, messages written to clients,
            and updates coalesced.
        flusher: Measures how long updates are pending.
    """

    def __init__(self, read_counts: ReadCounts, flusher: Flusher) -> None:
        self._read_counts = read_counts
        self._flusher = flusher
        self._window = RateWindow(WINDOW + 1)
        self._loop_lag = 0.0
        #: The worst of each second: of the event loop, and of deliveries.
        self._loop_lags: deque[float] = deque(maxlen=WINDOW)
        self._delivery_lags: deque[float] = deque(maxlen=WINDOW)

    def on_lag(self, seconds: float) -> None:
        """Note by how much the event loop was late."""
        self._loop_lag = max(self._loop_lag, seconds)

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
            await sleep_until_tick(_SAMPLE_SECONDS)
            self._loop_lags.append(self._loop_lag)
            self._delivery_lags.append(self._flusher.worst)
            self._loop_lag = self._flusher.worst = 0.0
