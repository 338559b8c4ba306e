"""From an ASGI ``send`` to the socket. Where a link is not the expected one, the rest of the chain is left out.

send -> WSStream or HTTPStream  .send -> H11Protocol or H2Protocol  .send -> TCPServer  .stream -> trio.SocketStream
"""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import trio
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.trio.tcp_server import TCPServer
from wsproto.events import Ping

from relay.core.closecodes import Close
from relay.server.hypercorn_compat.versions import is_verified
from relay.server.hypercorn_compat.websocket import RelayWSStream

Send = Callable[[Any], Awaitable[None]]
Receive = Callable[[], Awaitable[Any]]


class HypercornChain(NamedTuple):
    """The objects behind an ASGI ``send``; None stands for an object that could not be reached.

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

    def report_violations(self) -> Callable[[], Close | None]:
        """Have a WebSocket stream leave it to the app to close a connection whose client broke RFC 6455 or a limit.

        Returns:
            A callable that returns how it did, or None.
        """
        stream = self.asgi_stream
        if not isinstance(stream, RelayWSStream):
            return lambda: None
        stream.reports_violations = True
        return lambda: stream.violation

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
