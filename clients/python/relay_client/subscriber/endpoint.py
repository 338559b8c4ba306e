"""Where a relay is: a URL taken apart and checked."""

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

from relay_client.subscriber.websocket import WebSocket

#: Where a relay has its WebSocket, below its root.
WEBSOCKET_PATH = "/ws/tasks"

#: Where `relay serve` listens by default.
_DEFAULT_URL = "ws://127.0.0.1:8000/ws/tasks"

_PORTS = {"ws": 80, "wss": 443}


def websocket_url(url: str) -> str:
    """Return the URL of a relay's WebSocket. ``http://`` and ``https://`` URLs are those of the relay's root."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        return url
    path = parts.path.rstrip("/").removesuffix(WEBSOCKET_PATH) + WEBSOCKET_PATH
    return urlunsplit((parts.scheme.replace("http", "ws", 1), parts.netloc, path, parts.query, ""))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address of a relay's ``/ws/tasks``.

    Attributes:
        url: For people: without the query, which may hold secrets.
        host, port: Where to connect.
        resource: Path and query.
        ssl_context: For ``wss://``; None for ``ws://``.
        headers: Further headers of the handshake.
    """

    url: str
    host: str
    port: int
    resource: str = field(repr=False)
    ssl_context: ssl.SSLContext | None
    headers: tuple[tuple[bytes, bytes], ...] = field(default=(), repr=False)

    @classmethod
    def parse(
        cls, url: str | None, headers: Mapping[str, str] | None, ssl_context: ssl.SSLContext | None
    ) -> "Endpoint":
        """Parse a URL, by default that in ``RELAY_URL``. One without a path means ``/ws/tasks``.

        Raises:
            ValueError: The URL or a header is wrong; the message says how.
        """
        url = websocket_url(url or os.environ.get("RELAY_URL") or _DEFAULT_URL)
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ValueError(
                f"a relay's URL is of the form ws://host:8000/ws/tasks or wss://host/ws/tasks, not {url!r}"
            )
        if parts.username or parts.password:
            raise ValueError("put no password into a relay's URL; give it as a header, such as Authorization")
        if parts.scheme == "ws" and ssl_context is not None:
            raise ValueError("an SSL context needs a wss:// URL")
        path = parts.path if parts.path not in ("", "/") else WEBSOCKET_PATH
        shown = f"{parts.scheme}://{parts.netloc}{path}"
        context = (ssl_context or ssl.create_default_context()) if parts.scheme == "wss" else None
        pairs = tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in (headers or {}).items())
        if any(byte in name + value for name, value in pairs for byte in b"\r\n\0"):
            raise ValueError("a header must be one line")
        resource = f"{path}?{parts.query}" if parts.query else path
        endpoint = cls(shown, parts.hostname, parts.port or _PORTS[parts.scheme], resource, context, pairs)
        endpoint.new_websocket(1)  # raises what is wrong with it now, rather than with every connection
        return endpoint

    def new_websocket(self, max_message: int) -> WebSocket:
        """Return a WebSocket whose handshake is ready to be sent."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default_port = _PORTS["ws" if self.ssl_context is None else "wss"]
        header = host if self.port == default_port else f"{host}:{self.port}"
        return WebSocket(header, self.resource, self.headers, max_message)
