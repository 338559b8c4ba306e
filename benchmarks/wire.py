"""Bytes on the wire: a WebSocket client's frames, and updates whose sequence number and time are filled in when they are sent.

Both numbers have a fixed width and stand on either side of `MARK`. A load generator finds them by the mark, whatever a
server has wrapped around the update, and need not parse JSON.
"""

import hmac
import json
import time
from base64 import urlsafe_b64encode
from typing import Any, NamedTuple

TEXT, BINARY, CLOSE, PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A

SEQUENCE_DIGITS = 8
TIME_DIGITS = 19

#: Stands between the two numbers, and nowhere else in what a client receives.
MARK = b'","at":"'

#: The channel that all clients follow, on servers that have no such channel of their own.
EVERYONE = "everyone"

_SEQUENCE, _TIME = b"@" * SEQUENCE_DIGITS, b"#" * TIME_DIGITS


def token(secret: str, number: int) -> str:
    """Return a token for Relay that holds for a day and covers everything, another one for each number."""
    claims = {
        "relay": {"watch": {"all": True}}, "exp": int(time.time()) + 86_400, "sub": f"user:{number}", "jti": str(number),
    }  # fmt: skip
    return signed(claims, secret)


def signed(claims: dict[str, Any], secret: str) -> str:
    """Return a JWT of these claims, signed by HS256."""
    parts = [json.dumps(part, separators=(",", ":")).encode() for part in ({"alg": "HS256", "typ": "JWT"}, claims)]
    text = b".".join(urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    signature = urlsafe_b64encode(hmac.digest(secret.encode(), text, "sha256")).rstrip(b"=")
    return (text + b"." + signature).decode()


def opening_request(host: str, path: str, *, websocket: bool, token: str | None = None) -> bytes:
    """Return the request that opens a WebSocket without extensions, or a stream of server-sent events."""
    headers = "" if token is None else f"Authorization: Bearer {token}\r\n"
    if not websocket:
        headers += "Accept: text/event-stream\r\n"
    if websocket:
        headers += (
            "Upgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        )
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n".encode()


def masked(first_byte: int, payload: bytes) -> bytes:
    """Return a client's frame, masked with zeros; the payload must be shorter than 64 KiB."""
    size = len(payload)
    length = bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2)
    return bytes((first_byte,)) + length + b"\0\0\0\0" + payload


class Template:
    """Bytes in which the sequence number and the time may be filled in, wherever they occur."""

    def __init__(self, raw: bytes) -> None:
        self._format = raw.replace(b"%", b"%%").replace(_SEQUENCE, b"%(s)08d").replace(_TIME, b"%(t)019d")

    def fill(self, sequence: int, at: int) -> bytes:
        """Fill in the number, and the time for which the update was scheduled in nanoseconds of the monotonic clock."""
        return self._format % {b"s": sequence, b"t": at}


class Update(NamedTuple):
    """An update with its numbers left open. ``task`` is None when it is for everyone."""

    task: str | None
    data: bytes

    @property
    def payload(self) -> bytes:
        """The message that a service publishes, and that clients of Relay and of most peers receive."""
        if self.task is None:
            return b'{"type":"general_update","data":%b}' % self.data
        return b'{"type":"task_update","task_id":"%b","data":%b}' % (self.task.encode(), self.data)

    @property
    def channel(self) -> str:
        """The channel on which a peer publishes it."""
        return EVERYONE if self.task is None else self.task


def make_update(task: str | None, size: int, filler: bytes = b"x") -> Update:
    """Return an update whose payload has ``size`` bytes, padded with the repeated filler. Raises ValueError when too small."""
    head, tail = b'{"sequence":"%b%b%b","pad":"' % (_SEQUENCE, MARK, _TIME), b'"}'
    smallest = len(Update(task, head + tail).payload)
    padding = size - smallest
    if padding < 0:
        raise ValueError(f"an update of this kind has at least {smallest} bytes, not {size}")
    return Update(task, head + (filler * (padding // len(filler) + 1))[:padding] + tail)


def resp(*arguments: bytes | str | int) -> bytes:
    """Return a Redis command."""
    parts = [each if isinstance(each, bytes) else str(each).encode() for each in arguments]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
