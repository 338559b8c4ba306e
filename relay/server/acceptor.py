"""Accepting connections in the server's place, and clients at endpoints without the server's and Quart's tasks for each.

Ten thousand clients that reconnect at once are ten thousand handshakes. Through Hypercorn and Quart each costs three tasks, a
dozen cancel scopes and the hijack that undoes them, and one connection is accepted in each turn of the event loop, so that the
queue of the listening socket overflows. Here a turn accepts many, and none has a task before something has to be awaited for
it. `relay.server.first_requests` decides what each is for. A connection that is not plainly a client for an endpoint goes to
Hypercorn, with the bytes that were read: other paths, refusals, bad requests.

This applies to listeners without TLS in a verified Hypercorn; see `relay.server.hypercorn_compat`.
"""

import resource
import socket
from collections.abc import Mapping
from functools import partial
from typing import NoReturn

import structlog
import trio

from relay.server.admission import Admission
from relay.server.endpoints import Endpoint
from relay.server.first_requests import Connection, FirstRequests, Server
from relay.server.http_connections import HttpConnections
from relay.server.hypercorn_compat.listeners import WorkerListeners
from relay.server.socket_options import reset, set_tcp_options
from relay.server.unserved_connections import UnservedConnections

_log = structlog.get_logger("relay.acceptor")

#: Connections accepted in one turn of the event loop, which serves all others in between.
ACCEPT_AT_ONCE = 32

#: Connections that the server may have in addition to those of clients.
SPARE_CONNECTIONS = 1000

#: Files that are kept for others than clients: Redis, and health checks. A connection whose descriptor is within the last
#: `_HEALTH_FILES` below the process's limit is served only if it asks for the relay's health. Within the last `_SPARE_FILES` it
#: is closed at once.
_HEALTH_FILES = 64
_SPARE_FILES = 32

#: Seconds within which a connection has to ask for the relay's health when files run out.
_HEALTH_SECONDS = 1.0

#: Seconds after which an address may try again that has too many connections which send nothing.
_SILENT_RETRY = 10

#: Seconds after which accepting is tried again, when files or memory have run out.
_RETRY_SECONDS = 0.1


class Acceptor:
    """Accepts connections and clients.

    Args:
        endpoints: Paths, and what makes a client's protocol there.
        admission: Decides who may connect.
    """

    def __init__(self, endpoints: Mapping[str, Endpoint], admission: Admission) -> None:
        watch = admission.context.watch
        assert watch is not None
        self._watch = watch
        self._admission = admission
        self._registry = admission.context.registry
        self._settings = admission.settings
        self._unserved = UnservedConnections(admission.proxies, admission.settings.max_clients_per_address)
        self._requests = FirstRequests(endpoints, admission, self._unserved, watch)
        #: Connections that have sent nothing, those that have been silent the longest first.
        self._silent: dict[Connection, None] = {}
        #: Connections that the server may have to serve. All clients may be among them, and then there is still one left for a
        #: health check, or to say that the relay is full.
        self._max_connections = self._settings.max_clients + SPARE_CONNECTIONS

    async def serve_listeners(self, worker: WorkerListeners) -> NoReturn:
        """Serve a worker's listeners until cancelled."""
        self._admission.drain_when(worker.terminated)
        connections = HttpConnections(worker.handler, worker.keep_alive_timeout, self._max_connections)
        by_trio = partial(trio.serve_listeners, connections.serve, handler_nursery=worker.handler_nursery)
        server = Server(connections.serve, worker.handler_nursery, worker.keep_alive_timeout)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connections.close_idle)
                nursery.start_soon(self._close_silent, server.idle_timeout)
                for listener in worker.listeners:
                    is_plain = type(listener) is trio.SocketListener
                    if is_plain and self._settings.hijack_sockets and not worker.has_own_rules:
                        nursery.start_soon(self._accept, listener, server)
                    else:
                        nursery.start_soon(by_trio, [listener])
        finally:
            for connection in list(self._silent):
                self._end_silent(connection)
        raise AssertionError("listeners are served until cancelled")

    async def _accept(self, listener: trio.SocketListener, server: Server) -> None:
        """Accept until cancelled, then close the listening socket.

        Args:
            listener: Its socket is taken out of it.
            server: Serves a connection that is not a client's.
        """
        ours = listener.socket
        listening = socket.socket(ours.family, ours.type, ours.proto, fileno=ours.detach())
        listening.setblocking(False)
        set_tcp_options(listening, self._settings.dead_peer_timeout)
        try:
            while True:
                await trio.lowlevel.wait_readable(listening)
                files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
                try:
                    for _ in range(ACCEPT_AT_ONCE):
                        self._take(*listening.accept(), server, files)
                except (BlockingIOError, ConnectionAbortedError):
                    continue
                except OSError as error:
                    _log.error("connections cannot be accepted", error=str(error), retry_in=_RETRY_SECONDS)
                    await trio.sleep(_RETRY_SECONDS)
        finally:
            listening.close()

    def _take(self, sock: socket.socket, address: object, server: Server, max_files: int) -> None:
        """Take a connection that was accepted.

        Args:
            sock: Its socket.
            address: Its other end.
            server: Serves it if it is not a client's.
            max_files: Files that the process may have open.

        Raises:
            OSError: The kernel has no room to watch it; it is closed.
        """
        files_left = max_files - sock.fileno()
        if files_left <= _SPARE_FILES or not self._watch.is_open:
            reset(sock)
            return
        sock.setblocking(False)
        key = self._unserved.key_of(address)
        connection = Connection(sock, address, key, server, self._on_readable, self._end_silent)
        if not self._unserved.has_room(key):
            self._requests.refuse(connection, _SILENT_RETRY)
            return
        self._unserved.add(key)
        if files_left <= _HEALTH_FILES:
            connection.is_short_of_files = True
            self._admission.start(partial(self._requests.read, connection, _HEALTH_SECONDS), sock.close)
            return
        try:
            self._watch.add(connection.fileno, connection)
        except OSError:
            self._unserved.remove(key)
            reset(sock)
            raise
        self._silent[connection] = None
        self._registry.add_silent(connection)

    def _on_readable(self, connection: Connection, is_last: bool) -> None:
        if connection in self._silent:  # else it has a task
            del self._silent[connection]
            self._registry.discard_silent(connection)
            self._requests.read_now(connection, is_last=is_last)

    async def _close_silent(self, idle_timeout: float) -> None:
        """Close connections that have been silent for too long, until cancelled."""
        while True:
            now = trio.current_time()
            for connection in list(self._silent):
                if connection.due > now:
                    break
                self._end_silent(connection)
            first = next(iter(self._silent), None)
            await trio.sleep_until(now + idle_timeout if first is None else first.due)

    def _end_silent(self, connection: Connection) -> None:
        """Close a connection that has sent nothing. May be called again."""
        if connection in self._silent:
            del self._silent[connection]
            self._registry.discard_silent(connection)
            self._requests.close(connection)
            self._unserved.remove(connection.key)
