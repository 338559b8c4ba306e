"""The WebSocket handshake of a door, done on the fresh connection, before Hypercorn's and Quart's tasks for it are made.

Ten thousand clients that come back at once are ten thousand handshakes. Through Hypercorn and Quart each costs three tasks, a
dozen cancel scopes and the takeover that undoes them; here it is one read, wsproto's parser, and the session. Whatever is not
plainly a client that may come in at a door goes the ordinary way, with the bytes that were read: other paths, refusals, bad
requests.

This replaces `run` of Hypercorn 0.18's `TCPServer`, for connections without TLS to an app that is registered here. Everything
else, another Hypercorn among it, is as if this module were not there.
"""

import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import trio
from wsproto.connection import Connection, ConnectionType
from wsproto.events import Request
from wsproto.extensions import PerMessageDeflate
from wsproto.handshake import H11Handshake, server_extensions_handshake
from wsproto.utilities import RemoteProtocolError, generate_accept_token

from relay.protocols.base import ClientProtocol
from relay.protocols.frames import FrameReader
from relay.server.session import Session
from relay.server.sessions import Sessions
from relay.server.transports import SocketTransport, reset

try:
    from hypercorn.trio.tcp_server import TCPServer
except ImportError:  # another Hypercorn, or none
    HYPERCORN = False
else:
    HYPERCORN = True

#: A request's head is read in one piece or goes the ordinary way.
_MAX_HEAD = 64 * 1024

#: Headers that announce a body, which a handshake does not have.
_BODY = {b"content-length", b"transfer-encoding"}


class Greeter:
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
        #: Fresh connections that have said nothing yet: cancelled, they are closed.
        self.waiting: set[trio.CancelScope] = set()

    def hang_up(self) -> None:
        """Close the connections that have said nothing yet."""
        for scope in list(self.waiting):
            scope.cancel()

    def greet(self, stream: trio.SocketStream, data: bytes) -> bool:
        """Do the handshake with a client whose first bytes these are, and start its session; False when it has to go the
        ordinary way, with nothing done."""
        sessions = self._sessions
        head, end, early = data.partition(b"\r\n\r\n")
        method, _, rest = head.partition(b" ")
        target, _, rest = rest.partition(b" ")
        door = self._doors.get(target.partition(b"?")[0])
        if method != b"GET" or door is None or not end or not rest.startswith(b"HTTP/1.1\r\n"):
            return False
        handshake = H11Handshake(ConnectionType.SERVER)
        try:
            handshake.receive_data(head + end)
            request = next(handshake.events(), None)
        except (RemoteProtocolError, UnicodeError):
            return False
        if not isinstance(request, Request) or any(name in _BODY for name, _ in request.extra_headers):
            return False
        if sessions.is_full or sessions.draining or not self._may_enter(list(request.extra_headers)):
            return False
        deflate = PerMessageDeflate()
        answer = _accept(request, deflate)
        settings = sessions.settings
        ours = _detached(stream)
        try:
            host, port = ours.getpeername()[:2]
            ours.setblocking(False)
            if ours.send(answer) != len(answer):
                raise BlockingIOError("a fresh connection does not take 200 bytes")
            reader = FrameReader(settings.max_message_bytes, Connection(ConnectionType.SERVER, [deflate]))
            transport = SocketTransport(ours, reader, settings.dead_peer_timeout)
        except OSError:
            reset(ours)
            return True
        session = Session(sessions, transport, door(), f"{host}:{port}")
        try:
            sessions.start(partial(session.run, transport.feed(early)))
        except trio.RunFinishedError:
            session.abort()
        return True


def _accept(request: Request, extension: PerMessageDeflate) -> bytes:
    """The answer to a valid handshake, RFC 6455 section 4.2.2."""
    key = next(value for name, value in request.extra_headers if name == b"sec-websocket-key")
    agreed = server_extensions_handshake([str(offer) for offer in request.extensions], [extension])
    more = b"Sec-WebSocket-Extensions: %b\r\n" % agreed if agreed else b""
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\n%b\r\n" % (generate_accept_token(key), more)
    )


def _detached(stream: trio.SocketStream) -> socket.socket:
    """A stream's socket as an ordinary one. Of the stream nothing is left: closing it, as trio does with what its listener
    has accepted, is not worth a cancel scope and a checkpoint any more."""
    sock: Any = stream.socket
    family, kind, protocol = sock.family, sock.type, sock.proto
    ours = socket.socket(family, kind, protocol, fileno=sock.detach())
    stream.aclose = _closed  # type: ignore[method-assign]
    return ours


async def _closed() -> None:
    """Nothing is open."""


#: Who greets, by the app that Hypercorn was given.
_greeters: dict[int, Greeter] = {}


@contextmanager
def greeting(app: object, greeter: Greeter) -> Iterator[None]:
    """Greet the clients of an app for the time of the block; does nothing where Hypercorn is another one."""
    _greeters[id(app)] = greeter
    try:
        yield
    finally:
        del _greeters[id(app)]


def _greeter_of(server: Any) -> Greeter | None:
    """Who greets a Hypercorn server's new connection; None where it has to go the ordinary way."""
    app = getattr(server.app, "app", None)
    greeter = _greeters.get(id(app)) or _greeters.get(id(getattr(app, "app", None)))
    if greeter is None or type(server.stream) is not trio.SocketStream:
        return None
    config = server.config
    # These are Hypercorn's to see to.
    is_special = config.root_path or config.accesslog or config.server_names or server.context.max_requests
    return None if is_special else greeter


if HYPERCORN:
    _ordinary_run = TCPServer.run

    async def _run(self: Any) -> None:
        greeter = _greeter_of(self)
        if greeter is None:
            await _ordinary_run(self)
            return
        stream = self.stream
        greeter.drain_with(self.context.terminated)
        data = b""
        # An idle connection gets as long from Hypercorn as well.
        with trio.move_on_after(self.config.keep_alive_timeout) as scope:
            greeter.waiting.add(scope)
            try:
                data = bytes(await stream.receive_some(_MAX_HEAD))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            finally:
                greeter.waiting.discard(scope)
                if not data:
                    stream.socket.close()
        if not data or greeter.greet(stream, data):
            return

        async def receive_again(max_bytes: int | None = None) -> bytes:  # noqa: ARG001 - Hypercorn asks for as much as we did
            del stream.receive_some
            await trio.lowlevel.checkpoint()
            return data

        stream.receive_some = receive_again
        await _ordinary_run(self)

    TCPServer.run = _run  # type: ignore[method-assign]
