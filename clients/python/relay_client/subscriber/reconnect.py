"""Whether to reconnect after a connection has ended, and when. Decisions only: nothing here waits."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from relay_client.backoff import full_jitter
from relay_client.subscriber.errors import RelayRefused, RelayUnreachable

#: After these close codes a client stays away. They are the codes that relay/core/closecodes.py marks as final; a test compares
#: the two. Relay sends no other code to turn a client away, so any other one is a proxy's or a network's.
FINAL_CLOSE_CODES = frozenset({1002, 1003, 1007, 1008, 1009, 4403})

#: HTTP answers to the handshake that begin with 4 and yet are temporary. A relay that drains answers 403.
_TEMPORARY_STATUSES = frozenset({403, 408, 425, 429})

#: Longest time that a server may ask a client to wait, in seconds.
MAX_RETRY_AFTER = 60.0

#: A connection that lasted this many seconds counts as a good one: the next delay is the shortest again.
GOOD_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Disconnect:
    """How a connection ended, or that there was none.

    Attributes:
        why: The reason, for people.
        lasted: Seconds that it was open; None if it never was.
        code: The close code that the other side sent, or 1009 if its message exceeds our limit.
        status: The HTTP status of a rejected handshake.
        certificate_invalid: The other side has no valid certificate for the host.
        retry_after: Seconds for which the other side asks to wait.
    """

    why: str
    lasted: float | None = None
    code: int | None = None
    status: int | None = None
    certificate_invalid: bool = False
    retry_after: float = 0.0


class Reconnect:
    """The reconnect policy of one subscription.

    Args:
        base, cap: Bounds of the first and of the longest delay, in seconds.
        give_up_after: Seconds without a connection.
        now: The present time, in seconds of the clock that `delay_after` is given.
        draw: Random numbers from 0 to 1.
    """

    def __init__(
        self,
        base: float,
        cap: float,
        give_up_after: float,
        now: float,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._base = base
        self._cap = cap
        self._give_up_after = give_up_after
        self._draw = draw
        self._attempt = 0
        self._last_up = now
        self._was_up = False

    def delay_after(self, disconnect: Disconnect, now: float) -> float:
        """Return the seconds to wait before the next connection.

        Raises:
            RelayRefused: The relay does not want this client, or the URL is not that of a relay.
            RelayUnreachable: There was no connection for `give_up_after` seconds.
        """
        if disconnect.lasted is not None:
            self._last_up = now
            self._was_up = True
            if disconnect.lasted >= GOOD_SECONDS:
                self._attempt = 0
        if disconnect.code in FINAL_CLOSE_CODES:
            raise RelayRefused(f"the relay does not accept this client: {disconnect.why}", disconnect.code)
        # A URL that has worked is right: whatever answers there now stands in for a relay that restarts.
        if not self._was_up:
            if disconnect.certificate_invalid:
                raise RelayRefused(disconnect.why)
            status = disconnect.status
            if status is not None and 400 <= status < 500 and status not in _TEMPORARY_STATUSES:
                raise RelayRefused(f"{disconnect.why}; is the URL that of a relay's /ws/tasks?", status)
        left = math.inf if math.isinf(self._give_up_after) else self._last_up + self._give_up_after - now
        if left <= 0:
            raise RelayUnreachable(f"no connection for {self._give_up_after:g} s: {disconnect.why}")
        # Behind what the server asks for, which it may ask of many, each has a delay of its own.
        delay = min(disconnect.retry_after, MAX_RETRY_AFTER)
        delay += full_jitter(self._attempt, self._base, self._cap, self._draw)
        self._attempt += 1
        return min(delay, left)
