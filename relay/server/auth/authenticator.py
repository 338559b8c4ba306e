"""From what a client shows to its grant: the contract, and the authenticator of a relay that asks for nothing."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from relay.core.errors import Unauthenticated
from relay.core.grants import EVERYTHING, Grant
from relay.server.cors import Headers

#: Finds out a grant that is not known at once. Raises Unauthenticated or Unverified. May be cancelled.
FindGrant = Callable[[], Awaitable[Grant]]

#: What a request's credentials amount to: a grant, no grant, a grant that has to be found out first; None without credentials.
Entry = Grant | Unauthenticated | FindGrant | None


class Authenticator(Protocol):
    """Reads the credentials of clients. Nothing that it raises, logs or counts has any of them in it."""

    def refusal_reason(self, headers: Headers, query: bytes) -> str | None:
        """Return why a request is refused, whatever it asks for, as a metrics label; None when it is not.

        It is "token_in_url" for a token in the query, where it would end up in logs and histories, or "cookie_origin" for a
        cookie that a page of another origin sends.
        """

    def entry(self, headers: Headers, query: bytes) -> Entry:
        """Return what the credentials of a request amount to. Call it once for a request, since a ticket is used up."""

    async def grant_of_token(self, token: str) -> Grant:
        """Return the grant that a client shows as a message.

        Raises:
            Unauthenticated: The token does not hold.
            Unverified: It cannot be checked now.
        """

    def connection_entry(self, token: str) -> Grant | Unauthenticated | FindGrant:
        """Return what a token with Centrifugo's claims amounts to, of a connection or of a subscription.

        Where it has those, its grant is a `relay.core.connection_claims.ConnectionGrant`.
        """


class OpenAuthenticator:
    """Grants everything to everyone: a relay for which no grants are configured."""

    def refusal_reason(self, headers: Headers, query: bytes) -> str | None:  # noqa: ARG002 - the contract's
        return None

    def entry(self, headers: Headers, query: bytes) -> Entry:  # noqa: ARG002
        return EVERYTHING

    async def grant_of_token(self, token: str) -> Grant:  # noqa: ARG002
        return EVERYTHING

    def connection_entry(self, token: str) -> Grant | Unauthenticated | FindGrant:  # noqa: ARG002
        return EVERYTHING
