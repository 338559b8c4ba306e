"""The bounds of a subscriber, and what it tells of its connection."""

import math
from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Times in seconds. Raises ValueError for what is not positive.

    connect_timeout:   from the first packet to the open WebSocket
    heartbeat:         silence after which the relay is asked whether it is there
    heartbeat_timeout: how long its answer, and the writing of a message, may take
    retry_base:        the first delay before a new connection, at most. It doubles with each try, and each is drawn at random
                       between nothing and that
    retry_cap:         the longest delay
    give_up_after:     seconds without a connection after which iterating raises RelayUnreachable
    max_waiting:       updates that wait for the consumer, and
    max_waiting_size:  the characters of their messages, beyond which the connection is not read
    max_message:       longest message of the relay, in characters
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
    """The connection came or went.

    detail:   in words
    retry_in: seconds until the next try; None when it came, and when it is not tried again
    """

    is_up: bool
    detail: str
    retry_in: float | None = None

    def __str__(self) -> str:
        return self.detail if self.retry_in is None else f"{self.detail}; trying again in {self.retry_in:.1f} s"
