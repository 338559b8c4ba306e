"""RFC 6455 frames as a server writes and reads them.

Writing is ours: an update is framed once and the same bytes go to every client, uncompressed, which is legal whatever
extension was negotiated (RFC 7692 section 6). Reading is wsproto's, with the limits that it leaves to its user.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from wsproto.connection import ConnectionState
from wsproto.events import BytesMessage, CloseConnection, Message, Ping, Pong
from wsproto.frame_protocol import CloseReason

from relay.core.closecodes import Close
from relay.protocols.connection import ServerConnection

_TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x81, 0x82, 0x88, 0x89, 0x8A

#: Bytes before the payload of a masked frame that is shorter than 126 bytes, and of one that is shorter than 64 KiB.
_SHORT_HEAD, _LONG_HEAD = 6, 8

#: Longest payload of a control frame, and with it longest reason of a close frame plus its code (section 5.5).
MAX_CONTROL_PAYLOAD = 125


_two_bytes = struct.Struct("!BBH").pack
_eight_bytes = struct.Struct("!BBQ").pack


def _frame(first_byte: int, payload: bytes) -> bytes:
    length = len(payload)
    if length < 126:
        return bytes((first_byte, length)) + payload
    if length < 65536:
        return _two_bytes(first_byte, 126, length) + payload
    return _eight_bytes(first_byte, 127, length) + payload


def text_frame(payload: bytes) -> bytes:
    """A whole text message; the payload must be UTF-8."""
    length = len(payload)
    if 126 <= length < 65536:  # as most are, and each update is framed once
        return _two_bytes(_TEXT, 126, length) + payload
    return _frame(_TEXT, payload)


def binary_frame(payload: bytes) -> bytes:
    """A whole binary message."""
    return _frame(_BINARY, payload)


def pong_frame(payload: bytes) -> bytes:
    """The answer to a ping with this payload."""
    return _frame(_PONG, payload)


#: A ping, one bytes object for all clients. It keeps proxies from closing an idle connection, and has the kernel notice a peer
#: that is gone. An unsolicited pong would do the same without an answer, but some clients take it for a late answer to a ping
#: of their own, and close.
HEARTBEAT_FRAME = _frame(_PING, b"")

#: How the client's answer to it begins, and its length: a masked pong without payload.
PONG_BEGINS, PONG_BYTES = bytes((_PONG, 0x80)), 6


def close_frame(code: int, reason: str = "") -> bytes:
    """A close frame; 1005 and 1006 mean "no code", and a reason that is too long is cut at a character."""
    if code in (CloseReason.NO_STATUS_RCVD, CloseReason.ABNORMAL_CLOSURE):
        return _frame(_CLOSE, b"")
    text = reason.encode()[: MAX_CONTROL_PAYLOAD - 2].decode(errors="ignore").encode()
    return _frame(_CLOSE, struct.pack("!H", code) + text)


def end_of_frame(chunk: bytes, offset: int) -> int:
    """Return where the frame that contains `offset` ends, in a chunk of whole server frames.

    An offset between two frames is its own answer. With this a client that is dropped in the middle of a frame can still be
    sent the reason.
    """
    position = 0
    while position < offset:
        length = chunk[position + 1]
        position += 2
        if length == 126:
            length = int.from_bytes(chunk[position : position + 2])
            position += 2
        elif length == 127:
            length = int.from_bytes(chunk[position : position + 8])
            position += 8
        position += length
    return position


@dataclass(frozen=True, slots=True)
class Received:
    """A whole message: text or bytes."""

    message: str | bytes


@dataclass(frozen=True, slots=True)
class ControlReply:
    """A control frame that must be sent back, for instance a pong."""

    frame: bytes


@dataclass(frozen=True, slots=True)
class PeerClosed:
    """The client sent its close frame, or hung up (code 1006)."""

    code: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Violation:
    """The client broke RFC 6455 or a limit; the connection must be closed this way."""

    close: Close


Event = Received | ControlReply | PeerClosed | Violation

_VIOLATIONS: dict[int, Close] = {
    CloseReason.INVALID_FRAME_PAYLOAD_DATA: Close.INVALID_TEXT,
    CloseReason.MESSAGE_TOO_BIG: Close.TOO_BIG,
}


class FrameReader:
    """Reads one client's frames: bytes in, events out.

    A message that is whole and uncompressed, as nearly all messages of clients are, and the pong that answers each heartbeat
    are read here. Everything else is read by wsproto, whose connection is made when it is first needed.

    Args:
        max_message: Longest message in bytes, after inflating.
        connection: wsproto's connection, possibly with state from before (negotiated extensions, half a frame), or a callable
            that makes it. By default it has no extensions.
    """

    __slots__ = ("_connection", "_in_message", "_make_connection", "_max_message", "_over", "_parts", "_size", "frames")

    def __init__(
        self,
        max_message: int,
        connection: ServerConnection | Callable[[], ServerConnection] = lambda: ServerConnection([]),
    ) -> None:
        self._connection: ServerConnection | None = None
        self._make_connection: Callable[[], ServerConnection] | None = None
        if isinstance(connection, ServerConnection):
            self._connection = connection
        else:
            self._make_connection = connection
        self._max_message = max_message
        self._in_message = False
        self._parts: list[str | bytes] | None = None
        self._size = 0
        self._over = False
        #: Messages, fragments and control frames read so far.
        self.frames = 0

    @property
    def in_message(self) -> bool:
        """A message or a frame has begun and is not complete."""
        if self._connection is None:
            return False
        return self._in_message or self._connection.in_frame

    def close(self) -> None:
        """Read nothing any more, and free what was kept of a message that is not complete. May be called again."""
        self._over = True
        self._connection = None
        self._parts = None

    def receive(self, data: bytes) -> Iterator[Event]:
        """Feed bytes from the socket; b"" means that the client hung up.

        Yields:
            The events in these bytes. Nothing follows a PeerClosed or a Violation.
        """
        if self._over:
            return
        if not data:
            self.close()
            yield PeerClosed(CloseReason.ABNORMAL_CLOSURE)
            return
        while data and not self.in_message:
            start, end = _whole_frame(data)
            if not end or end > self._max_message:
                break
            if data[0] != _PONG:
                message = _message(data, start, end)
                if message is None:
                    break
                yield Received(message)
            elif start > _SHORT_HEAD:
                break
            self.frames += 1
            data = data[end:]
        if data:
            yield from self._receive_by_wsproto(data)

    def _receive_by_wsproto(self, data: bytes) -> Iterator[Event]:
        connection = self._connection
        if connection is None:
            assert self._make_connection is not None
            connection = self._connection = self._make_connection()
        connection.receive_data(data)
        for event in connection.events():
            self.frames += 1
            if isinstance(event, Message):
                self._in_message = not event.message_finished
                self._size += _size(event.data)
                if self._size > self._max_message:
                    self.close()
                    yield Violation(Close.TOO_BIG)
                    return
                if event.data or event.message_finished:  # empty fragments may come without end
                    if self._parts is None:
                        self._parts = []
                    self._parts.append(event.data)
                if event.message_finished:
                    parts, self._parts, self._size = self._parts or [], None, 0
                    yield Received(_joined(event, parts))
            elif isinstance(event, Ping):
                yield ControlReply(pong_frame(bytes(event.payload)))
            elif isinstance(event, CloseConnection):
                self.close()
                # wsproto reports a violation in the guise of a close by the peer, in the state of an open connection.
                if connection.state is ConnectionState.REMOTE_CLOSING:
                    yield PeerClosed(event.code, event.reason or "")
                else:
                    yield Violation(_VIOLATIONS.get(event.code, Close.PROTOCOL_ERROR))
                return
            else:
                assert isinstance(event, Pong)


def _whole_frame(data: bytes) -> tuple[int, int]:
    """Return where the payload of the masked frame at the beginning of `data` starts and ends; zeros unless all of it is there.

    The same for a frame of 64 KiB or more, and for one whose length is not in its shortest form.
    """
    size = len(data)
    if size < _SHORT_HEAD:
        return 0, 0
    length, start = data[1] ^ 0x80, _SHORT_HEAD
    if length == 126 and size >= _LONG_HEAD:
        length, start = data[2] << 8 | data[3], _LONG_HEAD
        if length < 126:
            return 0, 0
    elif length >= 126:  # as it is without a mask
        return 0, 0
    end = start + length
    return (start, end) if size >= end else (0, 0)


def _message(data: bytes, start: int, end: int) -> str | bytes | None:
    """Return the message at the beginning of `data`: one in a single frame, uncompressed, and a text in valid UTF-8; else None.

    Args:
        data: A masked frame, and what follows it.
        start: Where its payload starts.
        end: Where that ends.
    """
    kind = data[0]
    if kind not in (_TEXT, _BINARY):
        return None
    length = end - start
    mask = data[start - 4 : start] * (length // 4 + 1)
    payload = (int.from_bytes(data[start:end]) ^ int.from_bytes(mask[:length])).to_bytes(length)
    if kind == _BINARY:
        return payload
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return None


def _size(part: str | bytes) -> int:
    return len(part.encode()) if isinstance(part, str) else len(part)


def _joined(last: object, parts: list[str | bytes]) -> str | bytes:
    if len(parts) == 1:
        return parts[0]
    if isinstance(last, BytesMessage):
        return b"".join(part for part in parts if isinstance(part, bytes | bytearray))
    return "".join(part for part in parts if isinstance(part, str))
