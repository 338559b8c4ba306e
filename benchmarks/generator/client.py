"""One client of a load generator, and how it connects: TCP, TLS, the opening request, then the server's own protocol."""

import socket
import ssl
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import count

from benchmarks.generator.counting import payload_span
from benchmarks.generator.loop import READ, WRITE
from benchmarks.protocol import TLS_CONTEXT, Endpoint
from benchmarks.wire import PING, PONG, masked, opening_request, token

#: No two clients of a process show the same token.
_token_numbers = count()

#: Bind to an address and let connect() choose the port, so that ports are shared between destinations.
_BIND_ADDRESS_NO_PORT = getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24)

#: Receive buffer of stalled clients; the kernel doubles it.
_STALLED_BUFFER = 4096

_MAX_REPLY = 16384


class Client:
    """One connection at a time; what it has seen is kept when it is dropped and reconnects.

    Its attributes are public to the generator: ``rest`` has bytes that are not yet a whole message, ``tail`` the end of a
    stream that may begin an update, ``last`` the end of its last update, ``following`` the sequence number expected next,
    ``reply`` the last reply to it, ``position`` where it stood when it was dropped.
    """

    __slots__ = (
        *("closed_at", "following", "is_closed", "is_sampled", "is_stalled", "is_tls", "last", "port", "position"),
        *("received", "reply", "rest", "sock", "tail", "task"),
    )

    sock: socket.socket

    def __init__(self, task: str, *, is_stalled: bool = False) -> None:
        self.task = task
        self.is_stalled = is_stalled
        self.is_sampled = self.is_tls = False
        self.is_closed = True
        self.closed_at: float | None = None
        self.rest = self.tail = self.last = self.reply = b""
        self.received = self.following = self.port = 0
        self.position: str | None = None

    def create_socket(self, source: str) -> None:
        """Begin a new connection from a source address."""
        sock = self.sock = socket.socket()
        self.is_closed, self.closed_at, self.rest, self.tail = False, None, b"", b""
        sock.setblocking(False)
        if self.is_stalled:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _STALLED_BUFFER)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        sock.bind((source, 0))

    def subscribe(self, endpoint: Endpoint, port: int, noted: Counter[str]) -> Iterator[int]:
        """Connect, and go on until the server has sent all its replies; yields the event that must come first.

        Texts that are keys of ``noted`` are counted in the last replies. Raises OSError when the connection fails.
        """
        with suppress(BlockingIOError):
            self.sock.connect(("127.0.0.1", port))
        yield WRITE
        code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, "connect")
        self.port = self.sock.getsockname()[1]
        self.is_tls = endpoint.tls
        if endpoint.tls:
            yield from self._handshake()
        is_websocket = endpoint.kind == "ws"
        shown = token(endpoint.token_secret, next(_token_numbers)) if endpoint.token_secret else None
        path = self._fill(endpoint, endpoint.path)
        self.sock.send(opening_request(f"127.0.0.1:{port}", path, websocket=is_websocket, token=shown))
        while (end := self.rest.find(b"\r\n\r\n")) < 0:
            yield from self._receive()
        if not self.rest.startswith(b"HTTP/1.1 101 " if is_websocket else b"HTTP/1.1 200 "):
            raise ConnectionRefusedError(self.rest[:60])
        self.rest = self.rest[end + 4 :]
        for text, expected in endpoint.steps:
            if text is not None:
                self.sock.send(endpoint.frame(self._fill(endpoint, text)))
            while expected is not None:
                if (message := self._next_message(is_websocket)) is None:
                    yield from self._receive()
                    continue
                if expected.encode() in message:
                    self.last = self.reply = message
                    break
                if endpoint.refusal and endpoint.refusal.encode() in message:
                    raise ConnectionRefusedError(message[:60])
                if (pong := endpoint.pongs.get(message.decode("latin1"))) is not None:
                    self.sock.send(endpoint.frame(pong))
        noted.update(note for note in noted if note.encode() in self.reply)

    def _fill(self, endpoint: Endpoint, text: str) -> str:
        position = endpoint.no_position if self.position is None else self.position
        return text.replace("{task}", self.task).replace("{position}", position)

    def _handshake(self) -> Iterator[int]:
        secured = self.sock = TLS_CONTEXT.wrap_socket(self.sock, do_handshake_on_connect=False)
        while True:
            try:
                return secured.do_handshake()
            except ssl.SSLWantReadError:
                yield READ

    def _receive(self) -> Iterator[int]:
        try:
            data = self.sock.recv(_MAX_REPLY)
        except (BlockingIOError, ssl.SSLWantReadError):
            yield READ
            return
        if not data:
            raise ConnectionResetError
        self.rest += data

    def _next_message(self, is_websocket: bool) -> bytes | None:
        """Return the next message if it is complete. In a stream of events all bytes that have come are one."""
        if not is_websocket:
            message, self.rest = self.rest, b""
            return message or None
        while (span := payload_span(self.rest, 0, len(self.rest))) is not None:
            first, payload = self.rest[0], self.rest[span[0] : span[1]]
            self.rest = self.rest[span[1] :]
            if not first & 0x08:
                return payload
            if first != PING:
                raise ConnectionResetError
            self.sock.send(masked(PONG, payload))
        return None
