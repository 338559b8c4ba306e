"""Transports: how bytes reach one client. A transport owns its connection; nothing else reads, writes or closes it.

`SocketTransport` has the TCP socket itself, hijacked after the handshake. `relay.server.asgi_transport` goes through the ASGI
server, where the socket is out of reach (TLS, HTTP/2, another server). Both offer the session the same methods.
"""

import math
import socket
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Protocol

import trio

from relay.core.batches import Batch, Framing
from relay.core.closecodes import Close
from relay.core.send_queue import SendQueue
from relay.protocols.base import Farewell
from relay.protocols.frames import (
    HEARTBEAT_FRAME,
    PONG_BEGINS,
    PONG_BYTES,
    Event,
    PeerClosed,
    Received,
    binary_frame,
    close_frame,
    end_of_frame,
    text_frame,
)
from relay.server.socket_options import reset, set_tcp_options

#: Bytes read from a client at a time. Clients send little.
RECEIVE_BYTES = 1024

#: Messages and control frames of a client that are taken in one turn of the event loop.
_EVENTS_AT_ONCE = 4

#: Batches handed to the kernel in one call. Linux takes 1024 buffers; more than a few gain nothing.
_GATHER = 64


_HEARTBEAT = Batch(HEARTBEAT_FRAME, 0, len(HEARTBEAT_FRAME))

#: The events in a pong without payload that came by itself, as the answer to a heartbeat does: none.
LONE_PONG: list[Event] = []

#: No more events, for all transports.
_NO_EVENTS: Iterator[Event] = iter(())

#: A client that closes in the usual way, before it has.
_NORMAL = PeerClosed(Close.NORMAL.code)


class DirectReads(Protocol):
    """Reading a client whose messages all come on a socket of the transport's own."""

    #: There may be more to read than `receive_now` has returned.
    may_have_more: bool

    @property
    def in_message(self) -> bool:
        """Whether a message of the client has begun and is not complete."""

    def fileno(self) -> int:
        """Return the descriptor of the socket.

        Raises:
            trio.ClosedResourceError: The connection was aborted.
        """

    def receive_now(self) -> list[Event] | None:
        """Return the events in bytes of the client that have come; `LONE_PONG` if that was one, None if none have.

        Raises:
            trio.ClosedResourceError: The connection was aborted.
        """


class Transport(Protocol):
    """The operations that a session needs of its client's connection.

    The `SendQueue` that is passed in is the session's; only the transport pops from it.
    """

    #: The metrics label.
    name: str

    framing: Framing

    #: Bytes that the client has sent so far.
    bytes_received: int

    @property
    def direct(self) -> "DirectReads | None":
        """How the client is read without a task; None where it can only be awaited."""

    @property
    def frames_received(self) -> int:
        """Messages, fragments and control frames that the client has sent so far."""

    @property
    def write(self) -> Callable[[Any], int] | None:
        """Write what can be written of a batch's chunk without waiting, and return the number of bytes.

        It raises BlockingIOError when that is nothing, and OSError when the connection is gone. None where writing can only be
        awaited. Every delivery costs this one call, so nothing stands before it.
        """

    async def drain(self, queue: SendQueue) -> None:
        """Write until the queue is empty. Cancelling leaves what is not written in the queue.

        Raises:
            OSError: The connection is gone.
            trio.BrokenResourceError: The connection is gone.
        """

    async def receive(self, timeout: float = math.inf) -> list[Event]:
        """Wait for bytes of the client, and return the events in them.

        Args:
            timeout: Seconds from the first to the last byte of a message.

        Raises:
            trio.TooSlowError: A message that has begun was not finished in time.
        """

    def heartbeat(self) -> Batch | None:
        """Return the batch that shows the client, and proxies, that the connection lives; None where the server sends one."""

    async def close(self, queue: SendQueue, close: Close, farewell: Farewell) -> None:
        """Do the closing handshake. The caller sets the deadline.

        What waits is delivered first, unless the client was too slow for it; then the close code is sent, and the client
        hangs up.

        Args:
            queue: What waits for the client.
            close: Why the session ends.
            farewell: What to send to the client about that.
        """

    def abort(self) -> None:
        """Close the connection at once, under any task that waits for it. May be called again."""


class Reader(Protocol):
    """Turns a client's bytes into events."""

    #: Messages, fragments and control frames read so far.
    frames: int

    @property
    def in_message(self) -> bool:
        """Whether a message or a frame has begun and is not complete."""

    def receive(self, data: bytes) -> Iterable[Event]:
        """Return the events in bytes from the socket; b"" means that the client hung up."""

    def close(self) -> None:
        """Read nothing any more, and free what was kept."""


class SocketTransport:
    """A taken-over TCP socket: non-blocking, ours alone."""

    __slots__ = (
        "_due", "_events", "_peer_closed", "_reader", "_sock", "_unread", "bytes_received", "may_have_more", "write",
    )  # fmt: skip

    name = "hijacked"
    framing = Framing(text_frame, b"".join)

    def __init__(self, sock: socket.socket, reader: Reader, dead_peer_timeout: float | None) -> None:
        self._sock: socket.socket | None = sock
        self.write: Callable[[Any], int] | None = sock.send
        self._reader = reader
        #: Events in bytes that were read, which the reader finds as they are asked for.
        self._events: Iterator[Event] = _NO_EVENTS
        #: What the client sent behind its handshake.
        self._unread = b""
        self.bytes_received = 0
        self.may_have_more = False
        self._due = math.inf
        self._peer_closed = _NORMAL
        if dead_peer_timeout is not None:
            sock.setblocking(False)
            set_tcp_options(sock, dead_peer_timeout)

    @property
    def frames_received(self) -> int:
        return self._reader.frames

    def _open_socket(self) -> socket.socket:
        if self._sock is None:
            raise trio.ClosedResourceError("the transport was aborted")
        return self._sock

    def _write_some(self, queue: SendQueue) -> None:
        """Write until the queue is empty or the kernel takes no more."""
        sock = self._open_socket()
        while queue:
            views = [memoryview(batch.chunk) for batch in queue.peek(_GATHER)]
            views[0] = views[0][queue.written :]
            try:
                sent = sock.sendmsg(views)
            except BlockingIOError:
                return
            sent += queue.written
            while queue and sent >= queue.head().size:
                sent -= queue.pop().size
            if sent:
                queue.written = sent
                return

    async def drain(self, queue: SendQueue) -> None:
        while queue:
            await trio.lowlevel.wait_writable(self._open_socket())
            self._write_some(queue)

    def unread(self, data: bytes) -> None:
        """Give back bytes of the client that were read from the socket before it was ours. They are read first."""
        self._unread = data

    def _noted(self, events: list[Event]) -> list[Event]:
        if events and isinstance(events[-1], PeerClosed):
            self._peer_closed = events[-1]
        return events

    @property
    def direct(self) -> DirectReads | None:
        return self

    @property
    def in_message(self) -> bool:
        return self._reader.in_message

    def fileno(self) -> int:
        return self._open_socket().fileno()

    def receive_now(self) -> list[Event] | None:
        if self._events is not _NO_EVENTS and (events := self._next_events()):
            return events
        return self._read(self._open_socket())

    def _next_events(self) -> list[Event]:
        """Return the next events in what was read. A client that sends many at once gets its turn with all others."""
        if self._events is _NO_EVENTS:
            return []
        events = list(islice(self._events, _EVENTS_AT_ONCE))
        if len(events) < _EVENTS_AT_ONCE:
            self._events = _NO_EVENTS
            self.may_have_more = self._reader.in_message
        return self._noted(events)

    def _read(self, sock: socket.socket) -> list[Event] | None:
        if self._unread:
            data, self._unread = self._unread[:RECEIVE_BYTES], self._unread[RECEIVE_BYTES:]
        else:
            try:
                data = sock.recv(RECEIVE_BYTES)
            except BlockingIOError:
                return None
            except OSError:
                data = b""
        self.bytes_received += len(data)
        if len(data) == PONG_BYTES and data.startswith(PONG_BEGINS) and not self._reader.in_message:
            # Nearly all that comes from clients which are idle: the reader need not look at it.
            self._reader.frames += 1
            return LONE_PONG
        self._events = iter(self._reader.receive(data))
        events = self._next_events()
        if len(data) == RECEIVE_BYTES or self._events is not _NO_EVENTS:
            self.may_have_more = True
        return events

    async def receive(self, timeout: float = math.inf) -> list[Event]:
        sock = self._open_socket()
        if events := self._next_events():
            await trio.lowlevel.checkpoint()
            return events
        # From the first byte to the last: further bytes do not extend it.
        if not self._reader.in_message:
            self._due = math.inf
        elif self._due == math.inf:
            self._due = trio.current_time() + timeout
        with trio.fail_at(self._due) if self._due != math.inf else _NO_TIMEOUT:
            if self._unread:
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_readable(sock)
        events = self._read(sock) or []
        if any(isinstance(event, Received) for event in events):
            self._due = math.inf
        return events

    def heartbeat(self) -> Batch:
        return _HEARTBEAT

    async def close(self, queue: SendQueue, close: Close, farewell: Farewell) -> None:
        if close is Close.ABNORMAL_CLOSURE:
            return
        self._reader.close()  # the client may take its time from here on
        self._events = _NO_EVENTS
        self._unread = b""
        sock = self._open_socket()
        self._enqueue_close_frame(queue, close, farewell)
        self._write_some(queue)
        await self.drain(queue)
        # The client hangs up when it has read the close frame and sees our end of the stream; bytes that it still
        # sends must be read, or the kernel resets the connection and the close frame may be lost with it.
        sock.shutdown(socket.SHUT_WR)
        while True:
            await trio.lowlevel.wait_readable(sock)
            try:
                if not sock.recv(65536):
                    break
            except BlockingIOError:
                continue
        self._sock = None
        trio.lowlevel.notify_closing(sock)
        sock.close()

    def _enqueue_close_frame(self, queue: SendQueue, close: Close, farewell: Farewell) -> None:
        if close.discards_queue and queue:
            # The client gets the rest of the frame that it has begun to read, then the reason; nothing else fits.
            chunk: bytes = queue.head().chunk
            start = queue.written
            rest = chunk[start : end_of_frame(chunk, start)]
            queue.clear()
            queue.push(Batch(rest, 1, len(rest)), 0)
        # A client that closes gets its own code and reason back, as with most servers.
        last = self._peer_closed if close is Close.NORMAL else farewell
        frame = close_frame(last.code, last.reason)
        queue.push(Batch(frame, 1, len(frame)), 0)

    def abort(self) -> None:
        sock, self._sock = self._sock, None
        if sock is not None:
            trio.lowlevel.notify_closing(sock)
            reset(sock)


class BinarySocketTransport(SocketTransport):
    """The same, for a protocol whose payloads are bytes."""

    __slots__ = ()

    framing = Framing(binary_frame, b"".join)


def socket_transport(
    sock: socket.socket, reader: Reader, dead_peer_timeout: float | None, *, is_binary: bool
) -> SocketTransport:
    """Return the transport of a WebSocket on a socket of our own."""
    return (BinarySocketTransport if is_binary else SocketTransport)(sock, reader, dead_peer_timeout)


class _NoTimeout:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


_NO_TIMEOUT = _NoTimeout()
