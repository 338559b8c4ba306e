"""Admission: whether a client may connect now, and the start of its session. Every way in asks here."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import trio

from relay.config import Settings
from relay.core.closecodes import Close
from relay.metrics import Metrics
from relay.server.session_context import SessionContext

#: Request headers: names in any case.
Headers = Iterable[tuple[bytes, bytes]]


def header(headers: Headers, name: bytes) -> str | None:
    """Return a request header, the first one where there are several.

    Args:
        headers: The request's headers.
        name: The header's name in lower case.
    """
    return next((value.decode("latin1") for key, value in headers if key.lower() == name), None)


def peer_of(scope: Any) -> str:
    """Return the client's address of an ASGI scope, for logs."""
    client = scope.get("client")
    return f"{client[0]}:{client[1]}" if client else "unknown"


class Admission:
    """Decides who may connect, counts who may not, and starts sessions.

    Args:
        context: What the sessions share.
        metrics: Where refusals are counted.
        drain_when: Called with an event of the server, upon which the relay drains; see `relay.server.lifespan`.
    """

    def __init__(self, context: SessionContext, metrics: Metrics, drain_when: Callable[[Any], None]) -> None:
        self.context = context
        self.drain_when = drain_when
        self._metrics = metrics

    @property
    def settings(self) -> Settings:
        """The settings of the relay."""
        return self.context.settings

    @property
    def is_full(self) -> bool:
        """As many clients are connected as may be."""
        return self.context.registry.is_full

    def rejection_reason(self, headers: Headers) -> str | None:
        """Return why a client with these request headers may not connect, as a metrics label; None when it may.

        Whether the relay is full is not among the reasons: some ways in can say that better after the handshake.
        """
        if self.context.registry.is_draining:
            return "draining"
        allowed = self.settings.allowed_origins
        if "*" in allowed:
            return None
        origin = header(headers, b"origin")
        return None if origin is None or origin in allowed else "origin"

    def is_allowed(self, headers: Headers) -> bool:
        """Whether a client with these request headers may connect now."""
        return not self.is_full and self.rejection_reason(headers) is None

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
