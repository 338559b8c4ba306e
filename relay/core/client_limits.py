"""Limits for clients that belong together, by address or by subject: connections, connects, subscriptions and messages.

One address or one subject may have many connections, each within `relay.core.client_budget`. Here their sum is limited, so that
it leaves room for all others.
"""

from collections import OrderedDict
from dataclasses import dataclass

from relay.core.client_budget import MAX_SLOWED, TokenBucket

#: Seconds of its rate that a key may use up at once.
BURST_SECONDS = 10.0

#: Keys without a connection that are remembered, for what their rates still owe; the least recently seen goes first.
MAX_IDLE_KEYS = 10_000


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one key; 0 is no limit.

    Attributes:
        connections: Connections at a time.
        connect_rate: Connects per second on end.
        subscriptions: Subscriptions of all connections together.
        message_rate: Messages per second on end, of all connections together.
    """

    connections: int = 0
    connect_rate: float = 0.0
    subscriptions: int = 0
    message_rate: float = 0.0

    @property
    def is_unlimited(self) -> bool:
        """No limit is set."""
        return not (self.connections or self.connect_rate or self.subscriptions or self.message_rate)


def _bucket(rate: float) -> TokenBucket | None:
    return TokenBucket(max(1.0, rate * BURST_SECONDS), rate) if rate else None


class Usage:
    """What all connections of one key use.

    Attributes:
        connections: Connections that are open.
        subscriptions: Their subscriptions.
    """

    __slots__ = ("_attempts", "_limits", "_messages", "connections", "subscriptions")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._attempts = _bucket(limits.connect_rate)
        self._messages = _bucket(limits.message_rate)
        self.connections = 0
        self.subscriptions = 0

    @property
    def is_full(self) -> bool:
        """There are as many connections as there may be."""
        return 0 < self._limits.connections <= self.connections

    def retry_after(self, now: float) -> float | None:
        """Return the seconds after which a connect may succeed; None when it may now.

        Args:
            now: The monotonic time in seconds.
        """
        if self.is_full:
            return BURST_SECONDS
        return _missing(self._attempts, now)

    def on_attempt(self, now: float) -> None:
        """Count an attempt to connect that was not refused by `retry_after`.

        One that was costs nothing, or a key that insists would never get in again.
        """
        if self._attempts is not None:
            self._attempts.take(now, 1.0)

    def has_room(self, subscriptions: int) -> bool:
        """Whether as many more subscriptions are allowed."""
        limit = self._limits.subscriptions
        return not limit or self.subscriptions + subscriptions <= limit

    def charge(self, now: float, messages: int) -> float:
        """Charge messages that have come; returns the seconds for which the client that sent them must not be read.

        What is owed is bounded, so that one client which floods does not lock out the others of its key for long.
        """
        bucket = self._messages
        if bucket is None:
            return 0.0
        delay = bucket.take(now, messages)
        bucket.tokens = max(bucket.tokens, -MAX_SLOWED * self._limits.message_rate)
        return delay

    def charge_request(self, now: float, messages: int = 1) -> float | None:
        """Charge a request, which counts as one message, or as many as it has.

        Returns:
            Seconds to wait, uncharged, if it must be refused. One that may come may also use up more than there is left, and
            those after it wait for longer.
        """
        missing = _missing(self._messages, now)
        if missing is None and self._messages is not None:
            self._messages.take(now, float(messages))
        return missing


def _missing(bucket: TokenBucket | None, now: float) -> float | None:
    """Return the seconds until a bucket has a whole token; None if it has."""
    if bucket is None:
        return None
    bucket.take(now, 0.0)
    return bucket.seconds_until(1.0) or None


class UsageTable:
    """The usage of all keys of one kind. Its size is bounded by the number of connections and by `MAX_IDLE_KEYS`.

    =======  =====================================  =======  ======================================
    state    event                                  next     effect
    =======  =====================================  =======  ======================================
    unknown  attempt or request                     idle     a fresh usage
    idle     join                                   in use   with what its rates still owe
    in use   join                                   in use   one connection more
    in use   leave, other connections are left      in use   one connection less
    in use   leave, none is left                    idle     remembered for what its rates owe
    idle     `MAX_IDLE_KEYS` others were idle later unknown  forgotten
    =======  =====================================  =======  ======================================
    """

    def __init__(self, limits: Limits, max_idle: int = MAX_IDLE_KEYS) -> None:
        """Make an empty table.

        Args:
            limits: Limits of each key.
            max_idle: Keys without a connection that are remembered.
        """
        self.limits = limits
        #: Some limit is set: else nothing is counted.
        self.is_limited = not limits.is_unlimited
        self._max_idle = max_idle
        self._in_use: dict[str, Usage] = {}
        self._idle: OrderedDict[str, Usage] = OrderedDict()

    def __len__(self) -> int:
        return len(self._in_use) + len(self._idle)

    def find(self, key: str | None) -> Usage | None:
        """Return the usage of a key, one that begins if it has none; None for no key, and when there are no limits."""
        if key is None or not self.is_limited:
            return None
        usage = self._in_use.get(key)
        if usage is None:
            usage = self._idle.get(key)
            if usage is None:
                usage = Usage(self.limits)
            self._keep_idle(key, usage)
        return usage

    def _keep_idle(self, key: str, usage: Usage) -> None:
        self._idle[key] = usage
        self._idle.move_to_end(key)
        if len(self._idle) > self._max_idle:
            self._idle.popitem(last=False)

    def join(self, key: str) -> Usage:
        """Count a connection; returns what it shares with others of its key."""
        usage = self._in_use.get(key)
        if usage is None:
            usage = self._in_use[key] = self._idle.pop(key) if key in self._idle else Usage(self.limits)
        usage.connections += 1
        return usage

    def leave(self, key: str) -> None:
        """Count a connection that has ended."""
        usage = self._in_use[key]
        usage.connections -= 1
        if not usage.connections:
            self._keep_idle(key, self._in_use.pop(key))


class ClientShare:
    """One client's share of the limits of its address and of its subject."""

    __slots__ = ("_parts", "_subscriptions")

    def __init__(self) -> None:
        self._parts: dict[UsageTable, tuple[str, Usage]] = {}
        self._subscriptions = 0

    def join(self, table: UsageTable, key: str | None) -> None:
        """Take part in the limits of a key, in place of another key of the same kind. That it may is not checked here."""
        if table in self._parts:
            self._leave(table)
        if key is not None and table.is_limited:
            usage = table.join(key)
            usage.subscriptions += self._subscriptions
            self._parts[table] = key, usage

    def is_of(self, table: UsageTable, key: str | None) -> bool:
        """Whether the client takes part in the limits of this key."""
        part = self._parts.get(table)
        return part is not None and part[0] == key

    def _leave(self, table: UsageTable) -> None:
        key, usage = self._parts.pop(table)
        usage.subscriptions -= self._subscriptions
        table.leave(key)

    def leave(self) -> None:
        """Leave all limits: the connection has ended."""
        for table in list(self._parts):
            self._leave(table)

    def has_room(self, subscriptions: int) -> bool:
        """Whether the client may have this many subscriptions in all, by what others of its address and subject have."""
        more = subscriptions - self._subscriptions
        return more <= 0 or all(usage.has_room(more) for _, usage in self._parts.values())

    def resize(self, subscriptions: int) -> None:
        """Note how many subscriptions the client has."""
        for _, usage in self._parts.values():
            usage.subscriptions += subscriptions - self._subscriptions
        self._subscriptions = subscriptions

    def charge(self, now: float, messages: int) -> float:
        """Charge messages of the client.

        Args:
            now: The monotonic time in seconds.
            messages: Messages that came.

        Returns:
            Seconds for which the client must not be read.
        """
        return max((usage.charge(now, messages) for _, usage in self._parts.values()), default=0.0)


#: The share of all clients when there are no limits. It never has a part.
_UNLIMITED = ClientShare()


class ClientLimits:
    """The limits of all clients of a process.

    Attributes:
        by_address: Usage by IP address, or by network; see `relay.core.client_address`.
        by_subject: Usage by the subject of grants.
    """

    def __init__(self, per_address: Limits, per_subject: Limits) -> None:
        self.by_address = UsageTable(per_address)
        self.by_subject = UsageTable(per_subject)
        self._are_unlimited = per_address.is_unlimited and per_subject.is_unlimited

    def join_subject(self, share: ClientShare, subject: str | None, now: float) -> bool:
        """Have a client take part in the limits of its subject, which counts as a connect unless it has that subject already.

        Args:
            share: The client's share.
            subject: Whom its grant is for; None when it does not say.
            now: The monotonic time in seconds.

        Returns:
            Whether the subject may have one more; if not, nothing is changed.
        """
        if self._are_unlimited or share.is_of(self.by_subject, subject):
            return True
        usage = self.by_subject.find(subject)
        if usage is not None:
            if usage.retry_after(now) is not None:
                return False
            usage.on_attempt(now)
        share.join(self.by_subject, subject)
        return True

    def new_share(self) -> ClientShare:
        """Return the share of a client that connects."""
        return _UNLIMITED if self._are_unlimited else ClientShare()
