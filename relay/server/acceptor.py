"""Accepting connections in the server's place, and clients at endpoints without the server's and Quart's tasks for each.

Ten thousand clients that reconnect at once are ten thousand handshakes. Through Hypercorn and Quart each costs three tasks, a
dozen cancel scopes and the hijack that undoes them, and one connection is accepted in each turn of the event loop, so that the
queue of the listening socket overflows. Here a turn accepts many, and each is one task from its first byte to its last. A
connection that is not plainly a client for an endpoint goes to Hypercorn, with the bytes that were read: other paths,
refusals, bad requests.

This applies to listeners without TLS in a verified Hypercorn; see `relay.server.hypercorn_compat`.
"""

import socket
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NoReturn

import structlog
import trio

from relay.protocols.base import ClientProtocol
from relay.protocols.frames import FrameReader
from relay.protocols.handshake import MAX_HEAD, Handshake, connection_of, read_handshake
from relay.server.admission import Admission
from relay.server.http_connections import Handler, HttpConnections
from relay.server.hypercorn_compat import WorkerListeners
from relay.server.session import Session
from relay.server.transports import SocketTransport, reset, set_tcp_options

_log = structlog.get_logger("relay.acceptor")

#: Connections accepted in one turn of the event loop, which serves all others in between.
ACCEPT_AT_ONCE = 32

#: Connections that the server may have in addition to those of clients.
SPARE_CONNECTIONS = 1000

#: Seconds after which accepting is tried again, when files or memory have run out.
_RETRY_SECONDS = 0.1


class Acceptor:
    """Accepts connections and clients.

    Args:
        endpoints: Paths, and what makes a client's protocol there.
        admission: Decides who may connect.
    """

    def __init__(self, endpoints: Mapping[str, Callable[[], ClientProtocol]], admission: Admission) -> None:
        self._endpoints = {path.encode(): endpoint for path, endpoint in endpoints.items()}
        self._admission = admission
        self._context = admission.context
        self._settings = admission.settings
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
                        fresh.setblocking(False)
                        serve = partial(self._serve, fresh, address, handler, nursery, idle_timeout)
                        self._admission.start(serve, fresh.close)
                except (BlockingIOError, ConnectionAbortedError):
                    continue
                except OSError as error:
                    _log.error("connections cannot be accepted", error=str(error), retry_in=_RETRY_SECONDS)
                    await trio.sleep(_RETRY_SECONDS)
        finally:
            listening.close()

    async def _serve(
        self, fresh: socket.socket, address: Any, handler: Handler, nursery: trio.Nursery, idle_timeout: float
    ) -> None:
        """Serve one connection, as a client's session or by delegating it to the server."""
        session: Session | None = None
        try:
            data = await self._first_bytes(fresh, idle_timeout)
            handshake = read_handshake(data) if data else None
            endpoint = self._endpoints.get(handshake.path) if handshake is not None else None
            if handshake is not None and endpoint is not None and self._admission.is_allowed(handshake.headers):
                session, events = self._upgrade(fresh, address, handshake, endpoint())
            elif data:
                _delegate(fresh, data, handler, nursery)
            else:
                fresh.close()
        except OSError:  # the client hung up
            reset(fresh)
        except Exception:  # noqa: BLE001 - a bug that one connection meets must not end the others
            _log.exception("connection failed", client=address)
            reset(fresh)
        except BaseException:
            reset(fresh)
            raise
        if session is not None:
            await session.run(events)

    async def _first_bytes(self, fresh: socket.socket, idle_timeout: float) -> bytes:
        """Return the first bytes of a connection; b"" when it ends without any, is silent, or the relay drains.

        Raises:
            OSError: The connection broke.
        """
        try:
            return fresh.recv(MAX_HEAD)
        except BlockingIOError:
            pass
        with trio.move_on_after(idle_timeout) as scope, self._context.registry.silent_connection(scope):
            while True:
                await trio.lowlevel.wait_readable(fresh)
                try:
                    return fresh.recv(MAX_HEAD)
                except BlockingIOError:
                    continue
        return b""

    def _upgrade(
        self, fresh: socket.socket, address: Any, handshake: Handshake, protocol: ClientProtocol
    ) -> tuple[Session, list[Any]]:
        """Answer the handshake.

        Returns:
            The session, and the events in what the client has sent already.

        Raises:
            OSError: The client has gone.
        """
        answer = handshake.accept()
        if fresh.send(answer) != len(answer):
            raise BlockingIOError("a fresh connection does not take 200 bytes")
        reader = FrameReader(self._settings.max_message_bytes, partial(connection_of, handshake.offers))
        transport = SocketTransport(fresh, reader, None)
        peer = f"{address[0]}:{address[1]}" if isinstance(address, tuple) else "unix"
        return Session(self._context, transport, protocol, peer), transport.feed(handshake.early)


def _delegate(fresh: socket.socket, data: bytes, handler: Handler, nursery: trio.Nursery) -> None:
    """Have the server serve a connection whose first bytes were read."""
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(fresh))

    async def receive_again(max_bytes: int | None = None) -> bytes:  # noqa: ARG001 - it asks for as much as we read
        del stream.receive_some
        await trio.lowlevel.checkpoint()
        return data

    async def serve() -> None:
        try:
            await handler(stream)
        finally:
            await trio.aclose_forcefully(stream)

    stream.receive_some = receive_again  # type: ignore[method-assign]
    try:
        nursery.start_soon(serve)
    except RuntimeError:  # the server has just ended
        stream.socket.close()
