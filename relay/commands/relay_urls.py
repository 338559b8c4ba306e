"""Where commands find a relay over HTTP, and what they may send there."""

from urllib.parse import urlsplit

import typer

from relay.config import Settings

#: The address on which to reach a relay that listens on all addresses.
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def local_url(settings: Settings) -> str:
    """Return the URL of a relay that runs on this machine with these settings."""
    host = _LOOPBACK.get(settings.host, settings.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


def base_url(url: str) -> str:
    """Return the URL of a relay without the path of its WebSocket.

    Raises:
        ValueError: It is no URL of a relay.
    """
    parts = urlsplit(url)
    schemes = {"ws": "http", "wss": "https", "http": "http", "https": "https"}
    if parts.scheme not in schemes or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValueError("must be a URL such as https://relay.example.com, without user, query or fragment")
    _ = parts.port  # raises ValueError for one that is none
    return f"{schemes[parts.scheme]}://{parts.netloc}{parts.path.removesuffix('/ws/tasks').rstrip('/')}"


def header_value(option: str, value: str | None) -> str | None:
    """Return the value of an option that a header can have. Raises typer.BadParameter."""
    if value is not None and not (value.isascii() and value.isprintable()):
        raise typer.BadParameter(f"{option}: it has characters that no header can have")
    return value
