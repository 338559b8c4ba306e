"""The one place that touches Hypercorn's internals: what Relay replaces in it, and what it reads of it.

Nothing happens on import. `install` replaces two names in Hypercorn's modules, once, and only in a verified version:

    hypercorn.trio.run.trio                        its `serve_listeners` asks Relay first, for the apps that are registered here
    hypercorn.protocol.h11.WSStream, .h2.WSStream  keep what a client sends before its handshake is answered

`inspect` follows an ASGI ``send`` to the socket. Each link of the chain is checked, and where one is not the expected one the
rest is left out, so that a session then stays on plain ASGI:

    send -> WSStream or HTTPStream  .send -> H11Protocol or H2Protocol  .send -> TCPServer  .stream -> trio.SocketStream

A hijack exchanges three of these objects for stand-ins, so that Hypercorn's tasks for the connection end by themselves. Its
nursery must never be cancelled: `TaskGroup.__aexit__` would leak the `Cancelled` and stop the whole server.
"""

import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib import metadata
from typing import Any, NamedTuple, NoReturn

import h11
import hypercorn.protocol.h2
import hypercorn.protocol.h11
import hypercorn.trio.run
import trio
from hypercorn.protocol.events import Body, Data, StreamClosed
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import ASGIWebsocketState, WSStream
from hypercorn.trio.tcp_server import TCPServer
from wsproto.connection import Connection, ConnectionState
from wsproto.events import Ping
from wsproto.utilities import LocalProtocolError

from relay.protocols.handshake import deflate_of

#: The versions whose internals were read and are tested, and what is known of each. Others are served on plain ASGI.
VERIFIED_VERSIONS = {
    "0.17": "0.17.3: the same chain and the same names as 0.18",
    "0.18": "0.18.0: answers bytes that follow a handshake too early with a 400 of its own, upon which h11 raises",
}

#: Bytes kept that a client sends before its handshake is answered.
_MAX_EARLY = 64 * 1024

Send = Callable[[Any], Awaitable[None]]
Receive = Callable[[], Awaitable[Any]]


@cache
def is_verified() -> bool:
    """Whether the installed Hypercorn is one of `VERIFIED_VERSIONS`."""
    return metadata.version("hypercorn").rpartition(".")[0] in VERIFIED_VERSIONS


# Serving a worker's listeners in Hypercorn's place.


@dataclass(frozen=True, slots=True)
class WorkerListeners:
    """What a Hypercorn worker asks to be served, once it is up.

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


ServeListeners = Callable[[WorkerListeners], Awaitable[NoReturn]]

#: Who serves a worker's listeners, by the identity of the app that the worker was given.
_servers: dict[int, ServeListeners] = {}


@contextmanager
def serving_listeners_of(app: object, serve: ServeListeners) -> Iterator[None]:
    """For the time of the block, have `serve` serve the listeners of a worker that was given this app.

    Without effect before `install`, in an unverified Hypercorn, and under another server.
    """
    _servers[id(app)] = serve
    try:
        yield
    finally:
        del _servers[id(app)]


def _server_of(wrapper: Any) -> ServeListeners | None:
    """The registered server of a worker's app, which may be wrapped once by `AsgiDispatcher`."""
    app = getattr(wrapper, "app", None)
    return _servers.get(id(app)) or _servers.get(id(getattr(app, "app", None)))


async def _serve_listeners(handler: Any, listeners: list[Any], *, handler_nursery: trio.Nursery) -> NoReturn:
    """Stand in for `trio.serve_listeners` in Hypercorn's worker."""
    if isinstance(handler, partial) and handler.func is TCPServer:
        wrapper, config, context, _ = handler.args
        serve = _server_of(wrapper)
        if serve is not None:
            own_rules = config.root_path or config.accesslog or config.server_names or context.max_requests
            await serve(
                WorkerListeners(
                    listeners,
                    handler,
                    handler_nursery,
                    config.keep_alive_timeout,
                    context.terminated,
                    bool(own_rules),
                )
            )
    await trio.serve_listeners(handler, listeners, handler_nursery=handler_nursery)


class _WorkerTrio:
    """The `trio` module as Hypercorn's worker sees it."""

    serve_listeners = staticmethod(_serve_listeners)

    def __getattr__(self, name: str) -> Any:
        return getattr(trio, name)


class _BufferingWSStream(WSStream):
    """Keeps what a client sends before its handshake is answered, and handles it afterwards.

    Stock Hypercorn answers such bytes with a 400 of its own, beside the app's answer; h11 then raises what nobody catches, and
    the whole server ends: one packet of one client would be enough.
    """

    _early = b""

    async def handle(self, event: Any) -> None:
        if not isinstance(event, Body | Data) or self.closed or self.state is ASGIWebsocketState.CONNECTED:
            await super().handle(event)
        elif self.state is ASGIWebsocketState.HANDSHAKE and len(self._early) + len(event.data) <= _MAX_EARLY:
            self._early += event.data
        else:
            await self.send(StreamClosed(stream_id=self.stream_id))

    async def _accept(self, message: Any) -> None:
        # An offer that makes no sense must be declined (RFC 7692 section 5); wsproto raises.
        self.handshake.extensions = [offer for offer in self.handshake.extensions or () if deflate_of(offer)]
        await super()._accept(message)
        early, self._early = self._early, b""
        if early:
            await self.handle(Data(stream_id=self.stream_id, data=early))


def install() -> bool:
    """Put Relay's replacements into Hypercorn, once for the process.

    Returns:
        False in a Hypercorn that is not verified, which is left as it is.
    """
    if not is_verified():
        return False
    hypercorn.trio.run.trio = _WorkerTrio()  # type: ignore[assignment, attr-defined]
    hypercorn.protocol.h11.WSStream = _BufferingWSStream  # type: ignore[attr-defined]
    hypercorn.protocol.h2.WSStream = _BufferingWSStream  # type: ignore[attr-defined]
    return True


# From an ASGI `send` to the socket.


class HypercornChain(NamedTuple):
    """What was found behind an ASGI ``send``; what is None could not be reached.

    Attributes:
        asgi_stream: Hypercorn's WSStream or HTTPStream.
        protocol: Its H11Protocol or H2Protocol.
        tcp_server: Its TCPServer.
        socket: The Trio socket of the connection, also beneath TLS.
        is_plain_http1: HTTP/1.1 without TLS, so that the connection can be hijacked.
    """

    asgi_stream: Any = None
    protocol: Any = None
    tcp_server: Any = None
    socket: Any = None
    is_plain_http1: bool = False

    @property
    def terminated(self) -> Any | None:
        """An event with an async ``wait``, set when the server begins to shut down."""
        return None if self.asgi_stream is None else self.asgi_stream.context.terminated

    @property
    def is_websocket(self) -> bool:
        """The ASGI stream is that of a WebSocket connection."""
        return isinstance(self.asgi_stream, WSStream)

    @property
    def is_response(self) -> bool:
        """The ASGI stream is that of an HTTP request."""
        return isinstance(self.asgi_stream, HTTPStream)

    async def send_ping(self) -> None:
        """Send a WebSocket ping by way of Hypercorn; does nothing once the connection is closing."""
        await self.asgi_stream._send_wsproto_event(Ping())


def _owner(bound_method: Any) -> Any:
    return getattr(bound_method, "__self__", None)


def inspect(send: Send) -> HypercornChain:
    """Follow the chain from an ASGI ``send`` as far as each link is the expected one."""
    asgi_stream = _owner(send)
    if not is_verified() or not isinstance(asgi_stream, WSStream | HTTPStream):
        return HypercornChain()
    protocol = _owner(getattr(asgi_stream, "send", None))
    tcp_server = _owner(getattr(protocol, "send", None))
    if not isinstance(tcp_server, TCPServer):
        return HypercornChain(asgi_stream)
    stream = getattr(tcp_server, "stream", None)
    is_plain = isinstance(stream, trio.SocketStream)
    transport_stream = stream if is_plain else getattr(stream, "transport_stream", None)
    trio_socket = getattr(transport_stream, "socket", None)
    is_plain_http1 = is_plain and isinstance(protocol, H11Protocol) and trio_socket is not None
    return HypercornChain(asgi_stream, protocol, tcp_server, trio_socket, is_plain_http1)


# Stand-ins for a connection that is hijacked.


class HandshakeRecorder:
    """Stands in for Hypercorn's wsproto connection from the 101 on, and keeps what the client sends.

    Attributes:
        connection: The wsproto connection with what was negotiated.
        received: What the client has sent since.
        state: As wsproto has it.
    """

    __slots__ = ("connection", "received", "state")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.received = bytearray()
        self.state = ConnectionState.OPEN

    def receive_data(self, data: bytes) -> None:
        """Keep bytes of the client."""
        self.received += data

    def events(self) -> Iterator[Any]:
        """Nothing happens for Hypercorn any more."""
        return iter(())

    def send(self, event: Any) -> bytes:
        """Refuse to send, in the way that Hypercorn expects of a connection that is closing."""
        raise LocalProtocolError(f"{event} cannot be sent: this connection was hijacked")


def record_handshake(chain: HypercornChain) -> bool:
    """Have the handshake that is about to be accepted end in a `HandshakeRecorder`, as the stream's `connection`.

    Returns:
        False where that cannot be.
    """
    handshake = getattr(chain.asgi_stream, "handshake", None)
    if not chain.is_plain_http1 or handshake is None:
        return False
    accept = handshake.accept

    def accept_and_record(*args: Any) -> tuple[Any, Any, HandshakeRecorder]:
        status, headers, connection = accept(*args)
        return status, headers, HandshakeRecorder(connection)

    handshake.accept = accept_and_record
    return True


class _NullStream:
    """Stands in for Hypercorn's stream after the hijack. It must neither write nor shut down what is ours now."""

    async def send_all(self, data: bytes) -> None:  # noqa: ARG002 - as a stream has it
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:  # noqa: ARG002 - as a stream has it
        await trio.lowlevel.checkpoint()
        raise trio.ClosedResourceError("this connection was hijacked")

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


def dup_socket(chain: HypercornChain) -> socket.socket:
    """Return a socket of ours on Hypercorn's connection, and close Hypercorn's own; its reader then finds it closed."""
    original = chain.tcp_server.stream.socket
    ours = socket.fromfd(original.fileno(), original.family, original.type)
    chain.tcp_server.stream = _NullStream()
    original.close()
    return ours


class _ExhaustedH11:
    """Stands in for Hypercorn's h11 connection, whose reader waits for the response to end: there is no more to read."""

    our_state = None
    they_are_waiting_for_100_continue = False

    def next_event(self) -> Any:
        return h11.NEED_DATA

    def receive_data(self, data: bytes) -> None:
        """Nothing is expected after the request."""

    def send(self, event: Any) -> bytes:  # noqa: ARG002 - as h11 has it
        return b""


def exhaust_h11(chain: HypercornChain) -> None:
    """Let Hypercorn believe that neither side has anything more to send on this HTTP/1.1 connection."""
    chain.protocol.connection = _ExhaustedH11()


async def wake_h11_reader(chain: HypercornChain) -> None:
    """Wake Hypercorn's reader, which waits for the response to end."""
    await chain.protocol.can_read.set()
