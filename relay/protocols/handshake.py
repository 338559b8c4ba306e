"""The WebSocket opening handshake of RFC 6455 section 4.2, as a server reads and answers it.

httptools reads the head of the request, and only a plainly valid one is accepted here. Every other connection is left to the
ASGI server, which knows how to refuse.
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


class Handshake(NamedTuple):
    """A valid opening handshake.

    Attributes:
        path: The request's path, without its query.
        headers: The request's headers; names are in lower case.
        key: The value of Sec-WebSocket-Key.
        offers: The extensions that the client offers.
        early: Bytes that the client sent right behind the handshake.
    """

    path: bytes
    headers: list[tuple[bytes, bytes]]
    key: bytes
    offers: str
    early: bytes

    def accept(self) -> bytes:
        """Return the response that accepts the client."""
        agreed = _agreed(self.offers)
        more = b"Sec-WebSocket-Extensions: %b\r\n" % agreed if agreed else b""
        digest = b64encode(sha1(self.key + _GUID, usedforsecurity=False).digest())
        return (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n%b\r\n" % (digest, more)
        )


class _Head:
    """Collects what httptools reports of a request's head."""

    __slots__ = ("headers", "target")

    def __init__(self) -> None:
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))


def read_handshake(data: bytes) -> Handshake | None:
    """Read the first bytes of a connection; None unless they hold a whole and valid opening handshake."""
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
    return Handshake(path, head.headers, key, offers.decode(), data[end:]) if is_valid else None


def deflate_of(offers: str) -> tuple[PerMessageDeflate, bytes] | None:
    """Accept the first offer of permessage-deflate that is valid.

    An offer that makes no sense is declined, as RFC 7692 section 5 wants it.

    Returns:
        The extension and the header that answers the offer, or None.
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
    """Return wsproto's connection after a handshake in which these offers were answered."""
    deflate = deflate_of(offers)
    return Connection(ConnectionType.SERVER, [] if deflate is None else [deflate[0]])
