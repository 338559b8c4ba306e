"""The limits of a subscriber, and what it reports about its connection."""

import math
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long a subscriber waits, and how much it holds. Times are in seconds.

    Attributes:
        connect_timeout: From the first packet to the open WebSocket.
        heartbeat: After this long without a byte from the relay, it is sent a ping.
        heartbeat_timeout: How long the answer to a ping, and sending a message, may take.
        retry_base: Upper bound of the first delay before reconnecting. The bound doubles with each attempt; the delay is drawn
            uniformly between 0 and the bound.
        retry_cap: Upper bound of every delay.
        give_up_after: After this long without a connection iterating raises `RelayUnreachable`. Never, by default.
        max_waiting: Updates that wait for the consumer. When so many wait, the connection is not read.
        max_waiting_size: Characters of the waiting messages, likewise.
        max_message: Longest message that is accepted from the relay, in characters.

    Raises:
        ValueError: One of them is not positive.
    """

    connect_timeout: float = 10.0
    heartbeat: float = 25.0
    heartbeat_timeout: float = 10.0
    retry_base: float = 0.5
    retry_cap: float = 20.0
    give_up_after: float = math.inf
    max_waiting: int = 1000
    max_waiting_size: int = 1 << 20
    max_message: int = 16 << 20

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise ValueError(f"{field.name} must be positive, not {getattr(self, field.name)!r}")


@dataclass(frozen=True, slots=True)
class ConnectionChange:
    """The connection was opened or lost; or it is open, and the relay has lost or regained Redis.

    Attributes:
        is_up: Whether it is open now.
        detail: The reason, for people.
        is_redis_available: Whether the relay can serve subscriptions, as far as it has answered.
        retry_in: Seconds until the next attempt. None if the connection is open, or if there will be no further attempt.
    """

    is_up: bool
    detail: str
    retry_in: float | None = None
    is_redis_available: bool = True

    def __str__(self) -> str:
        return self.detail if self.retry_in is None else f"{self.detail}; trying again in {self.retry_in:.1f} s"
