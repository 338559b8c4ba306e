"""Flushing the hub, with the latency measured: at the end of a subscription's turn, and outside of turns at once."""

from time import monotonic

import trio

from relay.core.hub import Hub
from relay.metrics import Metrics
from relay.server.latency_samples import PublishLatency
from relay.server.trace_fan_out import FanOutTraces


class Flusher:
    """Hands out what the hub has gathered. One for a hub.

    Args:
        hub: Calls `on_pending` when something is to be flushed.
        metrics: Where the latency is observed.
        publish_latency: Samples of what was flushed are measured there.
        traces: Makes spans of what was flushed, if anything does.

    Attributes:
        worst: The longest seconds that an update was pending since the caller last set it to zero.
    """

    def __init__(
        self, hub: Hub, metrics: Metrics, publish_latency: PublishLatency, traces: FanOutTraces | None = None
    ) -> None:
        self._hub = hub
        self._metrics = metrics
        self._publish_latency = publish_latency
        self._traces = traces
        self._pending = trio.Event()
        self._oldest_received = 0.0
        self.worst = 0.0

    def on_pending(self) -> None:
        """Note that the hub has something to flush; in a turn of the subscription it is flushed at the turn's end."""
        self._oldest_received = monotonic()
        if not self._hub.is_receiving:
            self._pending.set()

    def flush(self) -> None:
        """Flush the hub now."""
        self._hub.flush()
        self.on_flushed()

    def on_flushed(self) -> None:
        """Observe how long the oldest update was pending that was flushed just now."""
        now = monotonic()
        seconds = now - self._oldest_received
        self._metrics.latency.observe(seconds)
        self.worst = max(self.worst, seconds)
        self._publish_latency.on_written(self._hub.oldest_flushed, now)
        if self._traces is not None:
            self._traces.on_flushed()

    async def run(self) -> None:
        """Flush what becomes pending outside of a turn, until cancelled."""
        while True:
            await self._pending.wait()
            self._pending = trio.Event()
            self.flush()
