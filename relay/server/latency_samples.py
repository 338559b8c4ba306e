"""How long updates take from Redis to the clients: samples, taken now and then."""

import structlog
import trio

from relay.broker.publication_times import PublicationTimes, WrittenUpdate
from relay.core.errors import BrokerError
from relay.core.updates import Update
from relay.metrics import Metrics
from relay.ticks import sleep_until_tick

_log = structlog.get_logger("relay.latency")

#: Seconds between two updates whose way is measured, and between two questions to Redis about them.
_SAMPLE_SECONDS = 0.2
_READ_SECONDS = 1.0

#: Updates that wait to be asked about at most.
_MAX_SAMPLES = 16


class PublishLatency:
    """Measures the way of some updates, from Redis storing them to the sockets.

    An update costs nothing; a turn of the subscription costs a comparison. Redis is asked once a second when it stored the few
    that were noted.

    Args:
        times: Reads when they were stored.
        metrics: Where the latency is observed.
    """

    def __init__(self, times: PublicationTimes, metrics: Metrics) -> None:
        self._times = times
        self._metrics = metrics
        self._due_at = 0.0
        self._samples: list[WrittenUpdate] = []
        self._has_samples = trio.Event()

    def on_written(self, update: Update | None, now: float) -> None:
        """Note an update that was written to all of its clients that read, if it is time to.

        Args:
            update: The oldest of those that were written together; None if that was something else.
            now: On the monotonic clock.
        """
        if now >= self._due_at and update is not None and update.position is not None:
            self._due_at = now + _SAMPLE_SECONDS
            if len(self._samples) < _MAX_SAMPLES:
                self._samples.append(WrittenUpdate(update.channel, update.position, now))
                self._has_samples.set()

    async def run(self) -> None:
        """Observe what was noted, until cancelled. While Redis does not answer nothing is observed."""
        while True:
            await self._has_samples.wait()
            await sleep_until_tick(_READ_SECONDS)
            samples, self._samples = self._samples, []
            self._has_samples = trio.Event()
            try:
                latencies = await self._times.latencies(samples)
            except BrokerError as error:
                _log.debug("publish latency not measured", error=str(error))
                continue
            for latency in latencies:
                self._metrics.publish_latency.observe(latency)
