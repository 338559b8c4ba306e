"""What an abuse is aimed at: a relay, its Redis, and a time to stop."""

import socket
import time
from collections.abc import Callable
from typing import NamedTuple

HANDSHAKE = (
    "GET /ws/tasks HTTP/1.1\r\nHost: relay\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n"
)


class Target(NamedTuple):
    """Where the relay and its Redis are, and when to stop, in seconds of the monotonic clock."""

    port: int
    redis_port: int
    deadline: float

    @property
    def is_over(self) -> bool:
        """The time is up."""
        return time.monotonic() >= self.deadline

    def connect(self) -> socket.socket:
        """A TCP connection to the relay."""
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def websocket(self, headers: str = "") -> socket.socket:
        """The same after the opening handshake."""
        sock = self.connect()
        sock.sendall(HANDSHAKE.format(headers=headers).encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            data = sock.recv(4096)
            if not data:
                raise ConnectionError("refused")
            answer += data
        return sock


Abuse = Callable[[Target], str]
