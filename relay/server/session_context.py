"""The context that all sessions of a process share, made before the first of them and passed to each."""

from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import trio

from relay.config import Settings
from relay.core.client_directory import ClientDirectory
from relay.core.client_limits import ClientLimits, Limits
from relay.core.hub import Hub
from relay.core.owned_channels import OwnedChannels
from relay.core.recovery import Snapshot
from relay.core.revocations import Revocations
from relay.core.send_queue import QueueLimits
from relay.core.timer_wheel import TimerWheel
from relay.core.updates import Position
from relay.server.auth.authenticator import Authenticator
from relay.server.session_queries import ChannelServices
from relay.server.session_registry import SessionRegistry
from relay.server.socket_watch import SocketWatch
from relay.server.statistics import Statistics
from relay.server.turnstile import TurnLimit

#: Clients that resume without reading, in each turn of the event loop.
_RECOVERIES_AT_ONCE = 64


class Histories(Protocol):
    """The histories and states of channels that have a subscriber: `relay.broker.channel_subscriptions`."""

    def recent(self, channel: str, since: Position) -> Snapshot | None:
        """Return what came after a position, where that is known from a moment ago; else `resume` has to be awaited."""

    async def resume(self, channel: str, since: Position | None) -> Snapshot:
        """Read what came after a position, or return what was read for others a moment ago and was delivered since.

        Raises:
            BrokerError: It cannot be read.
        """

    async def read(self, channel: str, since: Position | None) -> Snapshot:
        """Read what came after a position, or the state without one, and the owner, as they are now.

        Raises:
            BrokerError: They cannot be read.
        """


class GrantTimer(Protocol):
    """A client's grant, which changes as time goes by."""

    def check_time(self, now: float) -> None:
        """Do what it is time for. `now` is in seconds of the Unix epoch."""


@dataclass(frozen=True, slots=True)
class SessionContext:
    """The surroundings of a session.

    Attributes:
        settings: The limits of a client.
        limits: The limits of a client's send queue.
        hub: Where a session subscribes.
        registry: Where a session registers while it lives.
        statistics: Counts what a session does.
        histories: Where what clients missed is read.
        authenticator: Finds out what a client may do.
        owned_channels: The tasks that sessions follow by their owners.
        revocations: The grants that no longer hold.
        services: What Redis does for sessions besides what they follow.
        directory: The clients that are known by an id.
        has_families: Tasks can be followed together with their children: Redis is a single server.
        grant_timers: When the sessions' grants are to be looked at.
        watch: Reports what clients send that have no task; None where each has one.
        turnstile: Lets one of the clients through, in each turn of the event loop, that send much or get a long history.
        recoveries: Lets some of the clients through, in each turn, that get what was read for others.
    """

    settings: Settings
    limits: QueueLimits
    hub: Hub
    registry: SessionRegistry
    statistics: Statistics
    histories: Histories
    authenticator: Authenticator
    owned_channels: OwnedChannels
    revocations: Revocations
    services: ChannelServices
    has_families: bool = True
    directory: ClientDirectory = field(default_factory=ClientDirectory)
    grant_timers: TimerWheel[GrantTimer] = field(default_factory=TimerWheel)
    watch: SocketWatch | None = None
    turnstile: trio.Lock = field(default_factory=trio.Lock)
    recoveries: TurnLimit = field(default_factory=partial(TurnLimit, _RECOVERIES_AT_ONCE))

    async def take_turn(self) -> None:
        """Wait for a turn among the clients that cause much work.

        One of them goes on in each turn of the event loop, so that all of them together delay nobody else.
        """
        async with self.turnstile:
            await trio.lowlevel.checkpoint()


def limits_of(settings: Settings) -> QueueLimits:
    """Return the limits of a client's send queue."""
    return QueueLimits(settings.coalesce_after, settings.queue_messages, settings.queue_bytes, settings.queue_max_age)


def client_limits_of(settings: Settings) -> ClientLimits:
    """Return the limits for clients of one address or one subject."""
    return ClientLimits(
        Limits(
            settings.max_clients_per_address,
            settings.connect_rate_per_address,
            settings.max_subscriptions_per_address,
            settings.message_rate_per_address,
        ),
        Limits(
            settings.max_clients_per_subject,
            settings.connect_rate_per_subject,
            settings.max_subscriptions_per_subject,
            settings.message_rate_per_subject,
        ),
    )
