"""Accepting connections in the server's place, and clients at endpoints without the server's and Quart's tasks for each.

Ten thousand clients that reconnect at once are ten thousand handshakes. Through Hypercorn and Quart each costs three tasks, a
dozen cancel scopes and the hijack that undoes them, and one connection is accepted in each turn of the event loop, so that the
queue of the listening socket overflows. Here a turn accepts many, and each is one task from its first byte to its last. A
connection that is not plainly a client for an endpoint goes to Hypercorn, with the bytes that were read: other paths,
refusals, bad requests.

This applies to listeners without TLS in a verified Hypercorn; see `relay.server.hypercorn_compat`.
"""

import resource
import socket
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

import structlog
import trio

from relay.core.client_address import ClientAddress
from relay.protocols.base import ClientProtocol
from relay.protocols.connection import connection_of
from relay.protocols.frames import FrameReader
from relay.protocols.handshake import MAX_HEAD, Handshake, has_too_many_lines, read_handshake
from relay.server.admission import CLIENT_LIMIT, Admission, whole_seconds
from relay.server.auth.authenticator import Entry
from relay.server.connect_gate import CONNECT_RATE
from relay.server.endpoints import Endpoint, Opening
from relay.server.http_connections import Handler, HttpConnections
from relay.server.hypercorn_compat.listeners import WorkerListeners
from relay.server.session import Session
from relay.server.socket_options import reset, set_tcp_options
from relay.server.transports import socket_transport
from relay.server.turnstile import Turnstile
from relay.server.unserved_connections import UnservedConnections

_log = structlog.get_logger("relay.acceptor")

_GET = b"GET "
_HEAD_END = b"\r\n\r\n"

#: Connections accepted in one turn of the event loop, which serves all others in between.
ACCEPT_AT_ONCE = 32

#: Bytes of heads that are not complete, of all connections together, beyond which a head may have `_SHORT_HEAD` bytes only.
_INCOMPLETE_HEADS = 16 * 1024 * 1024
_SHORT_HEAD = 8 * 1024

#: Handshakes answered in one turn of the event loop.
_HANDSHAKES_AT_ONCE = 16

#: Connections that the server may have in addition to those of clients.
SPARE_CONNECTIONS = 1000

#: Files that are kept for others than clients: Redis, and health checks. A connection whose descriptor is within the last
#: `_HEALTH_FILES` below the process's limit is served only if it asks for the relay's health. Within the last `_SPARE_FILES` it
#: is closed at once.
_HEALTH_FILES = 64
_SPARE_FILES = 32

#: Seconds within which a connection has to ask for the relay's health when files run out.
_HEALTH_SECONDS = 1.0

#: Requests that are answered when files run out.
_HEALTH_REQUESTS = (b"GET /healthz ", b"GET /readyz ", b"GET /metrics ")

_REFUSAL = b"HTTP/1.1 %b\r\nConnection: close\r\nRetry-After: %d\r\nContent-Length: 0\r\n\r\n"
_UNAVAILABLE = b"503 Service Unavailable"
_NO_FILES = _REFUSAL % (_UNAVAILABLE, 5)
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_TOO_MANY = b"429 Too Many Requests"

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
        self._endpoints = {path.encode(): endpoint for path, endpoint in endpoints.items()}
        self._admission = admission
        self._context = admission.context
        self._incomplete = 0
        self._handshakes = Turnstile(_HANDSHAKES_AT_ONCE)
        self._settings = admission.settings
        self._unserved = UnservedConnections(admission.proxies, admission.settings.max_clients_per_address)
        #: Connections that the server may have to serve. All clients may be among them, and then there is still one left for a
        #: health check, or to say that the relay is full.
        self._max_connections = self._settings.max_clients + SPARE_CONNECTIONS

    async def serve_listeners(self, worker: WorkerListeners) -> NoReturn:
        """Serve a worker's listeners until cancelled."""
        self._admission.drain_when(worker.terminated)
        connections = HttpConnections(worker.handler, worker.keep_alive_timeout, self._max_connections)
        by_trio = partial(trio.serve_listeners, connections.serve, handler_nursery=worker.handler_nursery)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connections.close_idle)
            for listener in worker.listeners:
                is_plain = type(listener) is trio.SocketListener
                if is_plain and self._settings.hijack_sockets and not worker.has_own_rules:
                    idle_timeout = worker.keep_alive_timeout
                    nursery.start_soon(self._accept, listener, connections.serve, worker.handler_nursery, idle_timeout)
                else:
                    nursery.start_soon(by_trio, [listener])
        raise AssertionError("listeners are served until cancelled")

    async def _accept(
        self, listener: trio.SocketListener, handler: Handler, nursery: trio.Nursery, idle_timeout: float
    ) -> None:
        """Accept until cancelled, then close the listening socket.

        Args:
            listener: Its socket is taken out of it.
            handler: Serves a connection that is not a client's.
            nursery: Where the handler runs.
            idle_timeout: Seconds that a fresh connection may be silent.
        """
        ours = listener.socket
        listening = socket.socket(ours.family, ours.type, ours.proto, fileno=ours.detach())
        listening.setblocking(False)
        set_tcp_options(listening, self._settings.dead_peer_timeout)
        try:
            while True:
                await trio.lowlevel.wait_readable(listening)
                try:
                    for _ in range(ACCEPT_AT_ONCE):
                        fresh, address = listening.accept()
                        if fresh.fileno() >= _file_limit() - _SPARE_FILES:
                            reset(fresh)
                            continue
                        fresh.setblocking(False)
                        key = self._unserved.key_of(address)
                        if not self._unserved.has_room(key):
                            self._refuse(fresh, _SILENT_RETRY)
                            continue
                        self._unserved.add(key)
                        serve = partial(self._serve, fresh, address, key, handler, nursery, idle_timeout)
                        self._admission.start(serve, fresh.close)
                except (BlockingIOError, ConnectionAbortedError):
                    continue
                except OSError as error:
                    _log.error("connections cannot be accepted", error=str(error), retry_in=_RETRY_SECONDS)
                    await trio.sleep(_RETRY_SECONDS)
        finally:
            listening.close()

    def _refuse(self, fresh: socket.socket, retry_after: float, reason: str = CLIENT_LIMIT) -> None:
        """Refuse a connection, of an address that has too many unless another reason is given, and close it."""
        self._admission.count_refusal(reason)
        status = _TOO_MANY if reason == CLIENT_LIMIT else _UNAVAILABLE
        with suppress(OSError):  # it hung up
            fresh.send(_REFUSAL % (status, whole_seconds(retry_after)))
        fresh.close()

    async def _serve(
        self,
        fresh: socket.socket,
        address: Any,
        key: str | None,
        handler: Handler,
        nursery: trio.Nursery,
        idle_timeout: float,
    ) -> None:
        """Serve one connection, as a client's session or by delegating it to the server.

        Args:
            fresh: Its socket.
            address: Its other end.
            key: Under which it is counted as unserved so far.
            handler: Serves a connection that is not a client's.
            nursery: Where the handler runs.
            idle_timeout: Seconds that the connection may be silent.
        """
        try:
            begun = await self._begin(fresh, address, key, handler, nursery, idle_timeout)
        finally:
            self._unserved.remove(key)
        if begun is not None:
            session, events = begun
            await session.run(events)

    async def _begin(
        self,
        fresh: socket.socket,
        address: Any,
        key: str | None,
        handler: Handler,
        nursery: trio.Nursery,
        idle_timeout: float,
    ) -> tuple[Session, list[Any]] | None:
        """Read what a connection is for; returns a client's session, or None when the connection is none of a client."""
        is_short_of_files = fresh.fileno() >= _file_limit() - _HEALTH_FILES
        try:
            data = await self._first_bytes(fresh, _HEALTH_SECONDS if is_short_of_files else idle_timeout)
            if data:
                await self._handshakes.turn()
            is_too_large = has_too_many_lines(data) or (data.startswith(_GET) and _HEAD_END not in data)
            handshake = read_handshake(data) if data and not is_short_of_files and not is_too_large else None
            endpoint = self._endpoints.get(handshake.path) if handshake is not None else None
            if handshake is not None and endpoint is not None:
                client = self._admission.proxies.client(address, handshake.headers)
                if (retry_after := self._admission.retry_after(client)) is not None:
                    self._refuse(fresh, retry_after)
                    return None
                is_allowed = self._admission.is_allowed(handshake.headers, handshake.query)
                if is_allowed and (retry_after := await self._admission.gate.enter()) is not None:
                    self._refuse(fresh, retry_after, CONNECT_RATE)
                    return None
                if is_allowed and not self._admission.is_full:  # others may have come in the meantime
                    self._admission.limit_connect(client)
                    entry = self._admission.entry(handshake.headers, handshake.query)
                    if (retry_after := self._admission.retry_after_for(entry)) is not None:
                        self._refuse(fresh, retry_after)
                        return None
                    opening = Opening(handshake.query, handshake.subprotocol)
                    return self._upgrade(fresh, client, entry, handshake, endpoint(opening))
            if is_too_large:
                self._admission.count_refusal("too_large")
                fresh.send(_TOO_LARGE)
                fresh.close()
            elif data and (not is_short_of_files or data.startswith(_HEALTH_REQUESTS)):
                self._delegate_counted(fresh, data, key, handler, nursery)
            else:
                if data:
                    self._admission.count_refusal("no_files")
                    fresh.send(_NO_FILES)
                fresh.close()
        except OSError:  # the client hung up
            reset(fresh)
        except Exception:  # noqa: BLE001 - a bug that one connection meets must not end the others
            _log.exception("connection failed", client=address)
            reset(fresh)
        except BaseException:
            reset(fresh)
            raise
        return None

    def _delegate_counted(
        self, fresh: socket.socket, data: bytes, key: str | None, handler: Handler, nursery: trio.Nursery
    ) -> None:
        """Have the server serve a connection, which counts as unserved until it ends."""

        async def handle(stream: Any) -> None:
            try:
                await handler(stream)
            finally:
                self._unserved.remove(key)

        self._unserved.add(key)
        _delegate(fresh, data, handle, nursery)

    async def _first_bytes(self, fresh: socket.socket, idle_timeout: float) -> bytes:
        """Return the first bytes of a connection: of a GET the whole head, which may come in several segments.

        They are b"" when it ends without any, is silent, or the relay drains. A head that is too long is cut off.

        Raises:
            OSError: The connection broke.
        """
        data = b""
        with trio.move_on_after(idle_timeout) as scope, self._context.registry.silent_connection(scope):
            while True:
                longest = MAX_HEAD if self._incomplete < _INCOMPLETE_HEADS else _SHORT_HEAD
                if len(data) >= longest:
                    return data
                try:
                    more = fresh.recv(longest - len(data))
                except BlockingIOError:
                    self._incomplete += len(data)
                    try:
                        await trio.lowlevel.wait_readable(fresh)
                    finally:
                        self._incomplete -= len(data)
                    continue
                if data and not more:
                    return b""  # it hung up in the middle
                searched = max(0, len(data) - 3)
                data += more
                if not data.startswith(_GET[: len(data)]) or data.find(_HEAD_END, searched) >= 0:
                    return data
                if not more:
                    return data
        return b""

    def _upgrade(
        self,
        fresh: socket.socket,
        client: ClientAddress,
        entry: Entry,
        handshake: Handshake,
        protocol: ClientProtocol,
    ) -> tuple[Session, list[Any]]:
        """Answer the handshake.

        Returns:
            The session, and the events in what the client has sent already.

        Raises:
            OSError: The client has gone.
        """
        limit = self._settings.max_message_bytes
        reader = FrameReader(limit, partial(connection_of, handshake.offers, limit))
        transport = socket_transport(fresh, reader, None, is_binary=protocol.is_binary)
        events = transport.feed(handshake.early)
        session = Session(self._context, transport, protocol, client, entry, handshake.path.decode())
        session.register()  # before the answer: a client that has it misses nothing
        answer = handshake.accept()
        try:
            if fresh.send(answer) != len(answer):
                raise BlockingIOError("a fresh connection does not take 200 bytes")
        except OSError:
            session.unregister()
            raise
        return session, events


def _file_limit() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _delegate(fresh: socket.socket, data: bytes, handler: Handler, nursery: trio.Nursery) -> None:
    """Have the server serve a connection whose first bytes were read."""
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(fresh))

    receive_more = stream.receive_some

    async def receive_again(max_bytes: int | None = None) -> bytes:
        nonlocal data
        if not data:
            return await receive_more(max_bytes)
        await trio.lowlevel.checkpoint()
        first, data = data, b""
        return first

    async def serve() -> None:
        try:
            await handler(stream)
        finally:
            vars(stream).pop("receive_some", None)  # which refers to the stream
            await trio.aclose_forcefully(stream)

    stream.receive_some = receive_again  # type: ignore[method-assign]
    try:
        nursery.start_soon(serve)
    except RuntimeError:  # the server has just ended
        stream.socket.close()
