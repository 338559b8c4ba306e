"""The operators' listener: metrics, status and the list of all tasks on an address of their own (`RELAY_ADMIN_BIND`)."""

import logging
import multiprocessing
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NoReturn

import trio
from hypercorn.config import Config
from hypercorn.trio import serve as hypercorn_serve

from relay.core.errors import ConfigError
from relay.server.bridge import AsgiApp
from relay.server.cors import header, is_same_origin
from relay.server.http_connections import HttpConnections
from relay.server.http_guard import send_json
from relay.server.hypercorn_compat.listeners import ListenerServer, WorkerListeners, serving_listeners_of
from relay.server.operator_paths import ADMIN_KEY

#: Connections at a time.
_MAX_CONNECTIONS = 64

#: Seconds for requests that are in progress when the relay ends.
_GRACE = 1.0

_MAX_MESSAGE = 1024


def listen_for_operators(bind: str, *, shared: bool = False) -> socket.socket:
    """Open the operators' listening socket.

    Args:
        bind: The address, as HOST:PORT; an IPv6 address in brackets.
        shared: Other processes of the same server listen on the address, too, each with a socket of its own.

    Raises:
        ConfigError: The address is not available.
    """
    host, _, port = bind.rpartition(":")
    host = host.strip("[]")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, int(port)), family=family, reuse_port=shared)
    except OSError as error:
        raise ConfigError(
            f"RELAY_ADMIN_BIND: cannot listen on {bind}: {error.strerror}. Choose another address."
        ) from None


class _AdminApp:
    """The app as the operators' listener sees it: HTTP only, and marked requests.

    A page may not use it: the browser of an operator reaches the address, and the page's author would read it.
    """

    def __init__(self, app: AsgiApp) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        match scope["type"]:
            case "lifespan":
                await receive()
                await send({"type": "lifespan.startup.complete"})
                await receive()
                await send({"type": "lifespan.shutdown.complete"})
            case "http" if not _is_cross_origin(scope):
                await self._app({**scope, ADMIN_KEY: True}, receive, send)
            case "http":
                await send_json(send, 403, {"code": "origin", "message": "this page's origin is not allowed here"})
            case _:
                await receive()
                await send({"type": "websocket.close"})


def _is_cross_origin(scope: Any) -> bool:
    origin, host = header(scope["headers"], b"origin"), header(scope["headers"], b"host")
    is_foreign = origin is not None and not is_same_origin(origin, host or "")
    return is_foreign or header(scope["headers"], b"sec-fetch-site") in ("cross-site", "same-site")


async def _serve_listeners(worker: WorkerListeners) -> NoReturn:
    connections = HttpConnections(worker.handler, worker.keep_alive_timeout, _MAX_CONNECTIONS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connections.close_idle)
        await trio.serve_listeners(connections.serve, worker.listeners, handler_nursery=worker.handler_nursery)
    raise AssertionError("listeners are served until cancelled")


@asynccontextmanager
async def serving_operators(app: AsgiApp, bind: str | None, sock: socket.socket | None) -> AsyncIterator[None]:
    """Serve the operators' listener for the time of the block, where there is one.

    Args:
        app: The app.
        bind: Its address; None when there is none.
        sock: The listening socket, where the process was given one. Hypercorn owns it from now on.

    Raises:
        ConfigError: The address is not available.
    """
    if bind is None:
        yield
        return
    if sock is None:
        sock = listen_for_operators(bind, shared=multiprocessing.parent_process() is not None)
    config = Config()
    config.bind = [f"fd://{sock.detach()}"]
    config.errorlog = logging.getLogger("hypercorn.error")
    config.loglevel = "WARNING"
    config.graceful_timeout = _GRACE
    config.include_server_header = False
    admin: Any = _AdminApp(app)
    server = ListenerServer(_serve_listeners, _MAX_MESSAGE, _GRACE, False)
    ended = trio.Event()
    run = partial(hypercorn_serve, admin, config, shutdown_trigger=ended.wait, mode="asgi")
    with serving_listeners_of(admin, server):
        async with trio.open_nursery() as nursery:
            await nursery.start(run)
            try:
                yield
            finally:
                ended.set()
                nursery.cancel_scope.deadline = trio.current_time() + 2 * _GRACE
