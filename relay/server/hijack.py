"""Hijacking the TCP connection from Hypercorn, after Quart and Hypercorn have done the handshake.

Hypercorn's own way to a client costs a hundred times what a socket does, and its shielded sends hold on to a client that has
stopped reading. So once the 101 is out, the session gets a duplicate of the socket, Hypercorn's copy is closed, and its tasks
for the connection end by themselves. Bytes that the client sends in between are kept for the session.

Where the chain to the socket is not the expected one (TLS, HTTP/2, another server or version), the session stays on ASGI.
"""

import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from relay.protocols.frames import FrameReader
from relay.server.asgi_transport import AsgiTransport, BinaryAsgiTransport
from relay.server.hypercorn_compat.chain import HypercornChain, Receive, Send, inspect
from relay.server.hypercorn_compat.hijacking import (
    dup_socket,
    exhaust_h11,
    handshake_recorder,
    record_handshake,
    wake_h11_reader,
)
from relay.server.socket_options import reset, tune
from relay.server.transports import SocketTransport, socket_transport


class Hijack:
    """A WebSocket connection that will be ours. Make it with `prepare`, before the handshake is accepted."""

    def __init__(self, chain: HypercornChain) -> None:
        self._chain = chain

    async def complete(
        self, receive: Receive, *, max_message: int, dead_peer_timeout: float, is_binary: bool
    ) -> tuple[SocketTransport, bytes]:
        """Take the accepted connection. When cancelled, the connection is reset.

        Args:
            receive: The connection's ASGI ``receive``.
            max_message: Longest message of the client, in bytes.
            dead_peer_timeout: Seconds after which a peer that acknowledges nothing is gone.
            is_binary: Payloads are bytes.

        Returns:
            The transport, and what the client has sent already.

        Raises:
            OSError: Files have run out. The server has the connection as before, and can close it.
        """
        ours = dup_socket(self._chain)
        recorder = handshake_recorder(self._chain)
        recorder.is_hijacked = True
        try:
            # Hypercorn's reader finds its socket closed, hands on what it had read, and reports a disconnect: from
            # then on nothing of Hypercorn's touches the connection.
            while (await receive())["type"] != "websocket.disconnect":
                pass
            reader = FrameReader(max_message, recorder.connection)
            transport = socket_transport(ours, reader, dead_peer_timeout, is_binary=is_binary)
        except BaseException:
            reset(ours)
            raise
        return transport, bytes(recorder.received)


def prepare(send: Send) -> Hijack | None:
    """Prepare to hijack a connection that is about to be accepted; None where that is not possible."""
    chain = inspect(send)
    return Hijack(chain) if record_handshake(chain) else None


async def hijack_response(send: Send) -> socket.socket | None:
    """Take the connection of a chunked HTTP/1.1 response whose headers were sent. Hypercorn's part ends with the ASGI call.

    Returns:
        The socket, or None where a hijack is not possible.
    """
    chain = inspect(send)
    if not chain.is_plain_http1 or not chain.is_response:
        return None
    exhaust_h11(chain)
    ours = dup_socket(chain)
    try:
        await wake_h11_reader(chain)
    except BaseException:
        reset(ours)
        raise
    return ours


def abort_hook(chain: HypercornChain, send: Send, dead_peer_timeout: float) -> Callable[[], None] | None:
    """Return a callable that resets the client's socket under the server, or None.

    The socket is tuned on the way, so that the kernel finds a peer that is gone.
    """
    if chain.socket is None:
        sock = getattr(send, "socket", None)
        if sock is not None:
            with suppress(OSError, ValueError):  # it is closed already
                tune(sock, dead_peer_timeout)
        return getattr(send, "abort_connection", None)
    tune(chain.socket, dead_peer_timeout)
    # Trio wakes the task that waits for a socket when it is closed, in a shielded scope too.
    return partial(reset, chain.socket)


def asgi_transport(
    receive: Receive, send: Send, *, max_message: int, dead_peer_timeout: float, is_binary: bool
) -> AsgiTransport:
    """Return the transport of a WebSocket connection that is not hijacked.

    Args:
        receive: The connection's ASGI ``receive``.
        send: The connection's ASGI ``send``.
        max_message: Longest message of the client, in bytes.
        dead_peer_timeout: Seconds after which a peer that acknowledges nothing is gone.
        is_binary: Payloads are bytes.
    """
    chain = inspect(send)
    ping_via = chain.send_ping if chain.is_websocket else None
    violation = chain.report_violations()
    transport = BinaryAsgiTransport if is_binary else AsgiTransport
    return transport(receive, send, max_message, ping_via, abort_hook(chain, send, dead_peer_timeout), violation)
