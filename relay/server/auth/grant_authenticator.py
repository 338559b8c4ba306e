"""The authenticator of a relay for which grants are configured: API keys, tokens, tickets, cookies, and asking a backend."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from time import time

from relay.core.api_keys import PREFIX, ApiKeys
from relay.core.closecodes import Close
from relay.core.errors import Unauthenticated
from relay.core.grants import Grant
from relay.core.revocations import Revocations
from relay.server.auth.authenticator import Entry, FindGrant
from relay.server.auth.authorize_url import AuthorizeUrl, forwarded
from relay.server.auth.credentials import Credentials, has_token, may_use_cookies, read_credentials
from relay.server.auth.jwks import JwksUrl
from relay.server.auth.revocation_feed import RevocationFeed
from relay.server.auth.tickets import Tickets
from relay.server.auth.tokens import TokenVerifier, UnknownKey
from relay.server.cors import CorsPolicy, Headers, header

_REVOKED = Unauthenticated("token_revoked", "the token was revoked", Close.REVOKED)
_UNKNOWN_API_KEY = Unauthenticated("bad_api_key", "there is no such API key", Close.INVALID_TOKEN)
_NO_TOKENS = Unauthenticated("bad_token", "this relay takes no tokens", Close.INVALID_TOKEN)


@dataclass(frozen=True, slots=True)
class Sources:
    """Where grants come from. What is None is not configured.

    Attributes:
        api_keys: The keys of services.
        tokens: Verifies tokens.
        connection_tokens: Verifies tokens that may have Centrifugo's claims.
        jwks: The URL that has keys for tokens.
        authorize: The URL that is asked about clients.
        tickets: Tickets for one connection.
        anonymous: The grant of clients that show nothing.
    """

    api_keys: ApiKeys
    tokens: TokenVerifier | None
    connection_tokens: TokenVerifier | None
    jwks: JwksUrl | None
    authorize: AuthorizeUrl | None
    tickets: Tickets
    anonymous: Grant | None


class GrantAuthenticator:
    """Finds out the grant of a client by what it shows.

    Args:
        sources: Where grants come from.
        revocations: The grants that no longer hold.
        feed: Says whether the revocations are known.
        policy: Which origins are named.
    """

    def __init__(self, sources: Sources, revocations: Revocations, feed: RevocationFeed, policy: CorsPolicy) -> None:
        self._sources = sources
        self._revocations = revocations
        self._feed = feed
        self._policy = policy

    def refusal_reason(self, headers: Headers, query: bytes) -> str | None:
        """See `Authenticator.refusal_reason`."""
        if has_token(query):
            return "token_in_url"
        if header(headers, b"cookie") is None:
            return None
        credentials = read_credentials(headers, query)
        if not credentials.is_by_cookie:
            return None
        sources = self._sources
        counts = sources.authorize is not None or (sources.tokens is not None and credentials.cookie is not None)
        is_secure = sources.authorize is None
        if counts and not may_use_cookies(headers, self._policy, is_secure=is_secure):
            return "cookie_origin"
        return None

    def entry(self, headers: Headers, query: bytes) -> Entry:
        """See `Authenticator.entry`."""
        sources = self._sources
        credentials = read_credentials(headers, query)
        if credentials.api_key is not None:
            return sources.api_keys.find(credentials.api_key) or _UNKNOWN_API_KEY
        token = self._token_of(credentials)
        if token is not None:
            assert sources.tokens is not None
            return self._entry_of_token(sources.tokens, token)
        if credentials.ticket is not None and credentials.bearer is None:
            return partial(self._redeem, credentials.ticket)
        if sources.authorize is not None and (credentials.bearer is not None or credentials.has_cookies):
            return partial(self._ask, forwarded(headers))
        if sources.anonymous is not None:
            return sources.anonymous
        if sources.authorize is not None and sources.tokens is None:
            return partial(self._ask, forwarded(headers))
        return None

    def _token_of(self, credentials: Credentials) -> str | None:
        """Return the token that a request shows, where tokens are verified here."""
        if self._sources.tokens is None:
            return None
        return credentials.bearer or (credentials.cookie if credentials.is_by_cookie else None)

    def _entry_of_token(self, verifier: TokenVerifier, token: str) -> Grant | Unauthenticated | FindGrant:
        """Return the grant of a token, or how it is found out where that takes more than a calculation."""
        try:
            grant = verifier.verify(token)
        except UnknownKey as error:
            return error if self._sources.jwks is None else partial(self._verify_with_new_keys, verifier, token)
        except Unauthenticated as error:
            return error
        if not self._feed.loaded.is_set():
            return partial(self._unless_revoked, grant)
        return _REVOKED if self._revocations.covers(grant) else grant

    async def grant_of_token(self, token: str) -> Grant:
        """See `Authenticator.grant_of_token`. An API key is taken for a token too."""
        entry = self._entry_of_message(self._sources.tokens, token)
        if isinstance(entry, Unauthenticated):
            raise entry
        return entry if isinstance(entry, Grant) else await entry()

    def connection_entry(self, token: str) -> Grant | Unauthenticated | FindGrant:
        """See `Authenticator.connection_entry`."""
        return self._entry_of_message(self._sources.connection_tokens, token)

    def _entry_of_message(self, verifier: TokenVerifier | None, token: str) -> Grant | Unauthenticated | FindGrant:
        """Return what a token amounts to that came in a message."""
        sources = self._sources
        if token.startswith(PREFIX):
            return sources.api_keys.find(token) or _UNKNOWN_API_KEY
        if verifier is not None:
            return self._entry_of_token(verifier, token)
        if sources.authorize is None:
            return _NO_TOKENS
        return partial(self._ask_about, token)

    async def _verify_with_new_keys(self, verifier: TokenVerifier, token: str) -> Grant:
        assert self._sources.jwks is not None
        await self._sources.jwks.refresh()
        return await self._unless_revoked(verifier.verify(token))

    async def _redeem(self, ticket: str) -> Grant:
        grant = await self._sources.tickets.redeem(ticket)
        if grant.expires_at is not None and grant.expires_at <= time():
            raise Unauthenticated("token_expired", "the ticket's token has expired", Close.TOKEN_EXPIRED)
        return await self._unless_revoked(grant)

    async def _ask_about(self, token: str) -> Grant:
        return await self._ask({"authorization": f"Bearer {_header_text(token)}"})

    async def _ask(self, headers: Mapping[str, str]) -> Grant:
        assert self._sources.authorize is not None
        return await self._unless_revoked(await self._sources.authorize.grant_of(headers))

    async def _unless_revoked(self, grant: Grant) -> Grant:
        """Return a grant unless it is revoked. Until Redis was read once nobody knows; the caller limits the time."""
        await self._feed.loaded.wait()
        if self._revocations.covers(grant):
            raise _REVOKED
        return grant


def _header_text(token: str) -> str:
    """Return a token that can stand in a header.

    Raises:
        Unauthenticated: It cannot.
    """
    if not token.isascii() or not token.isprintable() or len(token) > 8192:
        raise Unauthenticated("bad_token", "the token has characters that no header can have", Close.INVALID_TOKEN)
    return token
