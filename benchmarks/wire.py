"""What goes over the wire: a WebSocket client's bytes, and the updates that the suite publishes.

Updates have fixed widths: a sequence number of 8 digits, then `MARK`, then the time of the schedule in 19 digits. A load
generator finds both by the mark, whatever a server has wrapped around them, and need not parse JSON.
"""

from typing import NamedTuple

TEXT, BINARY, CLOSE, PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A

SEQUENCE_DIGITS = 8
TIME_DIGITS = 19

#: What stands between the two numbers; nothing else that goes to a client has it.
MARK = b'","at":"'

#: Stand for the two numbers in a form, as wide as they are.
SEQUENCE, TIME = b"@" * SEQUENCE_DIGITS, b"#" * TIME_DIGITS

_DATA = b'{"sequence":"%b%b%b","pad":"' % (SEQUENCE, MARK, TIME)
_END = b'"}'


def handshake(host: str, path: str, subprotocol: str | None = None) -> bytes:
    """A WebSocket opening handshake that offers no extension."""
    offered = f"Sec-WebSocket-Protocol: {subprotocol}\r\n" if subprotocol else ""
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{offered}\r\n"
    ).encode()


def get(host: str, path: str) -> bytes:
    """A request for a stream of server-sent events."""
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n\r\n".encode()


def masked(first_byte: int, payload: bytes) -> bytes:
    """A client's frame, masked with zeros; the payload must be shorter than 64 KiB."""
    if len(payload) < 126:
        return bytes((first_byte, 0x80 | len(payload))) + b"\0\0\0\0" + payload
    return bytes((first_byte, 0x80 | 126)) + len(payload).to_bytes(2) + b"\0\0\0\0" + payload


class Template:
    """Bytes with both numbers left open, any number of times."""

    __slots__ = ("_format",)

    def __init__(self, raw: bytes) -> None:
        escaped = raw.replace(b"%", b"%%")
        self._format = escaped.replace(SEQUENCE, b"%(s)08d").replace(TIME, b"%(t)019d")

    def fill(self, sequence: int, at: int) -> bytes:
        """at: the time for which the update was scheduled, in nanoseconds of the monotonic clock."""
        return self._format % {b"s": sequence, b"t": at}


class Form(NamedTuple):
    """Updates of one kind and size, the numbers left open. ``task`` is None for updates that are for everyone."""

    task: str | None
    data: bytes

    @property
    def payload(self) -> bytes:
        """What a service publishes, and what clients of Relay and of most peers get."""
        if self.task is None:
            return b'{"type":"general_update","data":%b}' % self.data
        return b'{"type":"task_update","task_id":"%b","data":%b}' % (self.task.encode(), self.data)

    @property
    def channel(self) -> str:
        """Where peers look for it: the task, or the one channel that all clients follow."""
        return EVERYONE if self.task is None else self.task


#: The channel that stands for "everyone" with peers.
EVERYONE = "everyone"


def form(task: str | None, size: int, filler: bytes = b"x") -> Form:
    """Updates of a task, or for everyone, whose payload has ``size`` bytes; the filler is repeated."""
    bare = Form(task, _DATA + _END)
    padding = size - len(bare.payload)
    if padding < 0:
        raise ValueError(f"an update of this kind has at least {len(bare.payload)} bytes, not {size}")
    pad = (filler * (padding // len(filler) + 1))[:padding]
    return Form(task, _DATA + pad + _END)


def resp(*words: bytes | str | int) -> bytes:
    """A command for Redis."""
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
