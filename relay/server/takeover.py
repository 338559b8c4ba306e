"""Taking the TCP stream over from Hypercorn, after Quart and Hypercorn have done the handshake.

Hypercorn's own way to a client costs a hundred times what a socket does, and its shielded sends hold on to a client that
stopped reading. So once the 101 is out, the session gets a duplicate of the socket, Hypercorn's copy is closed, and its
tasks for the connection unwind by themselves. Its nursery must never be cancelled: `TaskGroup.__aexit__` would leak the
`Cancelled` and stop the whole server.

What this reads of Hypercorn 0.18, HTTP/1.1 without TLS: the ASGI ``send`` is a method of `WSStream`, whose ``send`` is one of
`H11Protocol`, whose ``send`` is one of `TCPServer`, whose ``stream`` is the `trio.SocketStream`. Where any link is
another, `find` returns what can be had, and the session stays on plain ASGI.
"""

import socket
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import trio

from relay.protocols.frames import Event, FrameReader, PeerClosed, Received
from relay.server.transports import AsgiTransport, SocketTransport, reset, tune

try:
    from hypercorn.protocol.h11 import H11Protocol
    from hypercorn.protocol.ws_stream import WSStream
    from hypercorn.trio.tcp_server import TCPServer
    from wsproto.events import Ping
except ImportError:  # another Hypercorn, or none
    HYPERCORN = False
else:
    HYPERCORN = True

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class _Links(NamedTuple):
    """What could be found behind an ASGI ``send``."""

    ws_stream: Any = None
    tcp_server: Any = None
    socket: Any = None  # the trio socket at the end
    plain_http1: bool = False


def _owner(bound_method: Any) -> Any:
    return getattr(bound_method, "__self__", None)


def find(send: Send) -> _Links:
    """Follow the chain from the ASGI ``send`` as far as it is the known one."""
    if not HYPERCORN:
        return _Links()
    ws_stream = _owner(send)
    if not isinstance(ws_stream, WSStream):
        return _Links()
    protocol = _owner(ws_stream.send)
    tcp_server = _owner(getattr(protocol, "send", None))
    if not isinstance(tcp_server, TCPServer):
        return _Links(ws_stream)
    stream = tcp_server.stream
    plain = isinstance(stream, trio.SocketStream)
    transport_stream = stream if plain else getattr(stream, "transport_stream", None)
    trio_socket = getattr(transport_stream, "socket", None)
    return _Links(ws_stream, tcp_server, trio_socket, plain and isinstance(protocol, H11Protocol))


class _Handover:
    """Stands in for Hypercorn's stream from the takeover on.

    What Hypercorn still writes for this connection, a pong for instance, goes where it would have gone; shutting down and
    closing are no longer its business, since the descriptor it would shut down is a twin of ours.
    """

    __slots__ = ("written",)

    def __init__(self) -> None:
        self.written: list[bytes] = []

    async def send_all(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.written.append(bytes(data))

    async def receive_some(self, max_bytes: int | None = None) -> bytes:  # noqa: ARG002 - as a stream has it
        await trio.lowlevel.checkpoint()
        raise trio.ClosedResourceError("this connection was taken over")

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class TakenOver(NamedTuple):
    """A connection that is ours now: its transport, and what came and must go before anything else."""

    transport: SocketTransport
    events: list[Event]
    unsent: bytes


async def take_over(receive: Receive, send: Send, *, max_message: int, dead_peer_timeout: float) -> TakenOver | None:
    """Take an accepted connection over, or return None where that cannot be; it is untouched then.

    Frames that the client sent right behind its handshake are in the result, as events or in the reader's state.
    When cancelled, the connection is closed.
    """
    links = find(send)
    if not links.plain_http1:
        return None
    ws_stream, tcp_server = links.ws_stream, links.tcp_server
    original = tcp_server.stream.socket
    handover = _Handover()
    ours = socket.fromfd(original.fileno(), original.family, original.type)
    try:
        tcp_server.stream = handover
        original.close()
        # Hypercorn's reader finds its socket closed and reports a disconnect, behind every message it had read before:
        # from then on nothing else touches its parser, which goes to our reader with what it holds.
        events: list[Event] = []
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                break
            if message["type"] == "websocket.receive":
                text = message.get("text")
                events.append(Received(message["bytes"] if text is None else text))
        if ws_stream.connection.state.name != "OPEN":
            events.append(PeerClosed(1000))
        partial = ws_stream.buffer.value.getvalue() if ws_stream.buffer.value is not None else None
        reader = FrameReader(max_message, ws_stream.connection, partial)
        transport = SocketTransport(ours, reader, dead_peer_timeout)
    except BaseException:
        reset(ours)
        raise
    return TakenOver(transport, events, b"".join(handover.written))


def stay_on_asgi(receive: Receive, send: Send, *, max_message: int, dead_peer_timeout: float) -> AsgiTransport:
    """The transport for a connection that cannot be taken over, with as much of a grip on its socket as there is."""
    links = find(send)
    ping_via = abort_via = None
    if links.ws_stream is not None:
        ws_stream = links.ws_stream

        async def ping_via() -> None:
            await ws_stream._send_wsproto_event(Ping())

    if links.socket is not None:
        trio_socket = links.socket
        if trio_socket.family in (socket.AF_INET, socket.AF_INET6):
            tune(trio_socket, dead_peer_timeout)
        # trio wakes whoever waits for a socket that is closed, in a shielded scope too.
        abort_via = trio_socket.close
    else:
        abort_via = getattr(send, "abort_connection", None)
    return AsgiTransport(receive, send, max_message, ping_via, abort_via)
