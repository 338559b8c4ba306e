"""Admission: whether a client may connect now, and the start of its session. Every way in asks here."""

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from relay.config import Settings
from relay.core.closecodes import Close
from relay.metrics import Metrics
from relay.server.auth.authenticator import Entry
from relay.server.cors import CorsPolicy, Headers
from relay.server.session_context import SessionContext

#: HTTP statuses of requests that are refused for good. For any other reason it is 503: the client should try again.
REJECTION_STATUS = {"origin": 403, "host": 403, "cookie_origin": 403, "token_in_url": 400}


def peer_of(address: Any) -> str:
    """Return a client's address and port as one text, for logs; "unknown" when it has none, as on a Unix socket."""
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple | list) and len(address) >= 2 else "unknown"


def address_of(peer: str) -> str | None:
    """Return the address of what `peer_of` returned; None when there is none."""
    return peer.rpartition(":")[0] or None


class Admission:
    """Decides who may connect, counts who may not, and starts sessions.

    Args:
        context: What the sessions share.
        policy: Which pages may use the relay.
        metrics: Where refusals are counted.
        drain_when: Called with an event of the server, upon which the relay drains; see `relay.server.lifespan`.
    """

    def __init__(
        self, context: SessionContext, policy: CorsPolicy, metrics: Metrics, drain_when: Callable[[Any], None]
    ) -> None:
        self.context = context
        self.policy = policy
        self.drain_when = drain_when
        self._metrics = metrics

    @property
    def settings(self) -> Settings:
        """The settings of the relay."""
        return self.context.settings

    def is_full_for(self, address: str | None) -> bool:
        """Whether no client of this address may connect: there are too many of it, or in all.

        Args:
            address: The client's IP address; None when it has none, as on a Unix socket.
        """
        return self.context.registry.is_full_for(address)

    def rejection_reason(self, headers: Headers, query: bytes) -> str | None:
        """Return why a client with this request may not connect, as a metrics label; None when it may.

        Whether the relay is full is not among the reasons: some ways in can say that better after the handshake.
        """
        if self.context.registry.is_draining:
            return "draining"
        return self.policy.rejection_reason(headers) or self.context.authenticator.rejection_reason(headers, query)

    def is_allowed(self, headers: Headers, query: bytes, address: str | None) -> bool:
        """Whether a client with this request, of this address, may connect now."""
        return not self.is_full_for(address) and self.rejection_reason(headers, query) is None

    def entry(self, headers: Headers, query: bytes) -> Entry:
        """Return what the credentials of a request amount to. Call it once for a request, since a ticket is used up."""
        return self.context.authenticator.entry(headers, query)

    def count_rejection(self, reason: str) -> None:
        """Count a client that was not accepted."""
        self._metrics.connections_refused.labels(reason).inc()

    def count_full(self) -> None:
        """Count a client that was not accepted because the relay is full."""
        self.count_rejection(Close.FULL.label)

    def start(self, run: Callable[[], Awaitable[None]], abort: Callable[[], None]) -> None:
        """Run a session in the registry's nursery.

        Args:
            run: Serves the session.
            abort: Closes its connection; called when the relay has just stopped.
        """
        try:
            self.context.registry.start(run)
        except trio.RunFinishedError:
            abort()
