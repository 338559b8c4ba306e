"""Serving a worker's listeners in Hypercorn's place, for the apps that are registered here."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import trio
from hypercorn.trio.tcp_server import TCPServer


@dataclass(frozen=True, slots=True)
class WorkerListeners:
    """The listeners of a Hypercorn worker that has started.

    Attributes:
        listeners: Trio's listeners, with or without TLS.
        handler: Serves one connection as Hypercorn would.
        handler_nursery: Where the handlers run.
        keep_alive_timeout: Seconds that a connection may be idle.
        terminated: An event with an async ``wait``, set when the server begins to shut down.
        has_own_rules: Hypercorn is configured for something that only it applies to requests: a root path, an access log,
            server names, a limit of requests.
    """

    listeners: list[Any]
    handler: Callable[[Any], Awaitable[Any]]
    handler_nursery: trio.Nursery
    keep_alive_timeout: float
    terminated: Any
    has_own_rules: bool


@dataclass(frozen=True, slots=True)
class ListenerServer:
    """Who serves a worker's listeners, and what Hypercorn is configured with for it.

    Attributes:
        serve: Serves the listeners until cancelled.
        max_message_bytes: Longest WebSocket message of a client, where Hypercorn reads it.
        message_timeout: Seconds from the first to the last byte of such a message.
        allows_cleartext_http2: HTTP/2 may be spoken without TLS.
    """

    serve: Callable[[WorkerListeners], Awaitable[NoReturn]]
    max_message_bytes: int
    message_timeout: float
    allows_cleartext_http2: bool


#: By the identity of the app that a worker was given.
_servers: dict[int, ListenerServer] = {}


@contextmanager
def serving_listeners_of(app: object, server: ListenerServer) -> Iterator[None]:
    """For the time of the block, have `server` serve the listeners of a worker that was given this app.

    Without effect before `install`, in an unverified Hypercorn, and under another server.
    """
    _servers[id(app)] = server
    try:
        yield
    finally:
        del _servers[id(app)]


def _server_of(wrapper: Any) -> ListenerServer | None:
    """The registered server of a worker's app, which may be wrapped once by `AsgiDispatcher`."""
    app = getattr(wrapper, "app", None)
    return _servers.get(id(app)) or _servers.get(id(getattr(app, "app", None)))


class ReleasedTCPServer(TCPServer):
    """Hypercorn's server of one connection, which leaves no reference cycle when it has ended.

    In such a cycle are the parser and what it has buffered. They would stay until the next collection of garbage.
    """

    async def run(self) -> None:
        try:
            await super().run()
        finally:
            self.__dict__.pop("protocol", None)  # which refers to this server


async def _serve_listeners(handler: Any, listeners: list[Any], *, handler_nursery: trio.Nursery) -> NoReturn:
    """Stand in for `trio.serve_listeners` in Hypercorn's worker."""
    if isinstance(handler, partial) and handler.func is TCPServer:
        wrapper, config, context, _ = handler.args
        server = _server_of(wrapper)
        if server is not None:
            config.websocket_max_message_size = server.max_message_bytes
            config.relay_message_timeout = server.message_timeout
            config.relay_allows_cleartext_http2 = server.allows_cleartext_http2
            own_rules = config.root_path or config.accesslog or config.server_names or context.max_requests
            await server.serve(
                WorkerListeners(
                    listeners,
                    partial(ReleasedTCPServer, *handler.args),
                    handler_nursery,
                    config.keep_alive_timeout,
                    context.terminated,
                    bool(own_rules),
                )
            )
    await trio.serve_listeners(handler, listeners, handler_nursery=handler_nursery)


class WorkerTrio:
    """The `trio` module as Hypercorn's worker sees it."""

    serve_listeners = staticmethod(_serve_listeners)

    def __getattr__(self, name: str) -> Any:
        return getattr(trio, name)
