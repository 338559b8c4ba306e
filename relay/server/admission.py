"""Admission: whether a client may connect now, and the start of its session. Every way in asks here."""

from collections.abc import Awaitable, Callable
from math import ceil
from time import monotonic
from typing import Any

import trio

from relay.config import Settings
from relay.core.client_address import ClientAddress, TrustedProxies
from relay.core.closecodes import Close
from relay.core.grants import Grant
from relay.metrics import Metrics
from relay.server.auth.authenticator import Entry
from relay.server.connect_gate import ConnectGate
from relay.server.cors import CorsPolicy, Headers
from relay.server.session_context import SessionContext

#: The metrics label of clients that are refused for a limit of their address or subject.
CLIENT_LIMIT = Close.CLIENT_LIMIT.label

#: HTTP statuses of requests that are refused for good. For any other reason it is 503: the client should try again.
REFUSAL_STATUS = {"origin": 403, "host": 403, "cookie_origin": 403, "token_in_url": 400}


def whole_seconds(seconds: float) -> int:
    """Return the value of Retry-After for a client that should wait at least this long."""
    return max(1, ceil(seconds))


class Admission:
    """Decides who may connect, counts who may not, and starts sessions.

    Args:
        context: What the sessions share.
        policy: Which pages may use the relay.
        proxies: Whose word on clients' addresses is taken.
        metrics: Where refusals are counted.
        gate: Through which clients come in one after the other.
        drain_when: Called with an event of the server, upon which the relay drains; see `relay.server.lifespan`.
    """

    def __init__(
        self,
        context: SessionContext,
        policy: CorsPolicy,
        proxies: TrustedProxies,
        metrics: Metrics,
        gate: ConnectGate,
        drain_when: Callable[[Any], None],
    ) -> None:
        self.context = context
        self.policy = policy
        self.proxies = proxies
        self.gate = gate
        self.drain_when = drain_when
        self._metrics = metrics

    @property
    def settings(self) -> Settings:
        """The settings of the relay."""
        return self.context.settings

    @property
    def is_full(self) -> bool:
        """The relay has as many clients as it may have."""
        return self.context.registry.is_full

    def retry_after(self, client: ClientAddress) -> float | None:
        """Return the seconds after which a client of this address may connect; None when it may now."""
        usage = self.context.registry.client_limits.by_address.find(client.network)
        return None if usage is None else usage.retry_after(monotonic())

    def limit_connect(self, client: ClientAddress) -> float | None:
        """Count an attempt to connect, which may still be refused for other reasons.

        Returns:
            Seconds after which to try again, if the client's address has too many; such an attempt is not counted.
        """
        retry_after = self.retry_after(client)
        usage = self.context.registry.client_limits.by_address.find(client.network)
        if retry_after is None and usage is not None:
            usage.on_attempt(monotonic())
        return retry_after

    def limit_request(self, client: ClientAddress) -> float | None:
        """Count an HTTP request, as a message of its address.

        Returns:
            Seconds after which to try again, if it is one too many; it is not counted then.
        """
        usage = self.context.registry.client_limits.by_address.find(client.network)
        return None if usage is None else usage.charge_request(monotonic())

    def limit_subject(self, grant: Grant, updates: int) -> float | None:
        """Count the updates of an HTTP request, as messages of its grant's subject; returns as `limit_request`."""
        usage = self.context.registry.client_limits.by_subject.find(grant.subject)
        return None if usage is None else usage.charge_request(monotonic(), updates)

    def has_too_many(self, client: ClientAddress) -> bool:
        """Whether there are as many clients of this address as there may be."""
        usage = self.context.registry.client_limits.by_address.find(client.network)
        return usage is not None and usage.is_full

    def has_room(self, client: ClientAddress, grant: Grant, subscriptions: int) -> bool:
        """Whether clients of this address, and those of this subject, may have as many more subscriptions together."""
        limits = self.context.registry.client_limits
        usages = limits.by_address.find(client.network), limits.by_subject.find(grant.subject)
        return all(usage is None or usage.has_room(subscriptions) for usage in usages)

    def refusal_reason(self, headers: Headers, query: bytes) -> str | None:
        """Return why a client with this request may not connect, as a metrics label; None when it may.

        Whether the relay is full is not among the reasons: some ways in can say that better after the handshake.
        """
        if self.context.registry.is_draining:
            return "draining"
        return self.policy.refusal_reason(headers) or self.context.authenticator.refusal_reason(headers, query)

    def is_allowed(self, headers: Headers, query: bytes) -> bool:
        """Whether a client with this request may connect now, as far as its address may."""
        return not self.is_full and self.refusal_reason(headers, query) is None

    def entry(self, headers: Headers, query: bytes) -> Entry:
        """Return what the credentials of a request amount to. Call it once for a request, since a ticket is used up."""
        return self.context.authenticator.entry(headers, query)

    def retry_after_for(self, entry: Entry) -> float | None:
        """Return the seconds after which a client of this grant's subject may connect; None when it may now."""
        usage = self.context.registry.client_limits.by_subject.find(entry.subject if isinstance(entry, Grant) else None)
        return None if usage is None else usage.retry_after(monotonic())

    def count_refusal(self, reason: str) -> None:
        """Count a client that was not accepted."""
        self._metrics.connections_refused.labels(reason).inc()

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
