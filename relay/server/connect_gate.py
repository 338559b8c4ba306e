"""The gate through which clients come in: so many in each second, the next ones after a short wait, and the rest later."""

import trio

from relay.core.connect_pace import ConnectPace, ReturnSchedule
from relay.server.session_registry import SessionRegistry

#: Longest wait of a client whose handshake has come, in seconds. It is less than clients' own time-outs.
MAX_WAIT = 5.0

#: The metrics label of clients that are refused, as there are too many before them.
CONNECT_RATE = "connect_rate"


class ConnectGate:
    """Lets clients through in the order in which they come.

    A client for which there are too many before it is refused at once, with a time to return, rather than held until it
    gives up: its turn would be lost then.

    Args:
        rate: Clients in any second; 0 is no limit.
        max_wait: Longest wait of a client, in seconds.
        registry: Knows whether the relay drains.
        returns: When those come back that are refused.
    """

    def __init__(self, rate: float, max_wait: float, registry: SessionRegistry, returns: ReturnSchedule) -> None:
        self._pace = ConnectPace(rate) if rate else None
        self._max_wait = max_wait
        self._registry = registry
        self._returns = returns
        self._turn = trio.Lock()
        self._waiting = 0

    @property
    def has_limit(self) -> bool:
        """Clients may have to wait. If not, all may come in, and `enter` need not be called."""
        return self._pace is not None

    async def enter(self) -> float | None:
        """Wait for a turn, `max_wait` seconds at most, or until the relay drains. May be cancelled.

        Returns:
            None when the client may come in; otherwise the seconds after which it should try again.
        """
        pace = self._pace
        if pace is None:
            return None
        now = trio.current_time()
        wait = pace.seconds_until_next(now) + self._waiting / pace.steady_rate
        if wait > self._max_wait:
            # When half of those who wait now are in: not all at once, and before nobody waits any more.
            return self._returns.delay(now, wait - self._max_wait / 2)
        self._waiting += 1
        passed = False
        try:
            with trio.move_on_after(self._max_wait) as scope, self._registry.silent_connection(scope):
                async with self._turn:
                    await trio.sleep(pace.seconds_until_next(trio.current_time()))
                    pace.take(trio.current_time())
                    passed = True
        finally:
            self._waiting -= 1
        return None if passed else self._returns.delay(trio.current_time())
