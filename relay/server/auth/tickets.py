"""Tickets: a grant for one connection, for browsers' `EventSource` and `WebSocket`, which can send no header to another site.

A ticket stands in a URL, and URLs end up in logs: it can be used once, within half a minute.
"""

import secrets
from hashlib import sha256
from typing import Any

import msgspec
from relay_wire import keys
from relay_wire.publications import ScriptCall
from relay_wire.scripts import Script

from relay.broker.contract import RunCalls
from relay.core.closecodes import Close
from relay.core.errors import BadGrant, BrokerError, Unauthenticated, Unverified
from relay.core.grant_claims import claims_of, read_claims
from relay.core.grants import Grant
from relay.core.json_errors import NOT_JSON

#: Seconds for which a ticket can be used.
LIFETIME = 30

#: Longest ticket that is looked up.
_MAX_LENGTH = 128

_ISSUE = Script.of("redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) return 1")
_REDEEM = Script.of(
    "local grant = redis.call('GET', KEYS[1]) if grant then redis.call('DEL', KEYS[1]) end return grant"
)


def _key(ticket: str) -> str:
    # Someone who can read Redis' keys cannot use the tickets.
    return keys.TICKET + sha256(ticket.encode("utf-8", "surrogatepass")).hexdigest()


class Tickets:
    """Tickets in Redis, so that every relay takes those of all.

    Args:
        run_calls: Runs scripts for clients.
    """

    def __init__(self, run_calls: RunCalls) -> None:
        self._run_calls = run_calls

    async def issue(self, grant: Grant) -> str:
        """Return a ticket for a grant.

        Raises:
            BrokerError: Redis cannot keep it.
        """
        ticket = secrets.token_urlsafe(32)
        await self._run(ScriptCall(_ISSUE, [_key(ticket)], [msgspec.json.encode(claims_of(grant)), LIFETIME * 1000]))
        return ticket

    async def redeem(self, ticket: str) -> Grant:
        """Return the grant of a ticket, which is used up by that.

        Raises:
            Unauthenticated: There is no such ticket, or not any more.
            Unverified: Redis cannot be asked.
        """
        unknown = Unauthenticated(
            "bad_ticket", "the ticket was used, or is too old; get another", Close.UNAUTHENTICATED
        )
        if len(ticket) > _MAX_LENGTH:
            raise unknown
        try:
            # The random text sets equal calls apart: two clients with one ticket must not share an answer.
            claims = await self._run(ScriptCall(_REDEEM, [_key(ticket)], [secrets.token_hex(8)]))
        except BrokerError:
            raise Unverified("Redis cannot be asked for the ticket now") from None
        if claims is None:
            raise unknown
        try:
            return read_claims(msgspec.json.decode(claims, type=dict[str, Any]))
        except (*NOT_JSON, BadGrant):
            raise unknown from None

    async def _run(self, call: ScriptCall) -> Any:
        (answer,) = await self._run_calls([call])
        if isinstance(answer, BrokerError):
            raise answer
        return answer
