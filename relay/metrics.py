"""What Relay counts, for Prometheus.

Hot paths count in plain integers; the heartbeat adds them up here once a second. With several worker processes the
usual ``PROMETHEUS_MULTIPROC_DIR`` makes any worker's ``/metrics`` speak for all; `relay serve --workers` sets it.
"""

import os

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_LATENCY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """The metrics of one process, in a registry of their own."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self.connections = Gauge(
            "relay_connections",
            "Clients connected, by how they are reached",
            ["transport"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.subscriptions = Gauge(
            "relay_subscriptions", "Subscriptions held", registry=registry, multiprocess_mode="livesum"
        )
        self.channels = Gauge(
            "relay_channels", "Channels with listeners", registry=registry, multiprocess_mode="livesum"
        )
        self.queued = Gauge(
            "relay_queue_depth_messages",
            "Messages that wait for clients, all together",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.queued_longest = Gauge(
            "relay_queue_depth_max_messages",
            "Messages that wait for the client with the most",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.redis_up = Gauge(
            "relay_redis_up",
            "1 while the Redis subscription is alive",
            registry=registry,
            multiprocess_mode="livemin",
        )
        self.redis_reconnects = Counter(
            "relay_redis_reconnects", "Times the Redis subscription was lost", registry=registry
        )
        self.accepted = Counter("relay_connections_accepted", "Clients accepted", ["transport"], registry=registry)
        self.refused = Counter("relay_connections_refused", "Handshakes refused", ["reason"], registry=registry)
        self.closed = Counter("relay_connections_closed", "Sessions ended, by reason", ["reason"], registry=registry)
        self.dropped = Counter(
            "relay_connections_dropped",
            "Sessions that Relay ended for what the client did, by reason",
            ["reason"],
            registry=registry,
        )
        self.received = Counter("relay_updates_received", "Updates heard from Redis", registry=registry)
        self.delivered = Counter("relay_messages_sent", "Messages handed to clients' sockets", registry=registry)
        self.folded = Counter(
            "relay_updates_coalesced", "Messages for slow clients that were folded into others", registry=registry
        )
        self.unrecorded = Counter(
            "relay_updates_unpersisted",
            "Updates delivered without a position, since Redis did not record them",
            registry=registry,
        )
        self.resets = Counter(
            "relay_history_resets", "Channels whose line was broken, and whose listeners were told", registry=registry
        )
        self.joins = Counter(
            "relay_recoveries", "Subscriptions with a past, by outcome", ["outcome"], registry=registry
        )
        self.bad_updates = Counter(
            "relay_updates_invalid", "Published messages that could not be read", ["code"], registry=registry
        )
        self.bad_messages = Counter(
            "relay_messages_invalid", "Clients' messages that were refused", ["code"], registry=registry
        )
        self.latency = Histogram(
            "relay_delivery_latency_seconds",
            "From hearing the oldest update of a turn to having written it to all its clients that read",
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )

    def render(self) -> bytes:
        """The text exposition; of all workers when they share a directory."""
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        else:
            registry = self._registry
        platform = CollectorRegistry()
        PlatformCollector(registry=platform)
        ProcessCollector(registry=platform)
        return generate_latest(registry) + generate_latest(platform)
