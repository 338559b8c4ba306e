"""What this relay process reports of itself to operators, on whichever relay they ask."""

from collections.abc import Callable
from dataclasses import dataclass
from heapq import nlargest
from itertools import islice
from os import getpid
from socket import gethostname
from time import monotonic

from relay import __version__
from relay.core.client_directory import ClientDirectory
from relay.core.hub import Hub
from relay.core.malformed_publishes import MalformedPublishes
from relay.core.send_queue import QueueReport
from relay.core.status import MAX_SLOWEST, Connections, Relay, SlowClient
from relay.server.activity import Activity
from relay.server.session_registry import RegisteredSession, SessionRegistry
from relay.server.stall_detection import StallCount
from relay.server.statistics import Statistics

#: Clients that are looked at for the slowest ones: those that have been behind the longest.
_SCAN_COUNT = 1024


@dataclass(frozen=True, slots=True)
class RelayReports:
    """Reports on this process. One report costs no more than a look at the clients that have been behind the longest.

    Attributes:
        hub: Where its clients subscribe.
        registry: Its clients.
        directory: Those of them that have an id.
        statistics: What their sessions did.
        activity: Its rates and lags.
        malformed: Malformed publishes that it received.
        stalls: Tasks that it has marked as stalled.
        unready_reason: Returns why it takes no clients now.
        read_redis: Returns whether Redis is connected, and how often the connection was lost.
        started: When it started, in seconds of the monotonic clock.
    """

    hub: Hub
    registry: SessionRegistry
    directory: ClientDirectory
    statistics: Statistics
    activity: Activity
    malformed: MalformedPublishes
    stalls: StallCount
    unready_reason: Callable[[], str | None]
    read_redis: Callable[[], tuple[bool, int]]
    started: float

    @property
    def name(self) -> str:
        """The host and the process id."""
        return f"{gethostname()}_{getpid()}"

    def report(self, uid: str) -> Relay:
        """Return the report.

        Args:
            uid: This relay's name among the others.
        """
        now = monotonic()
        updates, plain, deliveries, coalesced = self.activity.rates
        is_connected, reconnects = self.read_redis()
        backlogged = [(session.report(now), session) for session in islice(self.registry.backlogged, _SCAN_COUNT)]
        slowest = nlargest(MAX_SLOWEST, backlogged, key=lambda each: (each[0].limit_used, each[0].age))
        return Relay(
            id=uid,
            name=self.name,
            version=__version__,
            status=self.unready_reason() or "ready",
            uptime=now - self.started,
            clients=len(self.registry),
            users=self.directory.user_count,
            subscriptions=self.hub.subscriptions,
            channels=len(self.hub.channels),
            connections=[
                Connections(way, transport, count)
                for (way, transport), count in sorted(self.registry.connections.items())
                if count
            ],
            updates_per_second=updates,
            plain_per_second=plain,
            deliveries_per_second=deliveries,
            coalesced_per_second=coalesced,
            delivery_lag=self.activity.delivery_lag,
            event_loop_lag=self.activity.event_loop_lag,
            waiting_clients=len(self.registry.backlogged),
            waiting_messages=sum(waiting.messages for waiting, _ in backlogged),
            dropped=dict(self.statistics.dropped),
            stalls=self.stalls.marked,
            redis_connected=is_connected,
            redis_reconnects=reconnects,
            slowest=[_slow_client(waiting, session) for waiting, session in slowest],
            malformed=self.malformed.report(now),
        )


def _slow_client(waiting: QueueReport, session: RegisteredSession) -> SlowClient:
    return SlowClient(
        client=str(session.client),
        way=session.way,
        transport=session.transport_name,
        messages=waiting.messages,
        bytes=waiting.size,
        age=waiting.age,
        limit_used=waiting.limit_used,
    )
