"""Whether a request comes from this machine: only such may write to a relay that asks for no credentials."""

from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from relay.core.client_address import peer_address
from relay.server.cors import header, host_without_port

#: Headers of proxies. A client behind one may be anywhere.
_FORWARDING = (b"forwarded", b"x-forwarded-for", b"x-real-ip", b"via")


def is_local(scope: Any) -> bool:
    """Return whether a request was made on this machine, and not by a page of somebody else.

    A page in a browser on this machine is foreign: only one that the relay itself has served may write, and only under a
    loopback name, or a name that an attacker points to 127.0.0.1 would do (DNS rebinding).

    Args:
        scope: The request's ASGI scope.
    """
    headers = scope["headers"]
    peer = peer_address(scope.get("client"))
    if peer.host is None or not ip_address(peer.host).is_loopback:
        return False
    if any(header(headers, name) is not None for name in _FORWARDING):
        return False
    host = header(headers, b"host") or header(headers, b":authority") or ""
    if not _is_loopback_name(host_without_port(host)):
        return False
    if header(headers, b"sec-fetch-site") not in (None, "same-origin", "none"):
        return False
    origin = header(headers, b"origin")
    return origin is None or urlsplit(origin).netloc.lower() == host.lower()


def _is_loopback_name(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
