"""Which pages may use the relay: the Origin and Host of a request, and the CORS headers of the answer."""

from collections.abc import Iterable

#: Request headers: names in any case.
Headers = Iterable[tuple[bytes, bytes]]

#: Methods and request headers that a page may use, and answer headers that it may read.
_METHODS = b"GET, POST, DELETE, OPTIONS"
_REQUEST_HEADERS = b"authorization, cache-control, content-type, idempotency-key, if-none-match, last-event-id"
_EXPOSED_HEADERS = b"etag, idempotency-replayed, retry-after"

#: Seconds that a browser may keep the answer to a preflight.
_MAX_AGE = b"600"


def header(headers: Headers, name: bytes) -> str | None:
    """Return a request header, the first one where there are several.

    Args:
        headers: The request's headers.
        name: The header's name in lower case.
    """
    return next((value.decode("latin1") for key, value in headers if key.lower() == name), None)


def host_without_port(host: str) -> str:
    """Return the host of a Host header, in lower case; an IPv6 address keeps its brackets."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()


class CorsPolicy:
    """Decides by the headers of a request.

    Args:
        origins: Origins that may use the relay; ``*`` is any.
        hosts: Names under which the relay may be addressed, without a port; ``*`` is any.
    """

    def __init__(self, origins: Iterable[str], hosts: Iterable[str]) -> None:
        self._origins = frozenset(origins)
        self._hosts = frozenset(hosts)
        self._allows_any_origin = "*" in self._origins
        self._allows_any_host = "*" in self._hosts

    def rejection_reason(self, headers: Headers) -> str | None:
        """Return "origin" or "host", by which a request is refused; None when it is allowed.

        A request without Origin comes from a program and not from a page, and is allowed.
        """
        if not self._allows_any_host:
            host = header(headers, b"host") or header(headers, b":authority") or ""
            if host_without_port(host) not in self._hosts:
                return "host"
        if not self._allows_any_origin:
            origin = header(headers, b"origin")
            if origin is not None and origin.lower() not in self._origins:
                return "origin"
        return None

    def response_headers(self, headers: Headers) -> list[tuple[bytes, bytes]]:
        """Return the CORS headers of the answer to a request that is allowed.

        Credentials are allowed to origins that are named, and not to any page of the web.
        """
        if self._allows_any_origin:
            return [(b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", _EXPOSED_HEADERS)]
        origin = header(headers, b"origin")
        if origin is None:
            return [(b"vary", b"origin")]
        return [
            (b"access-control-allow-origin", origin.encode("latin1")),
            (b"access-control-allow-credentials", b"true"),
            (b"access-control-expose-headers", _EXPOSED_HEADERS),
            (b"vary", b"origin"),
        ]

    def preflight_headers(self, headers: Headers) -> list[tuple[bytes, bytes]]:
        """Return the headers of the answer to a browser that asks before its request."""
        return [
            *self.response_headers(headers),
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", _REQUEST_HEADERS),
            (b"access-control-max-age", _MAX_AGE),
        ]
