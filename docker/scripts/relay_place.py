"""Find the relay: at RELAY_URL, or else at RELAY_HOST and RELAY_PORT. Needs only Python."""

import os
from urllib.parse import urlsplit, urlunsplit

#: The address on which to reach a relay that listens on all addresses.
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def relay_url(scheme: str) -> str:
    """Return the relay's base URL.

    Args:
        scheme: ``http`` or ``ws``; becomes ``https`` or ``wss`` if RELAY_URL uses TLS.

    Raises:
        ValueError: RELAY_URL is not a URL of a relay.
    """
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
