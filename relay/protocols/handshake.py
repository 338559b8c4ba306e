"""The WebSocket opening handshake of RFC 6455 section 4.2, as a server reads and answers it.

httptools reads the head of the request, and only a plainly valid one is accepted here. Every other connection is left to the
ASGI server, which knows how to refuse.
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Iterable
from hashlib import sha1
from typing import NamedTuple

import httptools

from relay.protocols.deflate import MAX_OFFERS_LENGTH, answer_to

#: Longest head of a request, in bytes.
MAX_HEAD = 64 * 1024

#: Lines in the head of a request. Browsers and proxies send some forty; each costs a call, whatever its length.
MAX_HEAD_LINES = 128

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

#: An opening handshake has each of these once at most, the first four exactly once.
_ONCE = (b"host", b"upgrade", b"sec-websocket-key", b"sec-websocket-version", b"origin", b"sec-websocket-extensions")

#: A token of RFC 9110 section 5.6.2, as the name of a subprotocol must be; longer ones are not answered.
_is_token = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}").fullmatch

#: Headers that announce a body, which an opening handshake does not have.
_BODY = frozenset({b"content-length", b"transfer-encoding", b"expect"})


class Handshake(NamedTuple):
    """A valid opening handshake.

    Attributes:
        path: The request's path, without its query.
        query: The query, without its question mark.
        headers: The request's headers; names are in lower case.
        key: The value of Sec-WebSocket-Key.
        offers: The extensions that the client offers.
        subprotocol: The one that is agreed on, or None.
        early: Bytes that the client sent right behind the handshake.
    """

    path: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]
    key: bytes
    offers: str
    subprotocol: str | None
    early: bytes

    def accept(self) -> bytes:
        """Return the response that accepts the client."""
        agreed = answer_to(self.offers)
        more = b"Sec-WebSocket-Extensions: %b\r\n" % agreed if agreed else b""
        if self.subprotocol is not None:
            more += b"Sec-WebSocket-Protocol: %b\r\n" % self.subprotocol.encode()
        digest = b64encode(sha1(self.key + _GUID, usedforsecurity=False).digest())
        return (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n%b\r\n" % (digest, more)
        )


def is_valid_key(key: str | bytes) -> bool:
    """Whether a Sec-WebSocket-Key is the base64 of 16 bytes, as RFC 6455 section 4.1 wants it."""
    try:
        return len(b64decode(key, validate=True)) == 16
    except ValueError:
        return False


def agreed_subprotocol(requested: Iterable[str]) -> str | None:
    """Return the subprotocol to answer with, which must be one of those that the client asks for (section 4.2.2).

    Relay speaks the same under each name. A browser that asks for one and gets none ends the connection, so the first is taken.

    Args:
        requested: Names of subprotocols, or lists of them that are separated by commas.
    """
    for names in requested:
        for name in names[:1024].split(","):
            if _is_token(name.strip()):
                return name.strip()
    return None


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


def has_too_many_lines(data: bytes) -> bool:
    """Whether the head at the beginning of these bytes, or what there is of it, has more than `MAX_HEAD_LINES`."""
    if data.count(b"\n") <= MAX_HEAD_LINES:  # nearly always
        return False
    end = min((at for at in (data.find(b"\r\n\r\n"), data.find(b"\n\n")) if at >= 0), default=len(data))
    return data.count(b"\n", 0, end) > MAX_HEAD_LINES


def _repeats(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether a header comes twice that may come once."""
    names = [name for name, _ in headers]
    return any(names.count(name) > 1 for name in _ONCE)


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
    key = headers.get(b"sec-websocket-key", b"")
    offers = headers.get(b"sec-websocket-extensions", b"")
    is_valid = (
        b"host" in headers
        and headers.get(b"upgrade", b"").lower() == b"websocket"
        and headers.get(b"sec-websocket-version") == b"13"
        and is_valid_key(key)
        and offers.isascii()
        and headers.keys().isdisjoint(_BODY)
        and (len(headers) == len(head.headers) or not _repeats(head.headers))
    )
    path, _, query = head.target.partition(b"?")
    if not is_valid:
        return None
    protocols = [value.decode("latin1") for name, value in head.headers if name == b"sec-websocket-protocol"]
    # A session keeps the offers for as long as it lives; those of a header that no client sends are declined.
    text = offers.decode() if len(offers) <= MAX_OFFERS_LENGTH else ""
    return Handshake(path, query, head.headers, key, text, agreed_subprotocol(protocols), data[end:])
