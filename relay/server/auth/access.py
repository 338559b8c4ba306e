"""How an HTTP handler finds out what its client may do, and insists on it.

::

    grant = await access.grant_of_request(request)
    if require(grant, Verb.WATCH, channel) is Decision.NEEDS_OWNER:
        require(grant, Verb.WATCH, channel, owner_that_was_read)

A task that does not exist has no owner, so a client that may not see a task gets the same answer whether it exists or not.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import trio
from relay_wire.channels import TASK_PREFIX

from relay.core.closecodes import Close
from relay.core.errors import BadMessage, Forbidden, ForeignOrigin, Unauthenticated, Unverified
from relay.core.families import watched_task
from relay.core.grants import EVERYTHING, Decision, Grant, Verb
from relay.server.auth.authenticator import Authenticator, Entry
from relay.server.auth.share_links import ShareLinks
from relay.server.auth.tickets import Tickets
from relay.server.operator_paths import is_on_admin

#: What a client is answered that has a token in its URL.
TOKEN_IN_URL = (
    "a token must not be in a URL, where it ends up in logs: send it as Authorization: Bearer, or get a ticket"
)

#: Seconds within which the credentials of an HTTP request must be checked. A request has one of few turns meanwhile.
_CHECK_TIMEOUT = 3.0


#: Reads who owns each of some tasks, by their ids; None, or nobody, for those that do not exist. Raises BrokerError.
ReadOwners = Callable[[Sequence[str]], Awaitable[Mapping[str, frozenset[str] | None]]]


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


async def require_all(grant: Grant, verb: Verb, channels: Sequence[str], read_owners: ReadOwners) -> None:
    """Insist on a grant for several channels, whether anyone follows them or not. Nothing is written.

    Args:
        grant: The client's grant.
        verb: What it wants to do.
        channels: With which channels.
        read_owners: Reads the owners that decide, in one round trip; not called where no owner does.

    Raises:
        Forbidden: The grant does not cover one of them.
        BrokerError: The owners cannot be read.
    """
    tasks = {
        channel: watched_task(channel)[len(TASK_PREFIX) :]
        for channel in channels
        if require(grant, verb, channel) is Decision.NEEDS_OWNER
    }
    if tasks:
        owners = await read_owners(list(tasks.values()))
        for channel, task_id in tasks.items():
            require(grant, verb, channel, owners[task_id] or frozenset())


async def grant_of(entry: Entry, timeout: float = _CHECK_TIMEOUT) -> Grant:
    """Return the grant of a client that has one chance to show one: a request that is not a WebSocket's.

    Args:
        entry: Its credentials.
        timeout: Seconds within which they must be checked.

    Raises:
        Unauthenticated: Its credentials do not hold, or it has none.
        Unverified: They cannot be checked now.
    """
    if entry is None:
        message = "send a token: Authorization: Bearer ..."
        raise Unauthenticated("unauthenticated", message, Close.UNAUTHENTICATED)
    if isinstance(entry, Unauthenticated):
        raise entry
    if isinstance(entry, Grant):
        return entry
    with trio.move_on_after(timeout):
        return await entry()
    raise Unverified("the credentials could not be checked in time")


def known_grant(authenticator: Authenticator, entry: Entry, token: str | None) -> Grant | Unauthenticated | None:
    """Return what `grant_or_refusal` does if that takes no waiting; else None. For the arguments see there."""
    shown = entry if token is None else authenticator.connection_entry(token)
    return shown if isinstance(shown, Grant | Unauthenticated) else None


async def grant_or_refusal(
    authenticator: Authenticator, entry: Entry, token: str | None, timeout: float
) -> Grant | Unauthenticated | Unverified:
    """Return the grant of a token, or without one that of the request; or why there is none.

    Args:
        authenticator: Verifies tokens.
        entry: What the request showed.
        token: A token, which may have Centrifugo's claims.
        timeout: Seconds within which a token must be checked.
    """
    try:
        if token is None:
            return await grant_of(entry)
        return await grant_of(authenticator.connection_entry(token), timeout)
    except (Unauthenticated, Unverified) as error:
        return error


class Access:
    """The grants of requests.

    Args:
        authenticator: Reads the credentials of requests.
        tickets: Tickets for clients that cannot show credentials when they connect.
        share_links: Makes share links; None where there is no key to sign them with, or they are turned off.
    """

    def __init__(self, authenticator: Authenticator, tickets: Tickets, share_links: ShareLinks | None = None) -> None:
        self._authenticator = authenticator
        self.tickets = tickets
        self.share_links = share_links

    async def grant_of_token(self, token: str) -> Grant:
        """Return the grant of a token that is the subject of a request; raises as `Authenticator.grant_of_token`."""
        with trio.move_on_after(_CHECK_TIMEOUT):
            return await self._authenticator.grant_of_token(token)
        raise Unverified("the token could not be checked in time")

    async def grant_of_request(self, request: HasScope) -> Grant:
        """Return the grant of the client that sent a request. On the operators' listener it is everything.

        Raises:
            Unauthenticated: Its credentials do not hold, or it has none and needs some.
            Unverified: The credentials cannot be checked now.
            Forbidden: A page of another origin sends the visitor's cookies.
            BadMessage: There is a token in the URL.
        """
        scope = request.scope
        if is_on_admin(scope):
            return EVERYTHING
        reason = self._authenticator.refusal_reason(scope["headers"], scope["query_string"])
        if reason == "token_in_url":
            raise BadMessage(reason, TOKEN_IN_URL)
        if reason is not None:
            raise ForeignOrigin
        return await grant_of(self._authenticator.entry(scope["headers"], scope["query_string"]))
