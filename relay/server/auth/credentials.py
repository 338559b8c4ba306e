"""The credentials in a request: a bearer token, a ticket, cookies; and what may not be in it."""

from typing import NamedTuple
from urllib.parse import parse_qsl

from relay.core.api_keys import PREFIX
from relay.server.auth.token_form import looks_like_token
from relay.server.cors import CorsPolicy, Headers

#: The cookie that holds a token. Browsers keep one of this name only if it is Secure, has no Domain, and the path `/`.
COOKIE = "__Host-relay"

#: The parameter that holds a ticket.
TICKET = "ticket"

_HEADERS = frozenset({b"authorization", b"x-api-key", b"cookie"})

#: Most names of other headers differ from these in their length already, which costs less to see.
_LENGTHS = frozenset(map(len, _HEADERS))

#: Parameters that other servers take a token in. Here one is refused, since URLs end up in logs and histories.
_TOKEN_PARAMETERS = frozenset({"token", "access_token", "id_token", "jwt", "authorization"})


class Credentials(NamedTuple):
    """What a request shows. At most one counts: the API key, then the bearer token, the ticket, the cookies.

    Attributes:
        api_key: The key of `X-API-Key`, or of `Authorization: Bearer` where that begins like a key.
        bearer: The token of the header `Authorization: Bearer`.
        ticket: The parameter `ticket`.
        cookie: The token in the cookie `__Host-relay`.
        has_cookies: There are cookies, of whatever name.
    """

    api_key: str | None
    bearer: str | None
    ticket: str | None
    cookie: str | None
    has_cookies: bool

    def __repr__(self) -> str:
        return "<credentials>"  # which must get into no log

    @property
    def is_by_cookie(self) -> bool:
        """Only cookies can say who the client is, which a browser sends whichever page asks."""
        return self.has_cookies and self.api_key is None and self.bearer is None and self.ticket is None


def _parameters(query: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(query.decode("latin1"), keep_blank_values=True, max_num_fields=1000)
    except ValueError:
        return []


def read_credentials(headers: Headers, query: bytes) -> Credentials:
    """Return the credentials of a request. Of several equal headers the first one counts."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if len(name) in _LENGTHS and (lower := name.lower()) in _HEADERS:
            found.setdefault(lower, value)
    key = found.get(b"x-api-key")
    cookies = found.get(b"cookie")
    shown = _bearer(found[b"authorization"]) if b"authorization" in found else None
    if key is not None:
        api_key: str | None = key.decode("latin1").strip()
    else:
        api_key = shown if shown is not None and shown.startswith(PREFIX) else None
    tickets = [value for name, value in _parameters(query) if name == TICKET] if query else []
    return Credentials(
        api_key,
        shown,
        tickets[-1] if tickets else None,
        _token_cookie(cookies.decode("latin1")) if cookies else None,
        cookies is not None,
    )


def _bearer(authorization: bytes) -> str | None:
    scheme, _, token = authorization.decode("latin1").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


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


def may_use_cookies(headers: Headers, policy: CorsPolicy, *, is_secure: bool) -> bool:
    """Whether the page that a request comes from may use the visitor's cookies; see `CorsPolicy.allows_cookies`."""
    return policy.allows_cookies(headers, is_secure=is_secure)
