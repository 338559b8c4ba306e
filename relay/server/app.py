"""The ASGI application: Quart-Trio's routing, Relay's endpoints before it, and the relay's life in the ASGI lifespan."""

import logging
import multiprocessing
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from functools import partial
from typing import Any

import structlog
import trio
from quart_trio import QuartTrio
from relay_wire.channels import GENERAL

from relay.config import RedisSettings, Settings, unknown_variables
from relay.core.channels import ChannelPatterns
from relay.core.client_address import TrustedProxies
from relay.core.errors import RelayError, leaves
from relay.logs import flush, without_password
from relay.metrics import Metrics
from relay.processes import raise_file_limit
from relay.profile import open_notice
from relay.protocols.mercure_forms import PATH as MERCURE
from relay.protocols.tasks import TasksProtocol
from relay.server import centrifuge_streams, hypercorn_compat, mercure, sse_endpoint
from relay.server.admin_listener import serving_operators
from relay.server.admission import CLIENT_LIMIT
from relay.server.api import add_api
from relay.server.api_docs import add_documents
from relay.server.api_publish import Publisher, add_publish_api
from relay.server.api_task_actions import add_task_actions
from relay.server.bound_addresses import bound_addresses
from relay.server.centrifuge_setup import centrifuge_protocol, centrifuge_server
from relay.server.centrifugo_api import CentrifugoApi, add_centrifugo_api, with_api_key
from relay.server.cors import CorsPolicy
from relay.server.endpoints import Endpoint, accept_client, path_of, refuse_starting
from relay.server.grant_routes import add_grant_routes
from relay.server.http_connections import request_in_progress
from relay.server.http_guard import HttpGuard, send_json
from relay.server.lifespan import run_relay
from relay.server.operator_paths import OPERATORS, PROBES, OperatorPaths
from relay.server.request_bodies import BodyRefused, ClientLeft, RequestBodies
from relay.server.request_limit import RequestLimit, TooManyRequests
from relay.server.retry_route import add_retry_route
from relay.server.routes import add_routes
from relay.server.running_relay import RelayHandle, RunningRelay
from relay.server.sse_endpoint import Stream
from relay.server.static_files import add_static_files
from relay.server.status_route import add_status_route
from relay.server.task_paths import TaskPaths
from relay.server.turnstile import Turnstile

_log = structlog.get_logger("relay.app")

#: Seconds that a client has to read an answer.
_RESPONSE_TIMEOUT = 15


#: Bytes of a body besides the data of its update, and of a body with several updates.
_MAX_ENVELOPE_BYTES = 16 * 1024
_MAX_BATCH_BYTES = 1024 * 1024

#: Methods of requests whose bodies nobody reads.
_WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS"})


class RelayApp(QuartTrio):
    """The Quart application. Extend it like any other; Relay's own endpoints are served before Quart's routes.

    Args:
        settings: All but where Redis is.
        redis_settings: Where Redis is.
        admin_socket: The operators' listening socket, where it was opened before.

    Attributes:
        endpoints: Paths of WebSocket endpoints, and what makes a client's protocol there. Change them before start-up.
        centrifuge: What all clients of the Centrifuge protocol have in common.
        relay: The running relay, once it has started.
        has_failed: One of the relay's services has failed, by a bug; the process is about to end.
        start_failure: Why the relay could not be started, where that is an error of ours.
    """

    def __init__(
        self, settings: Settings, redis_settings: RedisSettings, admin_socket: socket.socket | None = None
    ) -> None:
        super().__init__("relay", static_folder=None)
        self.settings = settings
        self.redis_settings = redis_settings
        self.admin_socket = admin_socket
        self.operator_paths = OperatorPaths(
            has_listener=settings.admin_bind is not None,
            api_prefix=settings.api_prefix,
            is_open=not settings.needs_grants,
        )
        self.metrics = Metrics()
        self.named = ChannelPatterns(settings.extra_channels)
        self.centrifuge = centrifuge_server(settings, self.named)
        self.endpoints: dict[str, Endpoint] = {
            "/ws/tasks": lambda _opening: TasksProtocol(self.named),
            "/connection/websocket": partial(centrifuge_protocol, self.centrifuge),
        }
        #: Paths of event streams, and what reads a request there.
        self._streams: dict[str, Callable[[RunningRelay, Any, int], Stream]] = {
            sse_endpoint.PATH: lambda _relay, scope, limit: sse_endpoint.events_stream(self.named, scope, limit),
            MERCURE: lambda relay, scope, limit: mercure.mercure_stream(relay, self.named, scope, limit),
        }
        self._centrifugo = f"{settings.centrifugo_api_prefix}/"
        self.relay = RelayHandle()
        self.policy = CorsPolicy(settings.allowed_origins, settings.allowed_hosts)
        self.proxies = TrustedProxies(settings.trusted_proxies)
        self._guard = HttpGuard(self.policy, settings.api_prefix, needs_grants=settings.needs_grants)
        self._requests = RequestLimit()
        self._bodies = RequestBodies(settings.message_timeout)
        self._max_body_bytes = settings.max_update_bytes + _MAX_ENVELOPE_BYTES
        self._max_batch_bytes = max(_MAX_BATCH_BYTES, self._max_body_bytes)
        self._turns = Turnstile()
        self._health_turns = Turnstile()
        self.task_paths = TaskPaths(settings.api_prefix)
        self.config["RESPONSE_TIMEOUT"] = _RESPONSE_TIMEOUT
        self.has_failed = False
        self.start_failure: RelayError | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        with request_in_progress():
            if scope["type"] != "lifespan":
                await (self._health_turns if scope["path"] in PROBES else self._turns).turn()
            await super().__call__(scope, receive, send)

    async def asgi_app(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one ASGI call: the lifespan, a client of an endpoint, or a request for Quart."""
        if scope["type"] == "lifespan":
            await _run_lifespan(self, receive, send)
            return
        path = path_of(scope)
        running = self.relay.current
        endpoint = self.endpoints.get(path) if scope["type"] == "websocket" else None
        if endpoint is not None:
            if running is None:
                await refuse_starting(scope, receive, send)
            else:
                await accept_client(running.admission, endpoint, scope, receive, send)
        elif scope["type"] == "http":
            await self._serve_http(path, scope, receive, send)
        else:
            await super().asgi_app(scope, receive, send)

    async def _serve_http(self, path: str, scope: Any, receive: Any, send: Any) -> None:
        guard = self._guard
        running = self.relay.current
        if path == MERCURE:
            scope = mercure.with_relay_cookie(scope)
        elif path.startswith(self._centrifugo):
            scope = with_api_key(scope)
        if not self.operator_paths.is_served(scope, path):
            await send_json(send, 404, {"code": "not_found", "message": "nothing is here"})
        elif (reason := guard.refusal_reason(path, scope)) is not None:
            self.metrics.connections_refused.labels(reason).inc()
            await guard.refuse(send, reason)
        elif await guard.answers_preflight(scope, path, send):
            pass
        elif path in OPERATORS:
            await super().asgi_app(scope, receive, guard.guarded(scope, path, send))
        elif path in centrifuge_streams.STREAMS and running is not None:
            emulation = running.emulation
            await centrifuge_streams.accept_emulated(
                running.admission, self.centrifuge, emulation, path, scope, receive, send
            )
        elif path not in self._streams or scope["method"] != "GET":
            await self._serve_request(path, scope, receive, send)
        elif running is None:
            await sse_endpoint.refuse(send, self.policy.response_headers(scope["headers"]))
        else:
            await sse_endpoint.accept_stream(
                running.admission, partial(self._streams[path], running), scope, receive, send
            )

    async def _serve_request(self, path: str, scope: Any, receive: Any, send: Any) -> None:
        client = self.proxies.client(scope.get("client"), scope["headers"])
        running = self.relay.current
        retry_after = None if running is None else running.admission.limit_request(client)
        if retry_after is not None:
            self.metrics.connections_refused.labels(CLIENT_LIMIT).inc()
            await self._guard.refuse_busy(scope, send, 429, "too many requests of this address", retry_after)
            return
        address = client.network or ""
        try:
            async with self._body(address, path, scope, receive) as receive, self._requests.turn(address) as turn:
                guarded_send = self._guard.guarded(scope, path, send, turn.prepared)
                await super().asgi_app(self.task_paths.routed(scope), receive, guarded_send)
        except ClientLeft:
            pass
        except BodyRefused as refused:
            self.metrics.connections_refused.labels(refused.code).inc()
            await self._guard.refuse_body(scope, send, refused)
        except TooManyRequests:
            self.metrics.connections_refused.labels("too_many_requests").inc()
            await self._guard.refuse_busy(scope, send, 503, "too many requests at once", 1.0)

    def _body(
        self, address: str, path: str, scope: Any, receive: Any
    ) -> AbstractAsyncContextManager[Callable[[], Awaitable[Any]]]:
        """Return a block in which a request's body is there."""
        if scope["method"] in _WITHOUT_BODY:
            return nullcontext(receive)
        is_batch = path == self.task_paths.batch_route or path.startswith(self._centrifugo)
        return self._bodies.received(
            address, scope, receive, self._max_batch_bytes if is_batch else self._max_body_bytes
        )


async def _run_lifespan(app: RelayApp, receive: Any, send: Any) -> None:
    """Run the relay from the server's start-up message to its shutdown message."""
    await receive()  # lifespan.startup
    started = stopping = False
    failed: BaseExceptionGroup[Exception] | None = None
    try:
        async with AsyncExitStack() as stack:
            hypercorn_compat.install()
            raise_file_limit()
            operators = serving_operators(app, app.settings.admin_bind, app.admin_socket)
            await stack.enter_async_context(operators)
            relay = run_relay(
                app.settings,
                app.redis_settings,
                app.metrics,
                app.named,
                app.policy,
                app.proxies,
                app.endpoints,
                app,
            )
            app.relay.current = await stack.enter_async_context(relay)
            nursery = await stack.enter_async_context(trio.open_nursery())
            app.nursery = nursery  # Quart's background tasks
            await app.startup()
            _log_start(app, app.relay.current.redis_url)
            started = True
            await send({"type": "lifespan.startup.complete"})
            await receive()  # lifespan.shutdown
            stopping = True
            await app.shutdown()
            nursery.cancel_scope.cancel()
    except* Exception as errors:  # noqa: BLE001 - whatever it was, the server is informed
        failed = errors
        match leaves(errors):
            case [RelayError() as cause] if not started:
                app.start_failure = cause
            case _:
                _log.critical("relay failed", exc_info=errors)
    finally:
        app.relay.current = None
    if failed is None:
        await send({"type": "lifespan.shutdown.complete"})
    elif not started:
        await send({"type": "lifespan.startup.failed", "message": "; ".join(map(str, leaves(failed)))})
    elif stopping:
        await send({"type": "lifespan.shutdown.failed", "message": "; ".join(map(str, leaves(failed)))})
    else:
        await _end_process(app, receive, send)


async def _end_process(app: RelayApp, receive: Any, send: Any) -> None:
    """End the process after a failure while running: the server would go on without us, and nobody would notice."""
    app.has_failed = True
    if multiprocessing.parent_process() is not None:
        # Hypercorn starts a worker again that ended with 0; at any other status it ends, and says 0 itself.
        flush()
        os._exit(0)
    os.kill(os.getpid(), signal.SIGTERM)
    await receive()  # lifespan.shutdown
    await send({"type": "lifespan.shutdown.complete"})


def _log_start(app: RelayApp, redis_url: str) -> None:
    for warning in unknown_variables():
        _log.warning(warning)
    if GENERAL in app.named.patterns:
        _log.warning("no client can subscribe to an extra channel of this name, which is Relay's own", channel=GENERAL)
    notice = open_notice(app.settings, bound_addresses(app.settings.admin_bind))
    if notice is not None:
        level, text = notice
        _log.log(logging.getLevelNamesMapping()[level.upper()], text)
    _log.info(
        "relay is up",
        redis=without_password(redis_url),
        redis_is="configured" if app.redis_settings.configured_url() else "embedded",
        transport="hijack where possible" if app.settings.hijack_sockets else "asgi",
        pid=os.getpid(),
    )


def create_app(
    settings: Settings, redis_settings: RedisSettings, admin_socket: socket.socket | None = None
) -> RelayApp:
    """Build the application. Nothing runs before its lifespan starts.

    Args:
        settings: All but where Redis is.
        redis_settings: Where Redis is.
        admin_socket: The operators' listening socket, where it was opened before.
    """
    app = RelayApp(settings, redis_settings, admin_socket)
    add_routes(app, app.relay, app.metrics, app.operator_paths)
    add_status_route(app, app.relay, app.task_paths)
    add_api(app, app.relay, app.task_paths)
    centrifuge_streams.add_emulation(app, app.relay)
    publisher = Publisher(app.relay, app.named, settings.max_update_bytes)
    add_publish_api(app, app.task_paths, publisher)
    centrifugo = CentrifugoApi(app.relay, app.centrifuge.channels, settings.max_update_bytes)
    add_centrifugo_api(app, settings.centrifugo_api_prefix, centrifugo)
    mercure.add_mercure(app, app.relay, app.named, publisher)
    add_task_actions(app, app.relay, app.task_paths)
    add_retry_route(app, app.relay, app.task_paths)
    add_documents(app, settings.api_prefix)
    add_grant_routes(app, app.relay, app.task_paths, settings.revocation_ttl)
    add_static_files(app, settings.api_prefix, with_page=settings.page)
    return app
