"""The WebSocket opening handshake of RFC 6455 section 4.2, as a server reads and answers it.

The head of the request is read by httptools, and only one that is plainly right is taken: whoever gets None sends the client
the long way, through the ASGI server, which knows how to refuse.
"""

from base64 import b64encode
from functools import lru_cache
from hashlib import sha1
from typing import NamedTuple

import httptools
from wsproto.connection import Connection, ConnectionType
from wsproto.extensions import PerMessageDeflate
from wsproto.handshake import server_extensions_handshake

#: Longest head of a request, in bytes.
MAX_HEAD = 64 * 1024

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

#: An opening handshake has each of these once at most, the first four exactly once.
_ONCE = (b"host", b"upgrade", b"sec-websocket-key", b"sec-websocket-version", b"origin", b"sec-websocket-extensions")

#: Headers that announce a body, which an opening handshake does not have.
_BODY = (b"content-length", b"transfer-encoding", b"expect")


class Opening(NamedTuple):
    """A valid opening handshake. Header names are in lower case; ``offers`` are the client's extensions; ``early`` are the
    bytes that came behind it."""

    path: bytes
    headers: list[tuple[bytes, bytes]]
    key: bytes
    offers: str
    early: bytes

    def accept(self) -> bytes:
        """The answer that lets the client in."""
        agreed = _agreed(self.offers)
        more = b"Sec-WebSocket-Extensions: %b\r\n" % agreed if agreed else b""
        digest = b64encode(sha1(self.key + _GUID, usedforsecurity=False).digest())
        return (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n%b\r\n" % (digest, more)
        )


class _Head:
    """What httptools calls back."""

    __slots__ = ("headers", "target")

    def __init__(self) -> None:
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))


def read_opening(data: bytes) -> Opening | None:
    """Read the first bytes of a connection. None when they are anything but a whole and valid opening handshake."""
    head = _Head()
    parser = httptools.HttpRequestParser(head)
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade as upgrade:
        end: int = upgrade.args[0]
    except httptools.HttpParserError:
        return None
    else:
        return None  # more is to come, or it is an ordinary request
    if parser.get_method() != b"GET" or parser.get_http_version() != "1.1":
        return None
    headers = dict(head.headers)
    names = [name for name, _ in head.headers]
    key = headers.get(b"sec-websocket-key", b"")
    offers = headers.get(b"sec-websocket-extensions", b"")
    is_valid = (
        b"host" in headers
        and headers.get(b"upgrade", b"").lower() == b"websocket"
        and headers.get(b"sec-websocket-version") == b"13"
        and len(key) == 24
        and key.isascii()
        and offers.isascii()
        and not any(names.count(name) > 1 for name in _ONCE)
        and not any(name in headers for name in _BODY)
    )
    path = head.target.partition(b"?")[0]
    return Opening(path, head.headers, key, offers.decode(), data[end:]) if is_valid else None


def deflate_of(offers: str) -> tuple[PerMessageDeflate, bytes] | None:
    """permessage-deflate as in the first offer that can be taken, and the answer to it; None when there is no such offer.

    One that makes no sense is declined, as RFC 7692 section 5 has it; wsproto raises ValueError.
    """
    for offer in offers.split(","):
        extension = PerMessageDeflate()
        try:
            answer = server_extensions_handshake([offer.strip()], [extension])
        except ValueError:
            continue
        if answer is not None:
            return extension, answer
    return None


@lru_cache(maxsize=256)
def _agreed(offers: str) -> bytes:
    deflate = deflate_of(offers)
    return b"" if deflate is None else deflate[1]


def connection_of(offers: str) -> Connection:
    """wsproto's connection after an opening handshake with these offers, which were answered."""
    deflate = deflate_of(offers)
    return Connection(ConnectionType.SERVER, [] if deflate is None else [deflate[0]])
