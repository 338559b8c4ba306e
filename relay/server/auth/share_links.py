"""Share links: a grant that lets anyone who has the link watch one task, and nothing else."""

import secrets
from collections.abc import Callable, Mapping
from time import time
from typing import Any, NamedTuple

from relay.core.errors import Forbidden
from relay.core.grant_claims import claims_of
from relay.core.grants import Grant, Scope, SharedBy, Verb

#: Signs claims: returns a token.
SignToken = Callable[[Mapping[str, Any]], str]


class ShareLink(NamedTuple):
    """What a share link is made from.

    Attributes:
        token: The token, which stands behind the `#` of the link.
        grant: What it allows.
    """

    token: str
    grant: Grant


class SharedAlready(Forbidden):
    """A share link was used to make another one, which would be one more that somebody has to revoke."""

    code = "share_link"
    message = "a share link cannot make another one; pass this one on"


class ShareLinks:
    """Makes share links.

    Args:
        sign: Signs their tokens.
        max_ttl: Seconds for which one holds at most.
        common: Claims that the relay expects in tokens.
        now: The time, in seconds of the Unix epoch.
    """

    def __init__(
        self, sign: SignToken, max_ttl: float, common: Mapping[str, str], now: Callable[[], float] = time
    ) -> None:
        self._sign = sign
        self._max_ttl = max_ttl
        self._common = common
        self._now = now

    def make(self, task_id: str, grant: Grant, ttl: float | None = None) -> ShareLink:
        """Make a link to a task for a client that may watch it. It ends with the client's grant at the latest.

        Args:
            task_id: The task.
            grant: The client's grant.
            ttl: Seconds for which it is to hold, if not for as long as it may.

        Raises:
            SharedAlready: The grant is that of a share link.
        """
        if grant.shared_by is not None:
            raise SharedAlready
        now = self._now()
        ends = now + min(self._max_ttl, self._max_ttl if ttl is None else ttl)
        shared = Grant(
            scopes={Verb.WATCH: Scope(tasks=frozenset({task_id}))},
            issued_at=now,
            expires_at=ends if grant.expires_at is None else min(ends, grant.expires_at),
            token_id=secrets.token_urlsafe(12),
            shared_by=SharedBy(grant.subject, grant.token_id),
        )
        return ShareLink(self._sign({**self._common, **claims_of(shared)}), shared)
