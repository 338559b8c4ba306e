"""The metrics that Relay exposes to Prometheus.

Hot paths count in plain integers; the heartbeat adds them up here. With several worker processes the
usual ``PROMETHEUS_MULTIPROC_DIR`` makes the ``/metrics`` of any worker show the sums of all; `relay serve --workers` sets it.
`relay.worker_metrics` has what is special about that.
"""

from collections.abc import Iterable, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from relay.core.closecodes import Close
from relay.worker_metrics import RedisUsage, WorkerFiles

# When each series began: with several workers that is not known, and Prometheus has no use for it in this format.
disable_created_metrics()  # type: ignore[no-untyped-call]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_LATENCY_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

#: Redis stamps in milliseconds, and what waits for a Redis that was away comes much later.
_PUBLISH_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class RedisCollector(Collector):
    """The last known usage of Redis, which is there only as long as it is known.

    Args:
        files: Has the latest look of any worker: sums over workers would make no sense. None if this process is alone.
    """

    def __init__(self, files: WorkerFiles | None = None) -> None:
        self._files = files
        self._usage: Mapping[str, RedisUsage] = {}

    def set_usage(self, usage: Mapping[str, RedisUsage]) -> None:
        """Take what this process has seen, by server."""
        self._usage = usage
        if self._files is not None:
            self._files.write_usage(usage)

    def collect(self) -> Iterable[Metric]:
        families: list[GaugeMetricFamily | CounterMetricFamily] = [
            GaugeMetricFamily("relay_redis_memory_used_bytes", "Memory that Redis uses", labels=["server"]),
            GaugeMetricFamily("relay_redis_memory_max_bytes", "maxmemory of Redis; 0 is no limit", labels=["server"]),
            GaugeMetricFamily("relay_redis_connected_clients", "Connections that Redis has", labels=["server"]),
            CounterMetricFamily(
                "relay_redis_evicted_keys", "Keys that Redis evicted since it started", labels=["server"]
            ),
        ]
        seen = self._usage if self._files is None else self._files.latest_usage()
        for server, usage in seen.items():
            numbers = (usage.memory_used, usage.memory_max, usage.connected_clients, usage.evicted_keys)
            for family, number in zip(families, numbers, strict=True):
                if number is not None:
                    family.add_metric([server], number)
        return families


class Metrics:
    """The metrics of one process, in a registry of their own."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self._files = WorkerFiles.shared()
        self._redis_usage = RedisCollector(self._files)
        self.connections = Gauge(
            "relay_connections",
            "Clients connected, by transport",
            ["transport"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.connections_max = Gauge(
            "relay_connections_max",
            "Clients that are let in: RELAY_MAX_CLIENTS of all processes together",
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
        self.redis_probe_age = Gauge(
            "relay_redis_probe_age_seconds",
            "Since the last probe came through Redis: the relay publishes them to itself, the way that updates come",
            registry=registry,
            multiprocess_mode="livemax",
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
            "Messages that each process received from Redis: plain publishes, and stored updates of channels with subscribers",
            ["kind"],
            registry=registry,
        )
        self.plain_publishes_stored = Counter(
            "relay_plain_publishes_stored",
            "Plain publishes stored in Redis, each counted by the one process of all relays that stored it",
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
        self.publish_latency = Histogram(
            "relay_publish_latency_seconds",
            "From Redis storing an update to having written it to all of its clients that read, on Redis' clock; sampled",
            buckets=_PUBLISH_BUCKETS,
            registry=registry,
        )
        self.event_loop_lag = Histogram(
            "relay_event_loop_lag_seconds",
            "By how much the event loop was late to wake a task that had slept; sampled",
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self._show_zeros()

    def _show_zeros(self) -> None:
        """Show the labels that are known. A counter that begins with its first event seems not to have grown by it."""
        for kind in ("plain", "persisted"):
            self.updates_received.labels(kind)
        for close in Close:
            self.connections_closed.labels(close.label)
            if close.is_drop:
                self.connections_dropped.labels(close.label)

    def set_redis_usage(self, usage: Mapping[str, RedisUsage]) -> None:
        """Show what Redis uses, by server; nothing while that is not known."""
        self._redis_usage.set_usage(usage)

    def render(self) -> bytes:
        """Return the text exposition, of all workers when they share a directory."""
        own = CollectorRegistry()
        own.register(self._redis_usage)
        PlatformCollector(registry=own)
        if self._files is None:
            ProcessCollector(registry=own)
            return generate_latest(self._registry) + generate_latest(own)
        self._files.forget_dead_workers()
        own.register(self._files)
        shared = CollectorRegistry()
        MultiProcessCollector(shared)  # type: ignore[no-untyped-call]
        return generate_latest(shared) + generate_latest(own)
