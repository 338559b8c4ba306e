"""Options of clients' sockets: how the kernel finds a peer that is gone, how much it buffers, and closing with a reset."""

import contextlib
import socket
import struct
from typing import Any

#: Connections that the kernel holds for us while the loop is busy: a thousand clients may reconnect at once.
BACKLOG = 4096

#: Unsent bytes that the kernel takes before a send would block. What waits should wait in the send queue, which is bounded.
NOTSENT_LOWAT = 128 * 1024

_INTERNET = (socket.AF_INET, socket.AF_INET6)


def tune(sock: socket.socket, dead_peer_timeout: float) -> None:
    """Let the kernel find a peer that is gone, on a socket on which we may send nothing for long.

    A peer is gone when it has acknowledged neither data nor keep-alive probes for `dead_peer_timeout` seconds. Several probes
    are sent in that time, since one may be lost.
    """
    set_tcp_options(sock, dead_peer_timeout)
    if sock.family in _INTERNET:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, int(dead_peer_timeout / 2)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, int(dead_peer_timeout / 8)))


def set_tcp_options(sock: socket.socket, dead_peer_timeout: float) -> None:
    """Set the options of a socket on which we send heartbeats, which are data, so that no probes are needed.

    What waits for a client then waits in its send queue and not in the kernel. A socket that is accepted from a listening
    socket has its options.

    Args:
        sock: A client's socket, or the listening one.
        dead_peer_timeout: Seconds after which a peer that has not acknowledged data is gone.
    """
    if sock.family in _INTERNET:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(dead_peer_timeout * 1000))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOTSENT_LOWAT)


def reset_on_close(sock: Any) -> None:
    """Make closing reset the connection, so that the kernel frees its buffers at once for a client that does not read."""
    # Already shut down by the peer, there is nothing left to free; uvloop says ValueError when it has closed it.
    with contextlib.suppress(OSError, ValueError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def reset(sock: Any) -> None:
    """Close a socket, Trio's or the standard library's, with a TCP reset."""
    reset_on_close(sock)
    sock.close()
