"""Counts of one process's sessions. Hot paths add to plain integers, and `Statistics.report` moves them into the metrics."""

from collections import Counter
from collections.abc import Iterable
from time import monotonic

import structlog

from relay.core.closecodes import Close
from relay.core.hub import Hub
from relay.metrics import Metrics

_log = structlog.get_logger("relay.sessions")

#: Metric label of a subscription's outcome, by `recovered` of the answer to it.
_OUTCOMES = {None: "new", True: "recovered", False: "not_recovered"}

#: Seconds between two lines about subscriptions that were refused since their channels could not be read.
_LOG_INTERVAL = 10.0


class Statistics:
    """Counts of what the sessions of this process did since the last report.

    Attributes:
        messages_sent: Messages written to clients.
        updates_coalesced: Updates that were merged into others for slow clients.
        dropped: Clients dropped since the start, by reason.
    """

    def __init__(self, metrics: Metrics, hub: Hub) -> None:
        self._metrics = metrics
        self._hub = hub
        self.messages_sent = 0
        self.updates_coalesced = 0
        self.dropped = Counter[str]()
        self._reported_messages = 0
        self._reported_coalesced = 0
        self._accepted = Counter[str]()  # by transport
        self._connected = Counter[str]()
        self._recoveries = Counter[bool | None]()  # by outcome
        self._unavailable = 0  # since the last line about them
        self._logged_at = float("-inf")

    @property
    def total_messages_sent(self) -> int:
        """Messages written to clients since the start."""
        return self._reported_messages + self.messages_sent

    @property
    def total_updates_coalesced(self) -> int:
        """Updates merged into others since the start."""
        return self._reported_coalesced + self.updates_coalesced

    def on_session_started(self, transport: str) -> None:
        """Count a session that began on this kind of transport."""
        self._accepted[transport] += 1
        self._connected[transport] += 1

    def on_session_closing(self, close: Close, peer: str, waiting: int) -> None:
        """Count why a session ends, and log it when the client caused it.

        Args:
            close: The reason.
            peer: The client's address, for the log.
            waiting: Messages that were still queued for the client.
        """
        self._metrics.connections_closed.labels(close.label).inc()
        if close.is_drop:
            self._metrics.connections_dropped.labels(close.label).inc()
            self.dropped[close.label] += 1
            _log.info("client dropped", client=peer, reason=close.label, code=close.code, waiting=waiting)

    def on_session_ended(self, transport: str) -> None:
        """Count a session whose connection is closed."""
        self._connected[transport] -= 1

    def on_recovery(self, recovered: bool | None) -> None:
        """Count a subscription that got its history; `recovered` is None for a new subscriber."""
        self._recoveries[recovered] += 1

    def on_unavailable(self, channel: str, reason: str) -> None:
        """Count a subscription that was refused since its channel could not be read now; a line says so now and then."""
        self._metrics.recoveries.labels("unavailable").inc()
        self._unavailable += 1
        now = monotonic()
        if now - self._logged_at >= _LOG_INTERVAL:
            self._logged_at = now
            _log.warning("subscriptions refused for now", channel=channel, reason=reason, refused=self._unavailable)
            self._unavailable = 0

    def on_invalid_message(self, code: str) -> None:
        """Count a client's message that was refused, by the code of the refusal."""
        self._metrics.messages_invalid.labels(code).inc()

    def report(self, queue_depths: Iterable[int]) -> None:
        """Bring the metrics up to date.

        Args:
            queue_depths: Messages that wait for each client that has any.
        """
        metrics = self._metrics
        self._reported_messages += self.messages_sent
        self._reported_coalesced += self.updates_coalesced
        metrics.messages_sent.inc(self.messages_sent)
        metrics.updates_coalesced.inc(self.updates_coalesced)
        self.messages_sent = self.updates_coalesced = 0
        for transport, count in self._connected.items():
            metrics.connections.labels(transport).set(count)
            metrics.connections_accepted.labels(transport).inc(self._accepted[transport])
        for recovered, count in self._recoveries.items():
            metrics.recoveries.labels(_OUTCOMES[recovered]).inc(count)
        self._accepted.clear()
        self._recoveries.clear()
        metrics.subscriptions.set(self._hub.subscriptions)
        metrics.channels.set(len(self._hub.channels))
        depths = list(queue_depths)
        metrics.queue_depth.set(sum(depths))
        metrics.queue_depth_max.set(max(depths, default=0))
