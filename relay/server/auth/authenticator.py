"""From a request to the grant of its client."""

from typing import Any, Protocol

from relay.core.grants import EVERYTHING, Grant


class Authenticator(Protocol):
    """Reads the credentials of requests."""

    async def grant_of(self, scope: Any) -> Grant:
        """Return the grant of the client that sent a request.

        Args:
            scope: The request's ASGI scope.

        Raises:
            Unauthenticated: Its credentials do not hold, or it has none and needs some.
            BrokerUnavailable: The credentials cannot be checked now.
        """


class OpenAuthenticator:
    """Grants everything to everyone: a relay for which no grants are configured."""

    async def grant_of(self, scope: Any) -> Grant:  # noqa: ARG002 - the contract's
        return EVERYTHING
