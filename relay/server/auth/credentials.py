"""The credentials in a request: a bearer token, a ticket, cookies; and what may not be in it."""

from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import parse_qsl, urlsplit

from relay.server.auth.tokens import looks_like_token
from relay.server.cors import CorsPolicy, Headers, header, host_without_port

#: The cookie that holds a token. Browsers keep one of this name only if it is Secure, has no Domain, and the path `/`.
COOKIE = "__Host-relay"

#: The parameter that holds a ticket.
TICKET = "ticket"

#: Parameters that other servers take a token in. Here one is refused, since URLs end up in logs and histories.
_TOKEN_PARAMETERS = frozenset({"token", "access_token", "id_token", "jwt", "authorization"})

_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """What a request shows. At most one counts: the bearer token, then the ticket, then the cookies.

    Attributes:
        bearer: The token of the header `Authorization: Bearer`.
        ticket: The parameter `ticket`.
        cookie: The token in the cookie `__Host-relay`.
        has_cookies: There are cookies, of whatever name.
    """

    bearer: str | None
    ticket: str | None
    cookie: str | None
    has_cookies: bool

    @property
    def is_by_cookie(self) -> bool:
        """Only cookies can say who the client is, which a browser sends whichever page asks."""
        return self.bearer is None and self.ticket is None and self.has_cookies


def _parameters(query: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(query.decode("latin1"), keep_blank_values=True, max_num_fields=1000)
    except ValueError:
        return []


def read_credentials(headers: Headers, query: bytes) -> Credentials:
    """Return the credentials of a request."""
    authorization = header(headers, b"authorization")
    scheme, _, bearer = (authorization or "").partition(" ")
    cookies = header(headers, b"cookie")
    tickets = [value for name, value in _parameters(query) if name == TICKET] if query else []
    return Credentials(
        bearer.strip() if scheme.lower() == "bearer" else None,
        tickets[-1] if tickets else None,
        _token_cookie(cookies) if cookies else None,
        cookies is not None,
    )


def _token_cookie(cookies: str) -> str | None:
    if COOKIE not in cookies:
        return None
    # Cookies of other applications may be malformed, and must not hide this one.
    for pair in cookies.split(";"):
        name, _, value = pair.strip().partition("=")
        if name == COOKIE:
            return value.strip().strip('"') or None
    return None


def has_token(query: bytes) -> bool:
    """Whether a query has a token in it, under whatever name."""
    return bool(query) and any(
        name.lower() in _TOKEN_PARAMETERS or looks_like_token(value) for name, value in _parameters(query)
    )


def _authority(scheme: str, host: str) -> str:
    return host.lower().removesuffix(_DEFAULT_PORTS.get(scheme, ""))


def _is_loopback(host: str) -> bool:
    name = host_without_port(host).strip("[]")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def may_use_cookies(headers: Headers, policy: CorsPolicy, *, is_secure: bool) -> bool:
    """Whether the page that a request comes from may use the visitor's cookies: one of this host, or a named origin.

    Args:
        headers: The request's headers.
        policy: Says which origins are named.
        is_secure: The cookie is one that browsers send over HTTPS only: a page that came without it, which an attacker on the
            network may have written, may not use it.
    """
    origin = header(headers, b"origin")
    if origin is None:
        # No page, or a GET of the same host. What a foreign page embeds says so, in all browsers of today.
        return header(headers, b"sec-fetch-site") in (None, "same-origin", "none")
    if policy.names(origin):
        return True
    parts = urlsplit(origin)
    host = header(headers, b"host") or header(headers, b":authority") or ""
    if parts.scheme not in _DEFAULT_PORTS or _authority(parts.scheme, parts.netloc) != _authority(parts.scheme, host):
        return False
    return parts.scheme == "https" or not is_secure or _is_loopback(host)
