"""Whether to come back after a connection has ended, and when. Decisions only: nothing here waits."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from relay_client.subscribing.updates import RelayRefused, RelayUnreachable

#: Close codes after which nobody is to come back: docs/protocol.md has the table, relay/core/closecodes.py the registry.
FINAL_CLOSE_CODES = frozenset({1000, 1002, 1003, 1007, 1008, 1009})

#: HTTP answers to the handshake that may be others in a while, though they begin with 4. A relay that drains says 403.
_PASSING_STATUSES = frozenset({403, 408, 425, 429})

#: A connection that lasted this long counts as a good one: the next delay is the shortest again.
GOOD_SECONDS = 5.0


def full_jitter(attempt: int, base: float, cap: float, draw: Callable[[], float] = random.random) -> float:
    """Seconds to wait before the given attempt (from 0): at random between nothing and a step that doubles up to the cap."""
    return draw() * min(cap, base * 2.0 ** min(attempt, 32))


@dataclass(frozen=True, slots=True)
class Ended:
    """How a connection ended, or that there was none.

    why:        in words
    lasted:     seconds that it was open; None when it never was
    code:       the close code
    status:     the HTTP status of a handshake that was refused
    is_wrong:   the other side is not the one that was meant, by its certificate
    is_excused: we were closed for what was no fault of ours, whatever the close code says
    """

    why: str
    lasted: float | None = None
    code: int | None = None
    status: int | None = None
    is_wrong: bool = False
    is_excused: bool = False


class Reconnect:
    """Counts the attempts of one subscription.

    base, cap:     of the delays, in seconds
    give_up_after: seconds without a connection
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

    def delay_after(self, ended: Ended, now: float) -> float:
        """Seconds to wait before the next connection. Raises RelayRefused or RelayUnreachable where there is to be none."""
        if ended.lasted is not None:
            self._last_up = now
            self._was_up = True
            if ended.lasted >= GOOD_SECONDS:
                self._attempt = 0
        if ended.code in FINAL_CLOSE_CODES and not ended.is_excused:
            raise RelayRefused(f"the relay does not want us back: {ended.why}", ended.code)
        # An address that has worked is not wrong: whatever answers there now stands in for a relay that restarts.
        if not self._was_up:
            if ended.is_wrong:
                raise RelayRefused(ended.why)
            if ended.status is not None and 400 <= ended.status < 500 and ended.status not in _PASSING_STATUSES:
                raise RelayRefused(f"{ended.why}; is the URL that of a relay's /ws/tasks?", ended.status)
        left = math.inf if math.isinf(self._give_up_after) else self._last_up + self._give_up_after - now
        if left <= 0:
            raise RelayUnreachable(f"no connection for {self._give_up_after:g} s: {ended.why}")
        delay = full_jitter(self._attempt, self._base, self._cap, self._draw)
        self._attempt += 1
        return min(delay, left)
