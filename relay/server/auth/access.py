"""How an HTTP handler finds out what its client may do, and insists on it.

::

    grant = await access.of_request(request)
    if require(grant, Verb.WATCH, channel) is Decision.NEEDS_OWNER:
        require(grant, Verb.WATCH, channel, owner_that_was_read)

A task that does not exist has no owner, so a client that may not see a task gets the same answer whether it exists or not.
"""

from typing import Any, Protocol

from relay.core.errors import Forbidden
from relay.core.grants import Decision, Grant, Verb
from relay.server.auth.authenticator import Authenticator


class HasScope(Protocol):
    """A request of Quart."""

    scope: Any


def require(grant: Grant, verb: Verb, channel: str, owner: frozenset[str] | None = None) -> Decision:
    """Insist on a grant.

    Args:
        grant: The client's grant.
        verb: What it wants to do.
        channel: With which channel, by its name within Relay.
        owner: The owner of the task, empty where it has none or does not exist; None before that was read.

    Returns:
        ALLOWED, or NEEDS_OWNER when no owner was given: read it, and call again.

    Raises:
        Forbidden: The grant does not cover it.
    """
    decision = grant.decide(verb, channel, owner)
    if decision is Decision.DENIED:
        raise Forbidden
    return decision


class Access:
    """The grants of requests.

    Args:
        authenticator: Reads the credentials of requests.
    """

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def of_request(self, request: HasScope) -> Grant:
        """Return the grant of the client that sent a request.

        Raises:
            Unauthenticated: Its credentials do not hold, or it has none and needs some.
            BrokerUnavailable: The credentials cannot be checked now.
        """
        return await self._authenticator.grant_of(request.scope)
