"""`relay serve`: the listening socket, and Hypercorn in this process; `relay.server.workers` has several processes."""

import logging
import os
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog
import trio
from hypercorn.config import Config
from hypercorn.trio import serve as hypercorn_serve
from hypercorn.utils import LifespanFailureError

from relay.config import RedisSettings, Settings
from relay.core.errors import ConfigError
from relay.processes import reap_orphans
from relay.server.app import RelayApp, create_app
from relay.server.bridge import AsgiApp
from relay.server.shutdown import Shutdown
from relay.server.socket_options import BACKLOG
from relay.server.workers import send_liveness

_log = structlog.get_logger("relay.serve")

#: Called once the relay is up, with the address that it listens on and the URL of its Redis.
OnUp = Callable[[str, str], None]


def listen(settings: Settings) -> socket.socket:
    """Open the listening socket.

    Raises:
        ConfigError: The address is not available.
    """
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        # All addresses are those of IPv4, too.
        is_dual = settings.host == "::" and socket.has_dualstack_ipv6()
        address = (settings.host, settings.port)
        return socket.create_server(address, family=family, backlog=BACKLOG, dualstack_ipv6=is_dual)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}. Set RELAY_HOST and RELAY_PORT."
        ) from None


def _hypercorn_config(settings: Settings, descriptor: int) -> Config:
    config = Config()
    config.bind = [f"fd://{descriptor}"]
    config.backlog = BACKLOG
    config.errorlog = logging.getLogger("hypercorn.error")
    config.loglevel = "WARNING"
    config.websocket_max_message_size = settings.max_message_bytes
    # Sessions on hijacked sockets drain in the lifespan; this is for requests and for sessions on plain ASGI, the last of which
    # are closed at the end of the window.
    config.graceful_timeout = max(
        min(3.0, settings.graceful_timeout / 4), settings.drain_window + settings.close_timeout
    )
    config.shutdown_timeout = settings.graceful_timeout
    config.include_server_header = False
    return config


async def _abort_sessions(forced: trio.Event, app: RelayApp) -> None:
    """Abort all sessions when the shutdown is forced: their closing handshakes would take longer."""
    await forced.wait()
    if app.relay.current is not None:
        for session in list(app.relay.current.admission.context.registry):
            session.abort()


class _StartInterrupted(Exception):
    """A signal came before the relay was up."""


async def serve(
    settings: Settings,
    redis_settings: RedisSettings,
    sock: socket.socket,
    on_up: OnUp,
    liveness_descriptor: int | None = None,
    admin_socket: socket.socket | None = None,
) -> None:
    """Serve on a listening socket until SIGTERM, SIGINT or SIGHUP, and end within `graceful_timeout` seconds after it.

    What is still running then is cancelled, and logged; a second signal cancels at once. The process exits with 1 when the
    relay fails.

    Args:
        settings: All but where Redis is.
        redis_settings: Where Redis is.
        sock: The listening socket, which Hypercorn owns from now on.
        on_up: See `OnUp`.
        liveness_descriptor: Where a supervisor is shown that the event loop turns; see `relay.server.workers`.
        admin_socket: The operators' listening socket, if there is one.

    Raises:
        RelayError: The relay could not be started.
    """
    app = create_app(settings, redis_settings, admin_socket)
    config = _hypercorn_config(settings, sock.detach())
    shutdown = Shutdown(settings.graceful_timeout)
    asgi: AsgiApp = app
    run = partial(hypercorn_serve, asgi, config, shutdown_trigger=shutdown.requested.wait, mode="asgi")
    try:
        with shutdown.limit:
            async with trio.open_nursery() as nursery:
                await nursery.start(shutdown.watch)
                nursery.start_soon(_abort_sessions, shutdown.forced, app)
                if os.getpid() == 1:
                    nursery.start_soon(reap_orphans)
                if liveness_descriptor is not None:
                    nursery.start_soon(send_liveness, liveness_descriptor)
                async with trio.open_nursery() as server:
                    binds = await _start(server, run, shutdown)
                    # Hypercorn also says that it is bound when a failure to start is about to end it.
                    if app.relay.current is not None:
                        on_up(binds[0], app.relay.current.redis_url)
                nursery.cancel_scope.cancel()
    except* _StartInterrupted:
        _log.info("ended by a signal before the relay was up")
    except* LifespanFailureError:
        if app.start_failure is None:
            raise
        raise app.start_failure from None
    if app.has_failed:
        sys.exit(1)


async def _start(server: trio.Nursery, run: Callable[..., Any], shutdown: Shutdown) -> list[str]:
    """Start Hypercorn in a nursery, and return the addresses that it is bound to.

    Raises:
        _StartInterrupted: A signal came first.
    """
    binds: list[str] | None = None
    async with trio.open_nursery() as starting:

        async def interrupt() -> None:
            await shutdown.requested.wait()
            starting.cancel_scope.cancel()

        starting.start_soon(interrupt)
        binds = await server.start(run)
        starting.cancel_scope.cancel()
    if binds is None:
        raise _StartInterrupted
    return binds
