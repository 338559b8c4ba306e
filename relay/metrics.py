"""The metrics that Relay exposes to Prometheus.

Hot paths count in plain integers; the heartbeat adds them up here. With several worker processes the
usual ``PROMETHEUS_MULTIPROC_DIR`` makes the ``/metrics`` of any worker show the sums of all; `relay serve --workers` sets it.
"""

import os
from collections.abc import Iterable, Mapping
from typing import Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
    values,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_LATENCY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


def identify_worker(number: int) -> None:
    """Write this worker's metrics to the files of its number, so that one that replaces it goes on counting there.

    Without effect where no ``PROMETHEUS_MULTIPROC_DIR`` is shared. Call it before the metrics are made.
    """
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        values.ValueClass = values.MultiProcessValue(lambda: number)  # type: ignore[no-untyped-call]


class RedisUsage(Protocol):
    """The usage of one Redis server, as `relay.broker.server_usage` has it. A number that is not known is None."""

    @property
    def memory_used(self) -> int | None: ...
    @property
    def memory_max(self) -> int | None: ...
    @property
    def connected_clients(self) -> int | None: ...
    @property
    def evicted_keys(self) -> int | None: ...


class RedisCollector(Collector):
    """The last known usage of Redis, which is there only as long as it is known.

    Each worker process has looked for itself and shows what it saw: sums over workers would make no sense.
    """

    def __init__(self) -> None:
        self.usage: Mapping[str, RedisUsage] = {}

    def collect(self) -> Iterable[Metric]:
        families: list[GaugeMetricFamily | CounterMetricFamily] = [
            GaugeMetricFamily("relay_redis_memory_used_bytes", "Memory that Redis uses", labels=["server"]),
            GaugeMetricFamily("relay_redis_memory_max_bytes", "maxmemory of Redis; 0 is no limit", labels=["server"]),
            GaugeMetricFamily("relay_redis_connected_clients", "Connections that Redis has", labels=["server"]),
            CounterMetricFamily(
                "relay_redis_evicted_keys", "Keys that Redis evicted since it started", labels=["server"]
            ),
        ]
        for server, usage in self.usage.items():
            numbers = (usage.memory_used, usage.memory_max, usage.connected_clients, usage.evicted_keys)
            for family, number in zip(families, numbers, strict=True):
                if number is not None:
                    family.add_metric([server], number)
        return families


class Metrics:
    """The metrics of one process, in a registry of their own."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self._redis_usage = RedisCollector()
        self.connections = Gauge(
            "relay_connections",
            "Clients connected, by transport",
            ["transport"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.subscriptions = Gauge(
            "relay_subscriptions", "Subscriptions held", registry=registry, multiprocess_mode="livesum"
        )
        self.channels = Gauge(
            "relay_channels", "Channels with subscribers", registry=registry, multiprocess_mode="livesum"
        )
        self.queue_depth = Gauge(
            "relay_queue_depth_messages",
            "Messages that wait for all clients together",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.queue_depth_max = Gauge(
            "relay_queue_depth_max_messages",
            "Messages that wait for the client that has most of them",
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
        self.redis_output_buffer_disconnects = Counter(
            "relay_redis_output_buffer_disconnects",
            "Times Redis closed the subscription since it had more than client-output-buffer-limit to send",
            registry=registry,
        )
        self.connections_accepted = Counter(
            "relay_connections_accepted", "Clients accepted", ["transport"], registry=registry
        )
        self.connections_refused = Counter(
            "relay_connections_refused", "Handshakes refused", ["reason"], registry=registry
        )
        self.connections_closed = Counter(
            "relay_connections_closed", "Sessions ended, by reason", ["reason"], registry=registry
        )
        self.connections_dropped = Counter(
            "relay_connections_dropped",
            "Sessions that Relay ended for what the client did, by reason",
            ["reason"],
            registry=registry,
        )
        self.updates_received = Counter(
            "relay_updates_received",
            "Messages received from Redis: plain publishes, and updates that Redis has persisted",
            ["kind"],
            registry=registry,
        )
        self.messages_sent = Counter("relay_messages_sent", "Messages written to clients", registry=registry)
        self.updates_coalesced = Counter(
            "relay_updates_coalesced", "Updates that were merged into later ones for slow clients", registry=registry
        )
        self.updates_unpersisted = Counter(
            "relay_updates_unpersisted",
            "Updates delivered without a position because Redis did not persist them",
            registry=registry,
        )
        self.history_resets = Counter(
            "relay_history_resets",
            "Channels whose history was lost, and whose subscribers were sent a reset",
            registry=registry,
        )
        self.recoveries = Counter(
            "relay_recoveries", "Subscriptions that asked for history, by outcome", ["outcome"], registry=registry
        )
        self.updates_invalid = Counter(
            "relay_updates_invalid", "Published messages that could not be read", ["code"], registry=registry
        )
        self.messages_invalid = Counter(
            "relay_messages_invalid", "Messages of clients that were refused", ["code"], registry=registry
        )
        self.latency = Histogram(
            "relay_delivery_latency_seconds",
            "From receiving the oldest update of a turn to having written it to all of its clients that read",
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )

    def set_redis_usage(self, usage: Mapping[str, RedisUsage]) -> None:
        """Show what Redis uses, by server; nothing while that is not known."""
        self._redis_usage.usage = usage

    def render(self) -> bytes:
        """Return the text exposition, of all workers when they share a directory."""
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        else:
            registry = self._registry
        own = CollectorRegistry()
        own.register(self._redis_usage)
        PlatformCollector(registry=own)
        ProcessCollector(registry=own)
        return generate_latest(registry) + generate_latest(own)
