"""What all sessions of a process share, made before the first of them and passed to each."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from relay.config import Settings
from relay.core.hub import Hub
from relay.core.outbox import Bounds
from relay.core.recovery import Joining, Snapshot
from relay.server.session_registry import SessionRegistry
from relay.server.statistics import Statistics


@dataclass(frozen=True, slots=True)
class SessionContext:
    """The surroundings of a session.

    Attributes:
        settings: The limits of a client.
        bounds: The limits of a client's send queue.
        hub: Where a session subscribes.
        registry: Where a session registers while it lives.
        statistics: Counts what a session does.
        load_history: Reads what a new subscription missed; see `relay.server.history.HistoryLoader.load`.
    """

    settings: Settings
    bounds: Bounds
    hub: Hub
    registry: SessionRegistry
    statistics: Statistics
    load_history: Callable[[str, Joining], Awaitable[Snapshot]]


def bounds_of(settings: Settings) -> Bounds:
    """The limits of a client's send queue."""
    return Bounds(settings.coalesce_after, settings.queue_messages, settings.queue_bytes, settings.queue_max_age)
