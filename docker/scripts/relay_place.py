"""Where the relay is: RELAY_URL, or else RELAY_HOST and RELAY_PORT. Needs nothing but Python."""

import os
from urllib.parse import urlsplit, urlunsplit

#: Where to reach a relay that listens on every address.
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def relay_url(scheme: str) -> str:
    """The base URL, with the scheme ``http`` or ``ws``, or that over TLS. Raises ValueError when RELAY_URL is no URL."""
    host = os.environ.get("RELAY_HOST") or "127.0.0.1"
    host = _LOOPBACK.get(host, host)
    default = f"{scheme}://{f'[{host}]' if ':' in host else host}:{os.environ.get('RELAY_PORT') or 8000}"
    url = os.environ.get("RELAY_URL") or default
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https", "ws", "wss") or not parts.hostname:
        raise ValueError(f"RELAY_URL: {url!r} is not of the form ws://host:port")
    secure = "s" if parts.scheme in ("https", "wss") else ""
    path = parts.path.rstrip("/").removesuffix("/ws/tasks")
    return urlunsplit((scheme + secure, parts.netloc, path, "", ""))
