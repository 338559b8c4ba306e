"""The relay's nursery tree, built part by part before the server accepts, and taken down in the opposite order.

embedded redis            when none is configured
trio-asyncio loop         redis-py lives here
  services                subscription, ingester, flusher, heartbeat, stall detection
    sessions              the watch of all clients, and a nursery for each client for which something is awaited
"""

import multiprocessing
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from time import monotonic
from typing import Any

import structlog
import trio
from relay_wire import keys
from relay_wire.channels import GENERAL, GENERAL_UPDATES, TASK_UPDATES

from relay.broker.embedded import embedded_redis
from relay.broker.nodes import Nodes
from relay.broker.opening import open_redis
from relay.config import RedisSettings, Settings
from relay.core.channels import ChannelPatterns
from relay.core.client_address import TrustedProxies
from relay.core.client_directory import ClientDirectory
from relay.core.client_orders import read_order
from relay.core.connect_pace import ReturnSchedule
from relay.core.errors import ConfigError
from relay.core.hub import Hub
from relay.core.malformed_publishes import MalformedPublishes
from relay.core.owned_channels import OwnedChannels
from relay.core.revocations import Revocations
from relay.core.topics import TOPICS
from relay.metrics import Metrics
from relay.processes import take_lock
from relay.protocols.mercure import topics_of
from relay.server.acceptor import Acceptor
from relay.server.activity import Activity
from relay.server.admission import Admission
from relay.server.auth.access import Access
from relay.server.auth.revocation_feed import RevocationFeed
from relay.server.auth.services import grant_services
from relay.server.auth.tickets import Tickets
from relay.server.child_roll_ups import roll_up_children
from relay.server.connect_gate import MAX_WAIT, ConnectGate
from relay.server.cors import CorsPolicy
from relay.server.drain import drain
from relay.server.emulation import Emulation
from relay.server.endpoints import Endpoint
from relay.server.event_loop_lag import EventLoopLag
from relay.server.flusher import Flusher
from relay.server.gc_tuning import MemoryTuner
from relay.server.heartbeat import Heartbeat
from relay.server.hypercorn_compat.listeners import ListenerServer, serving_listeners_of
from relay.server.latency_samples import PublishLatency
from relay.server.node_reports import NodeReports
from relay.server.plain_publishes import PlainPublishReceiver
from relay.server.redis_reports import report_connection, report_usage
from relay.server.relay_report import RelayReports
from relay.server.running_relay import RunningRelay, unready_reason
from relay.server.session_context import SessionContext, client_limits_of, limits_of
from relay.server.session_queries import ChannelServices
from relay.server.session_registry import SessionRegistry
from relay.server.socket_watch import SocketWatch
from relay.server.stall_detection import StallCount, detect_stalls
from relay.server.statistics import Statistics
from relay.server.status_reports import StatusReports
from relay.server.trace_fan_out import FanOutTraces
from relay.server.trace_ingest import TracedIngest
from relay.server.trace_setup import traces_of

_log = structlog.get_logger("relay.lifespan")


class _ServerShutdown:
    """Starts the drain when the server says that it shuts down, before it cancels its connections."""

    def __init__(self, nursery: trio.Nursery, registry: SessionRegistry, settings: Settings) -> None:
        self._nursery = nursery
        self._registry = registry
        self._settings = settings
        self._is_watching = False

    def watch(self, terminated: Any) -> None:
        """Drain when an event of the server is set. The first event is watched, which is that of the whole worker."""
        if not self._is_watching:
            self._is_watching = True
            self._nursery.start_soon(self._drain_when, terminated)

    async def _drain_when(self, terminated: Any) -> None:
        await terminated.wait()
        await drain(self._registry, self._settings.closing_seconds, self._settings.drain_window)


@asynccontextmanager
async def run_relay(
    settings: Settings,
    redis_settings: RedisSettings,
    metrics: Metrics,
    named: ChannelPatterns,
    policy: CorsPolicy,
    proxies: TrustedProxies,
    endpoints: Mapping[str, Endpoint],
    app: object,
) -> AsyncIterator[RunningRelay]:
    """Run a relay for the time of the block. Leaving it closes the clients first, in waves, and joins every task.

    Args:
        settings: All but where Redis is.
        redis_settings: Where Redis is; an embedded one is started when none is configured.
        metrics: Where everything is counted.
        named: The operator's channels.
        policy: Which pages may use the relay.
        proxies: Whose word on clients' addresses is taken.
        endpoints: Paths of WebSocket endpoints, and what makes a client's protocol there.
        app: The ASGI app, as the server knows it.
    """
    async with AsyncExitStack() as stack:
        url = redis_settings.configured_url()
        if url is None:
            _require_single_worker()
            url = await stack.enter_async_context(embedded_redis())
        redis = await stack.enter_async_context(open_redis(url, settings, redis_settings))
        traces = await stack.enter_async_context(traces_of(settings))
        owned_channels = OwnedChannels()
        hub = Hub(
            on_pending=lambda: flusher.on_pending(),
            on_first_subscriber=lambda channel: channels.on_change(channel),
            on_last_unsubscribed=lambda channel: channels.on_change(channel),
            on_gap=lambda channel: channels.on_gap(channel),
            on_withheld=lambda channel, is_urgent: channels.on_withheld(channel, is_urgent),
            on_owner=owned_channels.on_owner,
            keys_of={TOPICS: topics_of},
        )
        publish_latency = PublishLatency(redis.publication_times(), metrics)
        fan_out = FanOutTraces(traces, hub) if traces is not None else None
        flusher = Flusher(hub, metrics, publish_latency, fan_out)
        channels = redis.follow(hub, flusher.on_flushed, fan_out.on_trace if fan_out is not None else None)
        hub.pin(GENERAL)  # clients get it without asking, from the moment at which they connect
        ingester = redis.publish_ingester(
            hub.on_publication, metrics.updates_unpersisted.inc, metrics.plain_publishes_stored.inc, traces
        )
        ingest = TracedIngest(traces, ingester.on_message) if traces is not None else ingester.on_message
        malformed = MalformedPublishes()
        receiver = PlainPublishReceiver(
            named, settings.max_update_bytes, settings.strict_publishes, metrics, malformed, ingest
        )
        for channel in (TASK_UPDATES, GENERAL_UPDATES):
            redis.subscribe_raw(channel, receiver.on_publish)
        for pattern in named.patterns:
            redis.subscribe_raw(pattern, partial(receiver.on_pattern, pattern))
        tasks = redis.tasks(settings.max_tasks)
        statistics = Statistics(metrics, hub)
        metrics.connections_max.set(settings.max_clients)
        memory = MemoryTuner()
        services = await stack.enter_async_context(_cancelling_nursery())
        sessions = await stack.enter_async_context(_cancelling_nursery())
        watch = SocketWatch()
        sessions.start_soon(watch.run)
        returns = ReturnSchedule(settings.connect_rate)
        registry = SessionRegistry(
            sessions,
            settings.max_clients,
            client_limits_of(settings),
            settings.close_timeout,
            statistics,
            memory,
            returns,
        )
        revocations = Revocations()
        feed = RevocationFeed(revocations, redis.periodic_calls, lambda: redis.alive)
        redis.subscribe_raw(keys.REVOKED, feed.on_message)
        directory = ClientDirectory()
        activity = Activity(
            lambda: (
                channels.messages,
                receiver.received,
                statistics.total_messages_sent,
                statistics.total_updates_coalesced,
            ),
            flusher,
        )
        lag = EventLoopLag(partial(_on_lag, metrics, activity))
        trio.lowlevel.add_instrument(lag)
        stack.callback(trio.lowlevel.remove_instrument, lag)
        stalls = StallCount()
        reports = RelayReports(
            hub,
            registry,
            directory,
            statistics,
            activity,
            malformed,
            stalls,
            unready_reason=lambda: unready_reason(registry, redis),
            read_redis=lambda: (redis.alive, redis.reconnects),
            started=monotonic(),
        )
        nodes = Nodes(redis.periodic_calls, redis.publish, NodeReports(reports).answer)
        redis.subscribe_raw(keys.QUESTIONS, nodes.on_message)
        grants = grant_services(settings, policy, revocations, feed, redis.client_calls)
        authenticator = grants.authenticator
        presence = redis.presence()
        publishes = redis.client_publishes(traces)
        channel_services = ChannelServices(
            presence, redis.history_ranges(), publishes, tasks, settings.max_update_bytes
        )
        redis.subscribe_raw(keys.ORDERS, partial(_on_order, directory))
        emulation = Emulation(redis.publish, settings.max_message_bytes)
        redis.subscribe_raw(emulation.redis_channel, emulation.on_message)
        context = SessionContext(
            settings,
            limits_of(settings),
            hub,
            registry,
            statistics,
            channels,
            authenticator,
            owned_channels,
            revocations,
            channel_services,
            redis.has_families,
            directory,
            watch=watch,
        )
        drain_when = _ServerShutdown(services, registry, settings).watch
        gate = ConnectGate(settings.connect_rate, min(MAX_WAIT, settings.handshake_timeout / 2), registry, returns)
        admission = Admission(context, policy, proxies, metrics, gate, drain_when)
        heartbeat = Heartbeat(context, memory)
        acceptor = Acceptor(endpoints, admission)

        def on_reconnecting() -> None:
            ingester.on_reconnecting()
            feed.on_reconnecting()

        services.start_soon(redis.start_listening, channels, on_reconnecting)
        runs = channels, ingester, flusher, heartbeat, grants, presence, nodes, activity
        for service in runs:
            services.start_soon(service.run)
        services.start_soon(detect_stalls, tasks, settings.task_stall_seconds, stalls)
        services.start_soon(roll_up_children, redis.child_roll_ups())
        services.start_soon(report_connection, redis, channels, receiver, hub, metrics)
        services.start_soon(report_usage, redis, metrics)
        services.start_soon(publish_latency.run)
        server = ListenerServer(
            acceptor.serve_listeners, settings.max_message_bytes, settings.message_timeout, settings.cleartext_http2
        )
        stack.enter_context(serving_listeners_of(app, server))
        memory.start()
        access = Access(authenticator, Tickets(redis.client_calls), grants.share_links)
        yield RunningRelay(
            admission,
            access,
            redis,
            url,
            tasks,
            redis.history_pages(),
            redis.event_positions(),
            publishes,
            nodes,
            emulation,
            ingester,
            heartbeat,
            StatusReports(nodes, redis, tasks, reports, settings),
        )
        await drain(registry, settings.closing_seconds, settings.drain_window)


@asynccontextmanager
async def _cancelling_nursery() -> AsyncIterator[trio.Nursery]:
    """A nursery whose tasks are cancelled at the end of the block."""
    async with trio.open_nursery() as nursery:
        try:
            yield nursery
        finally:
            nursery.cancel_scope.cancel()


def _on_lag(metrics: Metrics, activity: Activity, seconds: float) -> None:
    metrics.event_loop_lag.observe(seconds)
    activity.on_lag(seconds)


def _on_order(directory: ClientDirectory, _channel: str, message: bytes) -> None:
    """Take a message on `relay_wire.keys.ORDERS`."""
    order = read_order(message)
    if order is None:
        _log.warning("message skipped: not an order", size=len(message))
    else:
        directory.give(order)


def _require_single_worker() -> None:
    """Let one worker of a server with several have the embedded Redis: each would start one of its own.

    Raises:
        ConfigError: Another worker has it.
    """
    if multiprocessing.parent_process() is not None and not take_lock(f"relay-embedded-{os.getppid()}"):
        raise ConfigError(
            "several workers need one Redis for all: set REDIS_URL, or run `relay serve --workers`, which starts one for them"
        )
