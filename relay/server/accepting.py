"""Accepting connections in Hypercorn's place, and letting clients in at doors without its and Quart's tasks for each.

Ten thousand clients that come back at once are ten thousand handshakes. Through Hypercorn and Quart each costs three tasks, a
dozen cancel scopes and the takeover that undoes them, and one connection is accepted in each turn of the loop, so that the
queue of the listening socket overflows. Here a turn accepts many, and each is one task from its first byte to its last.
Whatever is not plainly a client that may come in at a door goes to Hypercorn, with the bytes that were read: other paths,
refusals, bad requests.

This replaces `trio.serve_listeners` for the worker of Hypercorn 0.18, and there only for listeners without TLS and an app that
is registered here. Everything else, another Hypercorn among it, is as if this module were not there.
"""

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

import structlog
import trio

from relay.protocols.base import ClientProtocol
from relay.protocols.frames import FrameReader
from relay.protocols.opening import MAX_HEAD, Opening, connection_of, read_opening
from relay.server.http_connections import Handler, HttpConnections
from relay.server.session import Session
from relay.server.sessions import Sessions
from relay.server.transports import SocketTransport, reset, tune_for_updates

try:
    import hypercorn.trio.run
    from hypercorn.trio.tcp_server import TCPServer
except ImportError:  # another Hypercorn, or none
    HYPERCORN = False
else:
    HYPERCORN = True

_log = structlog.get_logger("relay.accepting")

#: Connections accepted in one turn of the event loop, which serves all others in between.
ACCEPT_AT_ONCE = 32

#: Connections that the server may have beside those of clients.
SPARE_CONNECTIONS = 1000

#: Seconds after which accepting is tried again, when files or memory have run out.
_ACCEPT_PAUSE = 0.1


class Acceptor:
    """Lets clients in at doors.

    doors:      paths, and what makes a client's protocol there
    sessions:   where they go
    may_enter:  asked with the request's headers
    drain_with: told of the server's "terminated" event
    """

    def __init__(
        self,
        doors: Mapping[str, Callable[[], ClientProtocol]],
        sessions: Sessions,
        may_enter: Callable[[list[tuple[bytes, bytes]]], bool],
        drain_with: Callable[[Any], None],
    ) -> None:
        self._doors = {path.encode(): door for path, door in doors.items()}
        self._sessions = sessions
        self._may_enter = may_enter
        self.drain_with = drain_with
        self.takes_over = sessions.settings.hijack_sockets
        #: Connections that may be the server's to serve. All clients may be among them, and then there is still one to be had
        #: for whoever asks how the relay does, or is to hear that it is full.
        self.most = sessions.settings.max_clients + SPARE_CONNECTIONS
        #: Fresh connections that have said nothing yet: cancelled, they are closed.
        self._silent: set[trio.CancelScope] = set()

    def hang_up(self) -> None:
        """Close the connections that have said nothing yet."""
        for scope in list(self._silent):
            scope.cancel()

    async def run(
        self, listener: trio.SocketListener, handler: Handler, nursery: trio.Nursery, patience: float
    ) -> None:
        """Accept until cancelled, then close the listening socket.

        handler, nursery: what serves a connection that is no client's, and where
        patience:         seconds that a connection may be silent
        """
        ours = listener.socket
        listening = socket.socket(ours.family, ours.type, ours.proto, fileno=ours.detach())
        listening.setblocking(False)
        tune_for_updates(listening, self._sessions.settings.dead_peer_timeout)
        try:
            while True:
                await trio.lowlevel.wait_readable(listening)
                try:
                    for _ in range(ACCEPT_AT_ONCE):
                        fresh, address = listening.accept()
                        fresh.setblocking(False)
                        self._start(partial(self._serve, fresh, address, handler, nursery, patience), fresh)
                except (BlockingIOError, ConnectionAbortedError):
                    continue
                except OSError as error:
                    _log.error("connections cannot be accepted", error=str(error), again_in=_ACCEPT_PAUSE)
                    await trio.sleep(_ACCEPT_PAUSE)
        finally:
            listening.close()

    def _start(self, serve: Callable[[], Any], fresh: socket.socket) -> None:
        try:
            self._sessions.start(serve)
        except trio.RunFinishedError:
            fresh.close()

    async def _serve(
        self, fresh: socket.socket, address: Any, handler: Handler, nursery: trio.Nursery, patience: float
    ) -> None:
        """Serve one connection, as a client's session or by handing it on."""
        session: Session | None = None
        try:
            data = await self._first_bytes(fresh, patience)
            opening = read_opening(data) if data else None
            door = self._doors.get(opening.path) if opening is not None else None
            if opening is not None and door is not None and self._has_room_for(opening):
                session, events = self._let_in(fresh, address, opening, door())
            elif data:
                _hand_on(fresh, data, handler, nursery)
            else:
                fresh.close()
        except OSError:  # it hung up
            reset(fresh)
        except Exception:  # noqa: BLE001 - a bug that one connection meets must not end the others
            _log.exception("connection failed", client=address)
            reset(fresh)
        except BaseException:
            reset(fresh)
            raise
        if session is not None:
            await session.run(events)

    async def _first_bytes(self, fresh: socket.socket, patience: float) -> bytes:
        """What a connection says first; b"" when it hangs up, or is hung up on. Raises OSError when it breaks."""
        try:
            return fresh.recv(MAX_HEAD)
        except BlockingIOError:
            pass
        with trio.move_on_after(patience) as scope:
            self._silent.add(scope)
            try:
                while True:
                    await trio.lowlevel.wait_readable(fresh)
                    try:
                        return fresh.recv(MAX_HEAD)
                    except BlockingIOError:
                        continue
            finally:
                self._silent.discard(scope)
        return b""

    def _has_room_for(self, opening: Opening) -> bool:
        sessions = self._sessions
        return not sessions.is_full and not sessions.draining and self._may_enter(opening.headers)

    def _let_in(
        self, fresh: socket.socket, address: Any, opening: Opening, protocol: ClientProtocol
    ) -> tuple[Session, list[Any]]:
        """Answer the handshake; the session, and what the client has said already. Raises OSError when it has gone."""
        settings = self._sessions.settings
        answer = opening.accept()
        if fresh.send(answer) != len(answer):
            raise BlockingIOError("a fresh connection does not take 200 bytes")
        reader = FrameReader(settings.max_message_bytes, partial(connection_of, opening.offers))
        transport = SocketTransport(fresh, reader, None)
        peer = f"{address[0]}:{address[1]}" if isinstance(address, tuple) else "unix"
        return Session(self._sessions, transport, protocol, peer), transport.feed(opening.early)


def _hand_on(fresh: socket.socket, data: bytes, handler: Handler, nursery: trio.Nursery) -> None:
    """Have the server serve a connection whose first bytes were read."""
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(fresh))

    async def receive_again(max_bytes: int | None = None) -> bytes:  # noqa: ARG001 - it is asked for as much as we did
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


#: Who accepts, by the app that Hypercorn was given.
_acceptors: dict[int, Acceptor] = {}


@contextmanager
def accepting(app: object, acceptor: Acceptor) -> Iterator[None]:
    """Accept the clients of an app for the time of the block; does nothing where Hypercorn is another one."""
    _acceptors[id(app)] = acceptor
    try:
        yield
    finally:
        del _acceptors[id(app)]


def _acceptor_of(wrapper: Any) -> Acceptor | None:
    """Who accepts for the app of a Hypercorn worker; None when it is not one of ours."""
    app = getattr(wrapper, "app", None)
    return _acceptors.get(id(app)) or _acceptors.get(id(getattr(app, "app", None)))


if HYPERCORN:

    async def _serve_listeners(handler: Any, listeners: list[Any], *, handler_nursery: trio.Nursery) -> NoReturn:
        """What Hypercorn's worker calls once it is up, with the listeners that it has opened."""
        acceptor = None
        if isinstance(handler, partial) and handler.func is TCPServer:
            wrapper, config, context, _ = handler.args
            acceptor = _acceptor_of(wrapper)
        if acceptor is None:
            await trio.serve_listeners(handler, listeners, handler_nursery=handler_nursery)
        acceptor.drain_with(context.terminated)
        # These are Hypercorn's to see to.
        is_special = config.root_path or config.accesslog or config.server_names or context.max_requests
        connections = HttpConnections(handler, config.keep_alive_timeout, acceptor.most)
        serve_all = partial(trio.serve_listeners, connections.serve, handler_nursery=handler_nursery)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connections.close_idle)
            for listener in listeners:
                if acceptor.takes_over and type(listener) is trio.SocketListener and not is_special:
                    patience = config.keep_alive_timeout
                    nursery.start_soon(acceptor.run, listener, connections.serve, handler_nursery, patience)
                else:
                    nursery.start_soon(serve_all, [listener])
        raise AssertionError("listeners are served for ever")

    class _Trio:
        """The `trio` that Hypercorn's worker sees."""

        serve_listeners = staticmethod(_serve_listeners)

        def __getattr__(self, name: str) -> Any:
            return getattr(trio, name)

    hypercorn.trio.run.trio = _Trio()  # type: ignore[assignment, attr-defined]
