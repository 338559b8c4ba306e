"""A relay that has started: the parts that routes and endpoints use. It exists only while all of them do."""

from dataclasses import dataclass

from relay.broker.client_publishes import ClientPublishes
from relay.broker.event_positions import EventPositions
from relay.broker.history_pages import HistoryPages
from relay.broker.nodes import Nodes
from relay.broker.publish_ingester import PublishIngester
from relay.broker.service import RedisBroker
from relay.broker.task_store import TaskStore
from relay.core.errors import BrokerUnavailable
from relay.server.admission import Admission
from relay.server.auth.access import Access
from relay.server.emulation import Emulation
from relay.server.heartbeat import Heartbeat
from relay.server.session_registry import SessionRegistry
from relay.server.status_reports import StatusReports


def unready_reason(registry: SessionRegistry, redis: RedisBroker) -> str | None:
    """Return why a load balancer should not send clients to a relay now; None when it may."""
    if registry.is_draining:
        return "draining"
    if not redis.alive:
        return "redis is not reachable"
    if redis.unready_reason is not None:
        return "redis does not take writes"
    if registry.is_full:
        return "full"
    return None


@dataclass(frozen=True, slots=True)
class RunningRelay:
    """One relay process between its start and its shutdown.

    Attributes:
        admission: The way in for clients.
        access: The grants of HTTP requests.
        redis: The connection to Redis.
        redis_url: Where Redis is, with its password.
        tasks: The tasks in Redis.
        history: Their histories, page by page.
        event_positions: The positions of updates that have an id of their publisher's.
        publishes: Publishes for clients.
        nodes: This relay among all on the same Redis.
        emulation: Clients whose messages come as requests.
        ingester: Persists plain publishes.
        heartbeat: Looks after the sessions, and reports their metrics.
        status: The status of all relays on the same Redis.
    """

    admission: Admission
    access: Access
    redis: RedisBroker
    redis_url: str
    tasks: TaskStore
    history: HistoryPages
    event_positions: EventPositions
    publishes: ClientPublishes
    nodes: Nodes
    emulation: Emulation
    ingester: PublishIngester
    heartbeat: Heartbeat
    status: StatusReports

    @property
    def unready_reason(self) -> str | None:
        """Why a load balancer should not send clients here now; None when it may."""
        return unready_reason(self.admission.context.registry, self.redis)


class RelayHandle:
    """The app's reference to its relay: empty before it has started and after it has stopped.

    Attributes:
        current: The running relay, or None.
    """

    def __init__(self) -> None:
        self.current: RunningRelay | None = None

    @property
    def running(self) -> RunningRelay:
        """The running relay.

        Raises:
            BrokerUnavailable: It has not started, or has stopped.
        """
        if self.current is None:
            raise BrokerUnavailable("the relay is starting")
        return self.current
