"""Limits for what one client may send: budgets as token buckets, so that no client uses up the time of all others.

A client whose budget is low takes turns with others like it. One beyond its budget is slowed: it is not read until the budget
allows it, and TCP makes it wait. One that stays beyond it is dropped.
"""

from relay.core.closecodes import Close

#: Costs, in units: one turn of the event loop in which something of the client is read, one message or control frame, and one
#: byte. They stand in about the relation of the CPU time that each takes.
TURN_COST = 1.0
FRAME_COST = 1.0
BYTE_COST = 1 / 512

#: Units that a client may use at once, and each second on end: some 50 messages a second if each comes by itself.
BURST = 500.0
RATE = 100.0

#: Subscriptions with history that a client may begin each second on end. As many as it may have, it may begin at once.
SUBSCRIBE_RATE = 50.0

#: Seconds on end for which a client may be slowed before it is dropped.
MAX_SLOWED = 30.0


class TokenBucket:
    """Tokens that are used up at will and refilled at a steady rate.

    Attributes:
        tokens: Tokens left at the last `take`; negative if more were taken than there were.
    """

    __slots__ = ("_at", "_capacity", "_rate", "tokens")

    def __init__(self, capacity: float, rate: float) -> None:
        """Make a full bucket.

        Args:
            capacity: Tokens at most.
            rate: Tokens that are refilled each second.
        """
        self._capacity = capacity
        self._rate = rate
        self._at: float | None = None
        self.tokens = capacity

    def take(self, now: float, cost: float) -> float:
        """Take tokens, also those that are not there yet.

        Args:
            now: The monotonic time in seconds.
            cost: Tokens to take.

        Returns:
            Seconds to wait until nothing is owed any more; 0 if nothing is owed.
        """
        if self._at is not None:
            self.tokens = min(self._capacity, self.tokens + max(0.0, now - self._at) * self._rate)
        self._at = now
        self.tokens -= cost
        return max(0.0, -self.tokens / self._rate)

    def seconds_until(self, tokens: float) -> float:
        """Return the seconds from the last `take` until there are as many tokens; 0 if there are."""
        return max(0.0, (tokens - self.tokens) / self._rate)


class ClientBudget:
    """The budget of one client.

    =======  ==============================================  =======  ======================================
    state    event                                           next     result
    =======  ==============================================  =======  ======================================
    normal   charge within the budget                        normal   no delay
    normal   charge beyond it                                slowed   a delay
    slowed   charge, less than MAX_SLOWED after the first    slowed   a delay
    slowed   charge, with half of the budget back            normal   no delay
    slowed   charge, MAX_SLOWED after the first or later     dropped  the close code
    any      charge, a shared delay of MAX_SLOWED or more    dropped  the close code
    =======  ==============================================  =======  ======================================
    """

    __slots__ = ("_messages", "_slowed_since", "_subscriptions")

    def __init__(self, max_subscriptions: int) -> None:
        self._messages = TokenBucket(BURST, RATE)
        self._subscriptions = TokenBucket(max_subscriptions, SUBSCRIBE_RATE)
        self._slowed_since: float | None = None

    @property
    def is_low(self) -> bool:
        """The client has sent so much that it should take turns with others like it."""
        return self._messages.tokens < BURST / 2

    def charge(self, now: float, frames: int, size: int, shared_delay: float = 0.0) -> float | Close:
        """Charge what was read from the client in one turn.

        Args:
            now: The monotonic time in seconds.
            frames: Messages and control frames that came.
            size: Bytes that came.
            shared_delay: Seconds for which the client must not be read by a limit that it shares with others.

        Returns:
            Seconds for which the client must not be read, or the code to drop it with.
        """
        bucket = self._messages
        cost = TURN_COST + frames * FRAME_COST + size * BYTE_COST
        delay = bucket.take(now, cost)
        if bucket.tokens + cost >= BURST / 2:
            self._slowed_since = None
        if delay:
            if self._slowed_since is None:
                self._slowed_since = now
            elif now - self._slowed_since >= MAX_SLOWED:
                return Close.FLOODING
        return Close.FLOODING if shared_delay >= MAX_SLOWED else max(delay, shared_delay)

    @property
    def may_subscribe(self) -> bool:
        """A subscription that reads history may begin without a delay."""
        return self._subscriptions.tokens >= 1.0

    def charge_subscribe(self, now: float) -> float:
        """Charge a subscription that reads history.

        Args:
            now: The monotonic time in seconds.

        Returns:
            Seconds to wait before it begins.
        """
        return self._subscriptions.take(now, 1.0)
