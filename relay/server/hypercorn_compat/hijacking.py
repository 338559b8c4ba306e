"""The changes that a hijack makes to Hypercorn's objects; `relay.server.hijack` is its user."""

import socket
from typing import Any

from relay.protocols.connection import ServerConnection, break_cycle
from relay.server.hypercorn_compat.chain import HypercornChain
from relay.server.hypercorn_compat.stand_ins import ExhaustedH11, HandshakeRecorder, NullStream
from relay.server.hypercorn_compat.websocket import RelayWSStream


def record_handshake(chain: HypercornChain) -> bool:
    """Have the handshake that is about to be accepted end in a `HandshakeRecorder`, for `handshake_recorder`.

    Returns:
        False where that cannot be.
    """
    handshake = getattr(chain.asgi_stream, "handshake", None)
    if not chain.is_plain_http1 or not isinstance(chain.asgi_stream, RelayWSStream) or handshake is None:
        return False
    accept = handshake.accept

    def accept_and_record(*args: Any) -> tuple[Any, Any, HandshakeRecorder]:
        status, headers, replaced = accept(*args)
        break_cycle(replaced)
        return status, headers, HandshakeRecorder(ServerConnection([]))

    handshake.accept = accept_and_record
    return True


def handshake_recorder(chain: HypercornChain) -> HandshakeRecorder:
    """Return what has recorded the client since a handshake that `record_handshake` prepared for."""
    recorder: HandshakeRecorder = chain.asgi_stream.recorder
    return recorder


def dup_socket(chain: HypercornChain) -> socket.socket:
    """Return a socket of ours on Hypercorn's connection, and close Hypercorn's own; its reader then finds it closed."""
    original = chain.tcp_server.stream.socket
    ours = socket.fromfd(original.fileno(), original.family, original.type)
    chain.tcp_server.stream = NullStream()
    original.close()
    return ours


def exhaust_h11(chain: HypercornChain) -> None:
    """Let Hypercorn believe that neither side has anything more to send on this HTTP/1.1 connection."""
    chain.protocol.connection = ExhaustedH11()


async def wake_h11_reader(chain: HypercornChain) -> None:
    """Wake Hypercorn's reader, which waits for the response to end."""
    await chain.protocol.can_read.set()
