"""Which pages may use the relay: the Origin and Host of a request, and the CORS headers of the answer."""

import re
from collections.abc import Iterable
from ipaddress import ip_address

#: Request headers: names in any case.
Headers = Iterable[tuple[bytes, bytes]]

#: Methods and request headers that a page may use, and answer headers that it may read.
_METHODS = b"GET, POST, DELETE, OPTIONS"
_REQUEST_HEADERS = b"authorization, cache-control, content-type, idempotency-key, if-none-match, last-event-id"
_EXPOSED_HEADERS = b"etag, idempotency-replayed, retry-after"

_VARY = (b"vary", b"origin")

#: Headers of an answer that depends on who asks: no cache between the relay and the client may keep it, or show it to another.
PRIVATE = ((b"cache-control", b"private, no-store"), (b"vary", b"authorization, cookie, x-api-key"))

#: Ports that browsers leave out of Origin and Host.
_DEFAULT_PORTS = {"http": "80", "https": "443"}

#: Values of Sec-Fetch-Site in requests that no page of another origin made.
_OWN_SITE = ("same-origin", "none")

#: Seconds that a browser may keep the answer to a preflight.
_MAX_AGE = b"600"


def header(headers: Headers, name: bytes) -> str | None:
    """Return a request header, the first one where there are several.

    Args:
        headers: The request's headers.
        name: The header's name in lower case.
    """
    length = len(name)
    for key, value in headers:
        if len(key) == length and key.lower() == name:
            return value.decode("latin1")
    return None


def host_without_port(host: str) -> str:
    """Return the host of a Host header, in lower case; an IPv6 address keeps its brackets."""
    return _without_port(host, "[0-9]*")


def _without_port(host: str, port: str) -> str:
    return re.sub(rf":{port}\Z", "", host).lower()


def _values(headers: Headers, name: bytes) -> list[str]:
    return [value.decode("latin1") for key, value in headers if key.lower() == name]


def _host_of(headers: Headers) -> str | None:
    """Return the Host of a request; None when it has none, or several."""
    hosts = {*_values(headers, b"host"), *_values(headers, b":authority")}
    return hosts.pop() if len(hosts) == 1 else None


def is_same_origin(origin: str, host: str) -> bool:
    """Whether a page of this origin was served under the name that a request is addressed to.

    The scheme is not compared, since behind a proxy that ends TLS the relay does not know it.

    Args:
        origin: The Origin of a request, as browsers send it: in lower case, and without a port that is the scheme's own.
        host: Its Host.
    """
    scheme, _, authority = origin.partition("://")
    port = _DEFAULT_PORTS.get(scheme)
    return port is not None and authority != "" and authority == _without_port(host, port)


def _is_loopback(host: str) -> bool:
    name = host_without_port(host).strip("[]")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


class CorsPolicy:
    """Decides by the headers of a request.

    An origin is compared as browsers send it, byte for byte. One in upper case or with the scheme's own port comes from no
    browser, and is refused.

    Args:
        origins: Origins that may use the relay; ``*`` is any, ``same-origin`` the relay's own. That one is allowed anyway
            where the names of the relay are given: without them, any name that leads here would make a page its own.
        hosts: Names under which the relay may be addressed, without a port; ``*`` is any.
    """

    def __init__(self, origins: Iterable[str], hosts: Iterable[str]) -> None:
        given = frozenset(origins)
        self._origins = given - {"*", "same-origin"}
        self._hosts = frozenset(hosts)
        self._allows_any_origin = "*" in given
        self._allows_any_host = "*" in self._hosts

    def refusal_reason(self, headers: Headers) -> str | None:
        """Return "origin" or "host", by which a request is refused; None when it is allowed.

        A request without Origin comes from a program and not from a page, and is allowed.
        """
        if self._allows_any_host and self._allows_any_origin:
            return None
        host = _host_of(headers)
        if not self._allows_any_host and (host is None or host_without_port(host) not in self._hosts):
            return "host"
        if self._allows_any_origin:
            return None
        is_allowed = all(self._is_named(origin, host) for origin in _values(headers, b"origin"))
        return None if is_allowed else "origin"

    def _is_named(self, origin: str, host: str | None) -> bool:
        if origin in self._origins:
            return True
        return not self._allows_any_host and host is not None and is_same_origin(origin, host)

    def allows_cookies(self, headers: Headers, *, is_secure: bool) -> bool:
        """Whether the cookies of a request may count as its client's credentials.

        A browser sends cookies whichever page asks for it. So they count only if the page is the relay's own, or of an origin
        that is named: ``*`` and ``null`` name none. A request without Origin is made by a program, or by the relay's own page,
        unless the browser says otherwise.

        Args:
            headers: The request's headers.
            is_secure: The cookie is one that browsers send over HTTPS only: a page of the relay that came without it, which an
                attacker on the network may have written, may not use it.
        """
        origins = _values(headers, b"origin")
        if not origins:
            return all(site in _OWN_SITE for site in _values(headers, b"sec-fetch-site"))
        return all(self._may_use_cookies(origin, _host_of(headers), is_secure) for origin in origins)

    def _may_use_cookies(self, origin: str, host: str | None, is_secure: bool) -> bool:
        if origin in self._origins:
            return origin != "null"
        if host is None or not is_same_origin(origin, host):
            return False
        return not is_secure or origin.startswith("https://") or _is_loopback(host)

    def response_headers(self, headers: Headers) -> list[tuple[bytes, bytes]]:
        """Return the CORS headers of the answer to a request that is allowed.

        Credentials are allowed to origins that are named, and not to any page of the web.
        """
        if self._allows_any_origin:
            return [(b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", _EXPOSED_HEADERS)]
        origin = header(headers, b"origin")
        if origin is None:
            return [_VARY]
        return [
            (b"access-control-allow-origin", origin.encode("latin1")),
            (b"access-control-allow-credentials", b"true"),
            (b"access-control-expose-headers", _EXPOSED_HEADERS),
            _VARY,
        ]

    def refusal_headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers of the answer to a request that is refused for its origin, its host or its cookie."""
        return [_VARY, (b"cache-control", b"no-store")]

    def preflight_headers(self, headers: Headers) -> list[tuple[bytes, bytes]]:
        """Return the headers of the answer to a browser that asks before its request."""
        return [
            *self.response_headers(headers),
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", _REQUEST_HEADERS),
            (b"access-control-max-age", _MAX_AGE),
        ]
