"""What goes over the wire: a WebSocket client's bytes, and the updates that the suite publishes.

Updates have one form and fixed widths, so that a load generator finds sequence number and time stamp by their offset and
need not parse JSON. They are what Relay sends on unchanged: peers that pass a published message through as it is send
the same bytes.
"""

from typing import NamedTuple

TEXT, CLOSE, PING, PONG = 0x81, 0x88, 0x89, 0x8A

TASK_CHANNEL, GENERAL_CHANNEL = "task_updates", "general_updates"

_SEQUENCE_DIGITS = 8
_TIME_DIGITS = 19


def handshake(host: str, path: str) -> bytes:
    """An opening handshake that offers no extension."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def masked(first_byte: int, payload: bytes) -> bytes:
    """A client's frame, masked with zeros; the payload must be shorter than 126 bytes."""
    assert len(payload) < 126
    return bytes((first_byte, 0x80 | len(payload))) + b"\0\0\0\0" + payload


class Form(NamedTuple):
    """Updates of one kind and size. ``sequence`` and ``at`` are offsets in the payload."""

    channel: str
    before: bytes
    after: bytes

    @property
    def sequence(self) -> int:
        """Where the digits of the sequence number begin."""
        return len(self.before)

    @property
    def at(self) -> int:
        """Where the digits of the time begin."""
        return len(self.before) + _SEQUENCE_DIGITS + len(_BETWEEN)

    @property
    def size(self) -> int:
        """Bytes of a whole update."""
        return self.at + _TIME_DIGITS + len(self.after)

    def update(self, sequence: int, at: int) -> bytes:
        """One update. at: the time for which it was scheduled, in nanoseconds of the monotonic clock."""
        return b"%b%08d%b%019d%b" % (self.before, sequence, _BETWEEN, at, self.after)


_BETWEEN = b'","at":"'


def _form(channel: str, head: bytes, size: int) -> Form:
    bare = Form(channel, head + b'"data":{"sequence":"', b'","pad":""}}')
    padding = size - bare.size
    assert padding >= 0, f"an update of this kind has at least {bare.size} bytes"
    return bare._replace(after=b'","pad":"%b"}}' % (b"x" * padding))


def task_form(task_id: str, size: int) -> Form:
    """Updates of one task, ``size`` bytes each."""
    return _form(TASK_CHANNEL, b'{"type":"task_update","task_id":"%b",' % task_id.encode(), size)


def general_form(size: int) -> Form:
    """Updates for everyone."""
    return _form(GENERAL_CHANNEL, b'{"type":"general_update",', size)


def read_sequence(frame: bytes | bytearray, start: int) -> int:
    """The sequence number whose digits begin there."""
    return int(frame[start : start + _SEQUENCE_DIGITS])


def read_time(frame: bytes | bytearray, start: int) -> int:
    """The time whose digits begin there."""
    return int(frame[start : start + _TIME_DIGITS])
