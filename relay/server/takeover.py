"""Taking the TCP stream over from Hypercorn, after Quart and Hypercorn have done the handshake.

Hypercorn's own way to a client costs a hundred times what a socket does, and its shielded sends hold on to a client that
stopped reading. So once the 101 is out, the session gets a duplicate of the socket, Hypercorn's copy is closed, and its
tasks for the connection unwind by themselves. Its nursery must never be cancelled: `TaskGroup.__aexit__` would leak the
`Cancelled` and stop the whole server.

Between the 101 and the takeover the client may already speak: Hypercorn is given a parser that only keeps the bytes, which the
session reads first, with the state of permessage-deflate as it was negotiated.

What this reads of Hypercorn 0.18, HTTP/1.1 without TLS: the ASGI ``send`` is a method of `WSStream`, whose ``send`` is one of
`H11Protocol`, whose ``send`` is one of `TCPServer`, whose ``stream`` is the `trio.SocketStream`. Where any link is
another, `find` returns what can be had, and the session stays on plain ASGI.
"""

import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import h11
import trio
from wsproto.connection import Connection, ConnectionState
from wsproto.events import Ping
from wsproto.utilities import LocalProtocolError

from relay.protocols.frames import FrameReader
from relay.protocols.opening import deflate_of
from relay.server.transports import AsgiTransport, SocketTransport, reset, tune

#: Bytes kept that a client sends before its handshake is answered.
_MAX_EARLY = 64 * 1024

try:
    import hypercorn.protocol.h11
    from hypercorn.protocol.events import Body, Data, StreamClosed
    from hypercorn.protocol.h11 import H11Protocol
    from hypercorn.protocol.http_stream import HTTPStream
    from hypercorn.protocol.ws_stream import ASGIWebsocketState, WSStream
    from hypercorn.trio.tcp_server import TCPServer
except ImportError:  # another Hypercorn, or none
    HYPERCORN = False
else:
    HYPERCORN = True

    class _PatientWSStream(WSStream):
        """Keeps what a client sends before its handshake is answered, for after it.

        Hypercorn 0.18 answers such bytes with a 400 of its own, beside the app's answer; h11 then raises what nobody catches,
        and the whole server ends: one packet of one client would do.
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
            # An offer that makes no sense is to be declined; wsproto raises.
            self.handshake.extensions = [offer for offer in self.handshake.extensions or () if deflate_of(offer)]
            await super()._accept(message)
            early, self._early = self._early, b""
            if early:
                await self.handle(Data(stream_id=self.stream_id, data=early))

    hypercorn.protocol.h11.WSStream = _PatientWSStream  # type: ignore[attr-defined]

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class Links(NamedTuple):
    """What could be found behind an ASGI ``send``."""

    asgi_stream: Any = None  # Hypercorn's WSStream or HTTPStream
    protocol: Any = None
    tcp_server: Any = None
    socket: Any = None  # the trio socket at the end
    plain_http1: bool = False


def _owner(bound_method: Any) -> Any:
    return getattr(bound_method, "__self__", None)


def find(send: Send) -> Links:
    """Follow the chain from the ASGI ``send`` as far as it is the known one."""
    if not HYPERCORN:
        return Links()
    asgi_stream = _owner(send)
    if not isinstance(asgi_stream, WSStream | HTTPStream):
        return Links()
    protocol = _owner(getattr(asgi_stream, "send", None))
    tcp_server = _owner(getattr(protocol, "send", None))
    if not isinstance(tcp_server, TCPServer):
        return Links(asgi_stream)
    stream = getattr(tcp_server, "stream", None)
    plain = isinstance(stream, trio.SocketStream)
    transport_stream = stream if plain else getattr(stream, "transport_stream", None)
    trio_socket = getattr(transport_stream, "socket", None)
    plain_http1 = plain and isinstance(protocol, H11Protocol) and trio_socket is not None
    return Links(asgi_stream, protocol, tcp_server, trio_socket, plain_http1)


class _Handover:
    """Stands in for Hypercorn's stream from the takeover on.

    Shutting down and closing are no longer Hypercorn's business: the descriptor it would shut down is a twin of ours.
    """

    async def send_all(self, data: bytes) -> None:  # noqa: ARG002 - as a stream has it
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:  # noqa: ARG002 - as a stream has it
        await trio.lowlevel.checkpoint()
        raise trio.ClosedResourceError("this connection was taken over")

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class _Recorder:
    """Stands in for Hypercorn's wsproto connection: keeps what the client sends, for the session to read."""

    __slots__ = ("connection", "received", "state")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.received = bytearray()
        self.state = ConnectionState.OPEN

    def receive_data(self, data: bytes) -> None:
        self.received += data

    def events(self) -> Iterator[Any]:
        return iter(())

    def send(self, event: Any) -> bytes:
        raise LocalProtocolError(f"{event} cannot be sent: this connection was taken over")


class Takeover:
    """A connection that will be ours. Make it with `prepare` before the handshake is accepted, then `complete` it."""

    def __init__(self, links: Links) -> None:
        self._ws_stream = links.asgi_stream
        self._tcp_server = links.tcp_server
        handshake = self._ws_stream.handshake
        accept = handshake.accept

        def accept_and_record(*args: Any) -> tuple[Any, Any, _Recorder]:
            status, headers, connection = accept(*args)
            return status, headers, _Recorder(connection)

        handshake.accept = accept_and_record

    async def complete(
        self, receive: Receive, *, max_message: int, dead_peer_timeout: float
    ) -> tuple[SocketTransport, bytes]:
        """Take the accepted connection over: its transport, and what the client has sent already.

        When cancelled, the connection is closed.
        """
        ours = _twin_of(self._tcp_server)
        try:
            # Hypercorn's reader finds its socket closed, hands on what it had read, and reports a disconnect: from
            # then on nothing of Hypercorn's touches the connection.
            while (await receive())["type"] != "websocket.disconnect":
                pass
            recorder = self._ws_stream.connection
            transport = SocketTransport(ours, FrameReader(max_message, recorder.connection), dead_peer_timeout)
        except BaseException:
            reset(ours)
            raise
        return transport, bytes(recorder.received)


def prepare(send: Send) -> Takeover | None:
    """Prepare to take a connection over that is about to be accepted, or return None where that cannot be."""
    links = find(send)
    handshake = getattr(links.asgi_stream, "handshake", None)
    return Takeover(links) if links.plain_http1 and hasattr(handshake, "accept") else None


def _twin_of(tcp_server: Any) -> socket.socket:
    """A socket of ours on Hypercorn's connection; Hypercorn's own is closed, and what it still does with it goes nowhere."""
    original = tcp_server.stream.socket
    ours = socket.fromfd(original.fileno(), original.family, original.type)
    tcp_server.stream = _Handover()
    original.close()
    return ours


class _Spent:
    """Stands in for Hypercorn's h11 connection: its reader waits there for the response to end, and now finds that there is
    nothing more to read."""

    our_state = None
    they_are_waiting_for_100_continue = False

    def next_event(self) -> Any:
        return h11.NEED_DATA

    def receive_data(self, data: bytes) -> None:
        """Nothing is expected after the request."""

    def send(self, event: Any) -> bytes:  # noqa: ARG002 - as h11 has it
        return b""


async def take_over_response(send: Send) -> socket.socket | None:
    """Take the connection of an HTTP response over whose headers were sent, with chunked framing; or return None where that
    cannot be. Hypercorn's part ends when the ASGI call returns."""
    links = find(send)
    if not links.plain_http1 or not isinstance(links.asgi_stream, HTTPStream):
        return None
    links.protocol.connection = _Spent()
    ours = _twin_of(links.tcp_server)
    try:
        await links.protocol.can_read.set()
    except BaseException:
        reset(ours)
        raise
    return ours


def grip(links: Links, send: Send, dead_peer_timeout: float) -> Callable[[], None] | None:
    """What closes the connection under the server, where it can be reached; the kernel finds there that a client is gone."""
    if links.socket is None:
        sock = getattr(send, "socket", None)
        if sock is not None:
            with suppress(OSError, ValueError):  # it is closed already
                tune(sock, dead_peer_timeout)
        return getattr(send, "abort_connection", None)
    tune(links.socket, dead_peer_timeout)
    # trio wakes whoever waits for a socket that is closed, in a shielded scope too.
    return partial(reset, links.socket)


def stay_on_asgi(receive: Receive, send: Send, *, max_message: int, dead_peer_timeout: float) -> AsgiTransport:
    """The transport for a connection that cannot be taken over, with as much of a grip on its socket as there is."""
    links = find(send)
    ping_via = None
    if isinstance(links.asgi_stream, WSStream):
        ws_stream = links.asgi_stream

        async def ping_via() -> None:
            await ws_stream._send_wsproto_event(Ping())

    return AsgiTransport(receive, send, max_message, ping_via, grip(links, send, dead_peer_timeout))
