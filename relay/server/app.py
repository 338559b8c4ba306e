"""The application: a Quart-Trio app whose lifespan is Relay's nursery tree.

    lifespan
      embedded redis            (when none is configured)
      trio-asyncio loop         redis-py lives here
        services                listener, flusher, heartbeat
          sessions              one nursery for each client

The tree is built at start-up, before the server accepts, and taken down in the opposite order at shutdown.
"""

import multiprocessing
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from time import monotonic
from typing import Any

import structlog
import trio
from quart_trio import QuartTrio
from relay_wire.channels import GENERAL_UPDATES, TASK_UPDATES

from relay.broker.embedded import embedded_redis
from relay.broker.feeds import Feeds
from relay.broker.recorder import Recorder
from relay.broker.redis import RedisService, open_redis
from relay.broker.tasks import Tasks
from relay.config import RedisSettings, Settings, unknown_variables
from relay.core.channels import NamedChannels, read_published
from relay.core.errors import BadMessage, BrokerUnavailable
from relay.core.hub import Hub
from relay.logs import without_password
from relay.metrics import Metrics
from relay.processes import raise_file_limit
from relay.server.accepting import Acceptor, accepting
from relay.server.http_connections import request_under_way
from relay.server.sessions import Sessions
from relay.server.supervision import supervise_tasks

_log = structlog.get_logger("relay.app")


class Relay:
    """One relay process: its parts, and the services that connect them."""

    def __init__(self, settings: Settings, redis_settings: RedisSettings) -> None:
        self.settings = settings
        self.redis_settings = redis_settings
        self.metrics = Metrics()
        self.named = NamedChannels(settings.extra_channels)
        self.hub = Hub(
            on_pending=self._on_pending,
            on_watched=self._on_watch_change,
            on_unwatched=self._on_watch_change,
            on_behind=self._on_behind,
        )
        self.sessions = Sessions(self.hub, settings, self.metrics)
        self.redis: RedisService | None = None
        self.feeds: Feeds | None = None
        self.recorder: Recorder | None = None
        self._tasks: Tasks | None = None
        self.redis_url: str | None = None
        self._pending = trio.Event()
        self._oldest_heard = 0.0
        self._received = 0
        self._terminating: trio.Nursery | None = None
        #: Called when the server begins to shut down.
        self.on_terminated: list[Callable[[], None]] = []

    @property
    def tasks(self) -> Tasks:
        """The tasks in Redis. Raises BrokerUnavailable before the relay is up."""
        if self._tasks is None:
            raise BrokerUnavailable("the relay is starting")
        return self._tasks

    @property
    def not_ready(self) -> str | None:
        """Why clients should not be sent here now; None when they may."""
        if self.sessions.draining:
            return "draining"
        if self.redis is None or not self.redis.alive:
            return "redis is not reachable"
        if self.recorder is not None and self.recorder.is_refused:
            return "redis does not record updates"
        return None

    def _on_pending(self) -> None:
        self._oldest_heard = monotonic()
        if not self.hub.is_in_turn:
            self._pending.set()

    def _on_watch_change(self, channel: str) -> None:
        if self.feeds is not None:
            self.feeds.on_change(channel)

    def _on_behind(self, channel: str) -> None:
        if self.feeds is not None:
            self.feeds.on_behind(channel)

    def _hear_plain(self, channel: str, message: bytes) -> None:
        """A plain PUBLISH of today's services: it is recorded, and comes back on its feed with a position. A bad one is
        logged with its channel and skipped."""
        self._received += 1
        try:
            if len(message) > self.settings.max_update_bytes:
                limit = f"longer than RELAY_MAX_UPDATE_BYTES, {self.settings.max_update_bytes}"
                raise BadMessage("too_big", limit)
            update = read_published(channel, message, monotonic())
        except BadMessage as error:
            self.metrics.bad_updates.labels(error.code).inc()
            _log.warning(
                "published message skipped", channel=channel, code=error.code, error=error.message, size=len(message)
            )
            return
        assert self.recorder is not None
        self.recorder.hear(update, message)

    def _hear_named(self, pattern: str, channel: str, message: bytes) -> None:
        """The same for operator-named channels: Redis sends a message once for each pattern that it matches."""
        if channel not in (TASK_UPDATES, GENERAL_UPDATES) and self.named.first_match(channel) == pattern:
            self._hear_plain(channel, message)

    async def _flush(self) -> None:
        """Hand out what comes outside of the subscription's turns: what was read when a channel was caught up with."""
        while True:
            await self._pending.wait()
            self._pending = trio.Event()
            self._hand_out()

    def _hand_out(self) -> None:
        heard = self._oldest_heard
        self.hub.flush()
        self.metrics.latency.observe(monotonic() - heard)
        self.metrics.received.inc(self._received)
        self._received = 0

    async def _watch_redis(self, redis: RedisService) -> None:
        """Keep the metrics of the connection current."""
        reconnects = resets = 0
        while True:
            self.metrics.redis_up.set(redis.alive)
            self.metrics.redis_reconnects.inc(redis.reconnects - reconnects)
            reconnects = redis.reconnects
            self.metrics.resets.inc(self.hub.resets - resets)
            resets = self.hub.resets
            await trio.sleep(1.0)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Everything runs inside this block. Leaving it closes the clients first, in stages, and joins every task."""
        async with AsyncExitStack() as stack:
            url = self.redis_settings.configured_url()
            if url is None:
                url = await stack.enter_async_context(embedded_redis())
            self.redis_url = url
            self.redis = await stack.enter_async_context(open_redis(url, self.settings, self.redis_settings))
            for channel in (TASK_UPDATES, GENERAL_UPDATES):
                self.redis.subscribe_raw(channel, self._hear_plain)
            for pattern in self.named.patterns:
                self.redis.subscribe_raw(pattern, partial(self._hear_named, pattern))
            self.feeds = self.redis.follow(self.hub)
            self.feeds.hand_out = self._hand_out
            self.sessions.read_past = self.feeds.read
            self._tasks = self.redis.tasks(self.settings.max_tasks)
            self.recorder = self.redis.recorder(self.hub.hear, self.metrics.unrecorded.inc)
            async with trio.open_nursery() as services:
                services.start_soon(self.redis.start_listening)
                services.start_soon(self.feeds.run)
                services.start_soon(self.recorder.run)
                services.start_soon(supervise_tasks, self._tasks, self.settings.task_stall_seconds)
                services.start_soon(self._watch_redis, self.redis)
                services.start_soon(self._flush)
                services.start_soon(self.sessions.beat)
                self._terminating = services
                async with self.sessions.open():
                    yield
                    await self.sessions.drain(self._drain_seconds)
                self._terminating = None
                services.cancel_scope.cancel()

    @property
    def _drain_seconds(self) -> float:
        """What shutdown may spend on clients; the rest of the time is for the sessions' last goodbyes and Redis."""
        return max(0.1, self.settings.graceful_timeout * 0.75 - self.settings.close_timeout)

    def drain_with(self, terminated: Any) -> None:
        """Start draining as soon as the server's own "terminated" event is set, before it cancels its connections."""
        if self._terminating is not None:
            services, self._terminating = self._terminating, None
            services.start_soon(self._drain_when, terminated)

    async def _drain_when(self, terminated: Any) -> None:
        await terminated.wait()
        for hang_up in self.on_terminated:
            hang_up()
        await self.sessions.drain(self._drain_seconds)

    def announce(self) -> None:
        """Say in the log where Redis is and how clients will be reached."""
        for warning in unknown_variables():
            _log.warning(warning)
        _log.info(
            "relay is up",
            redis=without_password(self.redis_url or ""),
            redis_is="configured" if self.redis_settings.configured_url() else "embedded",
            transport="takeover where possible" if self.settings.hijack_sockets else "asgi",
            pid=os.getpid(),
        )


class Lifespan:
    """ASGI lifespan for Quart: Relay's tree around Quart's own start-up and shutdown functions."""

    def __init__(self, app: "RelayApp", _scope: Any) -> None:
        self._app = app

    async def __call__(self, receive: Any, send: Any) -> None:
        app = self._app
        await receive()  # lifespan.startup
        started = stopping = False
        failed: BaseExceptionGroup[Exception] | None = None
        try:
            async with app.relay.running(), trio.open_nursery() as nursery, AsyncExitStack() as stack:
                if app.acceptor is not None:
                    stack.enter_context(accepting(app, app.acceptor))
                app.nursery = nursery  # Quart's background tasks
                await app.startup()
                app.relay.sessions.garbage.start()
                raise_file_limit()
                app.relay.announce()
                started = True
                await send({"type": "lifespan.startup.complete"})
                await receive()  # lifespan.shutdown
                stopping = True
                await app.shutdown()
                nursery.cancel_scope.cancel()
        except* Exception as errors:  # noqa: BLE001 - whatever it was, the server is told
            _log.critical("relay failed", exc_info=errors)
            failed = errors
        if failed is None:
            await send({"type": "lifespan.shutdown.complete"})
        elif not started:
            await send({"type": "lifespan.startup.failed", "message": "; ".join(map(str, failed.exceptions))})
        elif stopping:
            await send({"type": "lifespan.shutdown.failed", "message": "; ".join(map(str, failed.exceptions))})
        else:
            # The server would go on without us and nobody would notice.
            app.has_failed = True
            if multiprocessing.parent_process() is not None:
                # Hypercorn starts a worker again that ended with 0; at any other status it ends, and says 0 itself.
                os._exit(0)
            os.kill(os.getpid(), signal.SIGTERM)
            await receive()  # lifespan.shutdown
            await send({"type": "lifespan.shutdown.complete"})


class RelayApp(QuartTrio):
    """The Quart application. Extend it as any other; Relay's WebSocket doors are served before Quart's own routes."""

    asgi_lifespan_class = Lifespan  # type: ignore[assignment]

    def __init__(self, relay: Relay) -> None:
        super().__init__("relay", static_folder=None)
        self.relay = relay
        self.doors: dict[str, Any] = {}
        self.acceptor: Acceptor | None = None
        #: One of the relay's services has failed, by a bug; the process is about to end.
        self.has_failed = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        with request_under_way():
            await super().__call__(scope, receive, send)


def create_app(settings: Settings, redis_settings: RedisSettings) -> RelayApp:
    """Build the application; nothing runs before its lifespan starts."""
    from relay.server.routes import add_routes

    app = RelayApp(Relay(settings, redis_settings))
    add_routes(app)
    return app
