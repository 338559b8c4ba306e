"""Clients of a load generator, and how they get in: connect, TLS, handshake, and what a server's own protocol asks for."""

import errno
import select
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from benchmarks.generator.counting import next_frame
from benchmarks.generator.loop import Loop
from benchmarks.histogram import Counts
from benchmarks.wire import PING, PONG, TEXT, get, handshake, masked

_READ, _WRITE = select.EPOLLIN, select.EPOLLOUT
_BIND_LATE = getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24)

#: Stalled clients ask for this receive buffer; the kernel doubles it.
_STALLED_BUFFER = 4096

_LONGEST_ANSWER = 16384


class Client:
    """One connection, over and over: what was seen stays when it drops and comes back."""

    __slots__ = (
        *("began", "following", "frames", "gone_at", "is_gone", "is_looked_at", "is_stalled", "last", "number", "port"),
        *("position", "rest", "sock", "step", "tail", "task"),
    )

    sock: socket.socket

    def __init__(self, number: int, task: str, *, is_stalled: bool) -> None:
        self.number = number
        self.task = task
        self.is_stalled = is_stalled
        self.is_looked_at = False
        self.is_gone = True
        self.gone_at: float | None = None
        self.began = 0
        self.rest = self.tail = self.last = b""
        self.frames = self.following = self.step = self.port = 0
        self.position = "null"


class Step(NamedTuple):
    """Of an opening: what the client says, if anything, and what the answer to wait for contains, if there is one."""

    send: str | None
    expect: str | None


@dataclass(frozen=True, slots=True)
class Door:
    """How a client gets in. ``{task}`` and ``{position}`` stand for the client's own in the path and what it sends."""

    kind: str
    path: str
    count: str
    steps: list[Step]
    pongs: dict[str, str]
    subprotocol: str | None
    tls: bool

    @classmethod
    def read(cls, plain: dict[str, Any]) -> "Door":
        """From JSON."""
        return cls(**{**plain, "steps": [Step(*step) for step in plain["steps"]]})


def _fill(text: str, client: Client) -> str:
    return text.replace("{task}", client.task).replace("{position}", client.position)


class Opener:
    """Opens connections and hands each over when it is let in.

    on_in:   called with a client that has all its answers; what came right behind them is in ``client.rest``
    on_gone: called with one whose connection ended before that
    """

    def __init__(self, loop: Loop, on_in: Callable[[Client], None], on_gone: Callable[[Client], None]) -> None:
        self._loop = loop
        self._on_in = on_in
        self._on_gone = on_gone
        self._tls = ssl.create_default_context()
        self._tls.check_hostname = False
        self._tls.verify_mode = ssl.CERT_NONE
        self.opening: set[Client] = set()
        self.ready = Counts()
        self.noted: dict[str, int] = {}
        self.begin({}, 0, [])

    def begin(self, door: dict[str, Any], port: int, notes: list[str]) -> None:
        """From now on clients go through this door. notes: texts to be counted in the answers they get."""
        if door:
            self._door = Door.read(door)
        self._port = port
        self.ready = Counts()
        self.noted = dict.fromkeys(notes, 0)

    def open(self, client: Client, source: str) -> None:
        """Start to connect."""
        sock = socket.socket()
        sock.setblocking(False)
        if client.is_stalled:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _STALLED_BUFFER)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_IP, _BIND_LATE, 1)
        sock.bind((source, 0))
        client.sock, client.is_gone, client.gone_at = sock, False, None
        client.rest = client.tail = b""
        client.step = 0
        client.began = time.monotonic_ns()
        code = sock.connect_ex(("127.0.0.1", self._port))
        if code not in (0, errno.EINPROGRESS):
            sock.close()
            client.is_gone = True
            self._on_gone(client)
            return
        self.opening.add(client)
        self._loop.add(sock.fileno(), _WRITE, partial(self._connected, client))

    def give_up(self, client: Client) -> None:
        """Its connection has ended, or is to."""
        self.opening.discard(client)
        self._loop.remove(client.sock.fileno())
        client.sock.close()
        client.is_gone = True
        self._on_gone(client)

    def _connected(self, client: Client, _: int) -> None:
        sock = client.sock
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.give_up(client)
            return
        client.port = sock.getsockname()[1]
        if self._door.tls:
            self._loop.remove(sock.fileno())
            client.sock = self._tls.wrap_socket(sock, do_handshake_on_connect=False)
            self._loop.add(client.sock.fileno(), _READ, partial(self._shake, client))
            self._shake(client, 0)
        else:
            self._ask_for_upgrade(client)

    def _shake(self, client: Client, _: int) -> None:
        assert isinstance(client.sock, ssl.SSLSocket)
        try:
            client.sock.do_handshake()
        except ssl.SSLWantReadError:
            return
        except OSError:
            self.give_up(client)
            return
        self._ask_for_upgrade(client)

    def _ask_for_upgrade(self, client: Client) -> None:
        door = self._door
        host, path = f"127.0.0.1:{self._port}", _fill(door.path, client)
        hello = handshake(host, path, door.subprotocol) if door.kind == "ws" else get(host, path)
        self._loop.change(client.sock.fileno(), _READ, partial(self._read_response, client))
        self._send(client, hello)

    def _send(self, client: Client, data: bytes) -> None:
        try:
            client.sock.send(data)
        except OSError:
            self.give_up(client)

    def _receive(self, client: Client) -> bool:
        try:
            data = client.sock.recv(_LONGEST_ANSWER)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            data = b""
        if not data:
            self.give_up(client)
            return False
        client.rest += data
        return True

    def _read_response(self, client: Client, _: int) -> None:
        if not self._receive(client):
            return
        expected = b"HTTP/1.1 101 " if self._door.kind == "ws" else b"HTTP/1.1 200 "
        if not expected.startswith(client.rest[:13]):
            self.give_up(client)
            return
        end = client.rest.find(b"\r\n\r\n")
        if end >= 0:
            client.rest = client.rest[end + 4 :]
            self._loop.change(client.sock.fileno(), _READ, partial(self._read_answers, client))
            self._advance(client)
            self._take_answers(client)

    def _read_answers(self, client: Client, _: int) -> None:
        if self._receive(client):
            self._take_answers(client)

    def _take_answers(self, client: Client) -> None:
        while client in self.opening:
            message = self._next_message(client)
            if message is None:
                return
            self._hear(client, message)

    def _next_message(self, client: Client) -> bytes | None:
        """The next message, if it is all there. A stream of events has none: all that came is one."""
        if self._door.kind != "ws":
            message, client.rest = client.rest, b""
            return message or None
        while (frame := next_frame(client.rest, 0)) is not None:
            opcode, payload, end = frame
            client.rest = client.rest[end:]
            if not opcode & 0x08:
                return payload
            if opcode == PING:
                self._send(client, masked(PONG, payload))
            else:
                self.give_up(client)
            if client.is_gone:
                return None
        return None

    def _hear(self, client: Client, message: bytes) -> None:
        for note in self.noted:
            self.noted[note] += note.encode() in message
        expected = self._door.steps[client.step].expect
        assert expected is not None
        if expected.encode() in message:
            client.last = message
            client.step += 1
            self._advance(client)

    def _advance(self, client: Client) -> None:
        """Say what comes next, as far as no answer is waited for; after the last step the client is in."""
        steps = self._door.steps
        while client.step < len(steps):
            say, expect = steps[client.step]
            if say is not None:
                self._send(client, masked(TEXT, _fill(say, client).encode()))
                if client.is_gone:
                    return
            if expect is not None:
                return
            client.step += 1
        self.opening.discard(client)
        self.ready.add(time.monotonic_ns() - client.began)
        self._on_in(client)
