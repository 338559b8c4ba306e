"""How several relays agree on the order of plain publishes: from when on each may persist what it received.

Every relay persists all plain messages that it receives, in the order in which it receives them; Redis recognises those that
were persisted already. A relay whose connection was away has missed some, and another relay may be about to persist just those,
or may be cut off itself before it could. So the first one holds back what it receives on the new connection, and asks the
others, on a channel that all relays receive on the same connection as plain messages:

    one that has connected          ask <request> <its name>
    each other, in its own time     done <request> <its name>
    one that holds back itself      held <request> <its name> <count> <since>
    one that ends                   bye <its name>

A relay that receives the request has received everything that was published before it, and answers "done" when all of that is
persisted. One that holds back itself would never come to that if it waited for the asker. It answers "held" at once, when
everything from before is persisted, and says from where on it holds back, in two ways:

- By how much it has received since it connected. Of two relays that have received the same request, the one with the larger
  count connected first and has missed nothing that the other one has received. "-" stands for a relay that also holds back what
  it received on an earlier connection, which the count says nothing of.
- By a time on Redis' clock before which everything that it received is persisted. A relay whose connection began before that
  time has missed nothing that the other one holds back. That is exact but for the time that it takes to connect, and compares
  all connections, also those that are broken now.

In both ways the one that connected first goes on, and tells the others when it is done. What a relay holds back belongs to the
connection that brought it: each connection's updates are let pass by themselves, oldest first, also after it broke.

A relay from which a message came once is waited for even while it is not connected, until it has answered or says goodbye, for
`MAX_REORDER_WINDOW`. One that is known to hold back what it received earlier is waited for longer, as long as it answers. One
that has not answered any relay for a while is forgotten: it was killed, for instance.

Not covered: relays that are cut off from Redis for longer than `MAX_REORDER_WINDOW`, and a relay that starts while one is cut
off from which it never had a message. What those hold may be persisted behind later messages: once each, but out of order.
"""

from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from math import floor, inf
from typing import NamedTuple

from relay.core.plain_peers import Peers

#: Seconds for which a relay that has connected holds back, at least and at most: the least is for others that connect at the
#: same time. Only a relay that starts and finds itself alone does not hold back.
REORDER_WINDOW = 0.5
MAX_REORDER_WINDOW = 3.0

#: The same at most where another holds back what it received earlier, which may be cut off just when it would go on.
MAX_HOLDER_WINDOW = 3 * MAX_REORDER_WINDOW

#: Seconds after which the request is sent again: before we have received it ourselves, and later, since relays come and go.
_RETRY_UNECHOED = 0.05
_RETRY_ECHOED = 0.25

#: Requests in a row that one that holds back may leave unanswered. Time does not tell: Redis may be away for all.
_MAX_UNANSWERED = round(MAX_REORDER_WINDOW / _RETRY_ECHOED)

#: Seconds after which a relay is forgotten that does not answer: more than others wait for it, as all may be cut off in turn.
_MAX_SILENCE = 2 * MAX_REORDER_WINDOW


class OrderState(Enum):
    """Where a relay stands; the table is in `PlainAgreement`."""

    ASKING = auto()
    HOLDING = auto()
    FLOWING = auto()


class Announce(NamedTuple):
    """Effect: publish this message to all relays. For our own request call `on_asked` afterwards."""

    message: bytes


class CountPeers(NamedTuple):
    """Effect: count the relays that listen, this one included, and call `on_peer_count`."""


class Wait(NamedTuple):
    """Effect: ask again when something has happened, or at this monotonic time."""

    until: float


class HeldConnection:
    """A connection whose updates are held back. Times are of the monotonic clock.

    Attributes:
        since: It began to receive after this.
        received_by: It was receiving at this time, which is as early as known.
        is_confirmed: What was missed before it is persisted, as far as relays are known.
        redis_ms: What Redis' clock showed at ``since``, or less; None until that is known.
    """

    __slots__ = ("is_confirmed", "received_by", "redis_ms", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.received_by = inf
        self.is_confirmed = False
        self.redis_ms: int | None = None


class _Clock(NamedTuple):
    """Redis' clock showed `redis_ms` at some time between two on the monotonic clock."""

    after: float
    before: float
    redis_ms: int

    def earliest(self, time: float) -> int:
        """Return what Redis' clock showed at a monotonic time, or less."""
        return self.redis_ms + floor((time - self.before) * 1000)

    def time_of(self, redis_ms: int) -> float:
        """Return the monotonic time at which Redis' clock showed this, or an earlier one."""
        return self.after + (redis_ms - self.redis_ms - 1) / 1000


class PlainAgreement:
    """One relay's part in the agreement.

    =======  ==========================================================  =======  =============================================
    state    event                                                       next     effect
    =======  ==========================================================  =======  =============================================
    any      connected                                                   ASKING   Announce "ask", repeated until it is answered
    ASKING   our request was echoed                                      ASKING   CountPeers
    ASKING   an answer that is enough for some earlier connection        ASKING   that one is confirmed
    ASKING   the same for this connection                                HOLDING  all are confirmed
    ASKING   alone, on the first connection                              FLOWING
    ASKING   asking or counting: Redis refuses                           HOLDING  all are confirmed
    ASKING   its time has passed, as below                               FLOWING
    HOLDING  REORDER_WINDOW has passed since we connected                FLOWING
    =======  ==========================================================  =======  =============================================

    Answers are enough for a connection if there are as many as peers now, and each relay that is known has answered that all
    from before that connection is persisted. In any state:

    ==================  =======================================================================================================
    a connection is     its updates pass
    ==================  =======================================================================================================
    held, confirmed     REORDER_WINDOW after it began
    held                MAX_REORDER_WINDOW after it began
    held, and another   MAX_HOLDER_WINDOW after it began
    holds back earlier
    ==================  =======================================================================================================

    Attributes:
        received_count: Messages received on this connection; the owner counts.
    """

    def __init__(self, name: bytes, new_request: Callable[[], bytes]) -> None:
        """Make the part of a relay that has not connected yet.

        Args:
            name: This relay's name, unique among relays, without blanks.
            new_request: Makes a name for a request, unique among all relays, without blanks.
        """
        self._name = name
        self._new_request = new_request
        self.received_count = 0
        self._connections = 0
        #: Connections that are held, oldest first. All that was received before the first passes.
        self._held: deque[HeldConnection] = deque()
        self._current: HeldConnection | None = None  # the last of them, if it is the present connection
        self._clock: _Clock | None = None
        self._peers = Peers(_MAX_SILENCE, _MAX_UNANSWERED)
        # Our own request.
        self._request = b""
        self._times_asked = 0
        self._echoes: dict[bytes, int] = {}  # how much had been received when each was echoed
        self._ask_at = inf
        self._count_is_due = False

    @property
    def state(self) -> OrderState:
        """Where this relay stands."""
        if not self._held:
            return OrderState.FLOWING
        is_asking = self._current is not None and not self._current.is_confirmed
        return OrderState.ASKING if is_asking else OrderState.HOLDING

    @property
    def first_held(self) -> HeldConnection | None:
        """The connection before which everything passes."""
        return self._held[0] if self._held else None

    @property
    def held_count(self) -> int | None:
        """How much was received, for the answer "held"; None if an earlier connection is held as well."""
        return self.received_count if len(self._held) == 1 else None

    @property
    def needs_clock(self) -> bool:
        """Whether Redis' clock should be read, for `on_clock`."""
        return self._clock is None and bool(self._held)

    def passes_at(self, held: HeldConnection) -> float:
        """Return when the updates of a connection pass, as far as is known now; the table is above."""
        if held.is_confirmed:
            return held.since + REORDER_WINDOW
        is_behind = held.redis_ms is not None and self._peers.hold_earlier(self._name, held.redis_ms, held.received_by)
        return held.since + (MAX_HOLDER_WINDOW if is_behind else MAX_REORDER_WINDOW)

    def advance(self, now: float) -> None:
        """Let pass what passes by time."""
        while self._held and now >= self.passes_at(self._held[0]):
            passed = self._held.popleft()
            if passed is self._current:
                self._current = None

    # Events.

    def on_connecting(self, now: float) -> None:
        """A new connection is about to receive: something may have been missed since the last one."""
        self.advance(now)
        self._peers.on_connecting(now)
        if self._current is not None and self._current.received_by == inf:
            self._held.pop()  # it brought nothing
        self._current = HeldConnection(now)
        self._held.append(self._current)
        self._connections += 1
        self.received_count = 0
        self._clock = None  # it may be another server
        self._request = self._new_request()
        self._times_asked = 0
        self._echoes = {}
        self._ask_at = now
        self._count_is_due = False

    def on_clock(self, after: float, before: float, redis_ms: int) -> None:
        """Redis' clock was read between two monotonic times."""
        self._clock = _Clock(after, before, redis_ms)
        for held in self._held:
            if held.redis_ms is None:
                held.redis_ms = self._clock.earliest(held.since)

    def on_receiving(self, now: float) -> None:
        """Something arrives on this connection; to be called for the first at least."""
        if self._current is not None and self._current.received_by == inf:
            self._current.received_by = now

    def on_message(self, message: bytes, now: float) -> bytes | None:
        """A relay, this one or another, has published this to all relays. Returns the request if it is another's."""
        self.advance(now)
        self.on_receiving(now)
        kind, request, name, count, since = (*message.split(b" "), b"", b"", b"", b"")[:5]
        if kind == b"ask":
            is_ours = bool(self._request) and request.startswith(self._request + b"-")
            self._peers.on_request(now, is_ours=is_ours)
            if is_ours:
                self._echoes[request] = self.received_count
                self._count_is_due = self._may_count
                return None
            if name:  # an earlier version's request has none
                peer = self._peers.find(name)
                if peer is None or not peer.is_seen:
                    self._ask_at = min(self._ask_at, now)  # it could not answer before
                self._peers.on_message_from(name)
            return request
        if kind == b"bye":
            self._peers.forget(request)
            self._count_is_due = self._may_count
        elif kind in (b"done", b"held") and name and name != self._name:
            peer = self._peers.on_message_from(name)
            peer.persisted_until = max(peer.persisted_until, self._answered_until(kind, request, count, since))
            if kind == b"held" and _is_number(since):
                peer.holding_since = int(since)
            elif kind == b"done" and request in self._echoes:  # to an older request it leaves open what came since
                peer.holding_since = None
            self._count_is_due = self._may_count
        return None

    def _answered_until(self, kind: bytes, request: bytes, count: bytes, since: bytes) -> float:
        """Return before which time all is persisted that the one that answers has received; or that we have not."""
        echo = self._echoes.get(request)
        is_first = echo is not None and (kind == b"done" or (_is_number(count) and int(count) <= echo))
        if is_first and self._current is not None:
            return self._current.received_by
        if kind == b"held" and _is_number(since) and self._clock is not None:
            return self._clock.time_of(int(since))
        return -inf

    @property
    def _may_count(self) -> bool:
        """Whether the first connection that is not confirmed would be, if there are no more relays than we know."""
        unconfirmed = next((held for held in self._held if not held.is_confirmed), None)
        if unconfirmed is None or not self._echoes:
            return False
        return self._peers.persisted_until >= unconfirmed.received_by

    def on_asked(self, now: float, *, is_refused: bool) -> None:
        """Our request was published, or could not be. is_refused: Redis does not let us."""
        if self.state is not OrderState.ASKING:
            return
        if is_refused:
            self._confirm_all()
            return
        self._ask_at = now + (_RETRY_ECHOED if self._echoes else _RETRY_UNECHOED)
        self._count_is_due = self._may_count

    def on_peer_count(self, count: int | None, now: float, *, is_refused: bool = False) -> None:
        """The relays that listen were counted, this one included; None if they could not be counted now.

        is_refused: Redis does not let us.
        """
        if self.state is not OrderState.ASKING:
            return
        if is_refused:
            self._confirm_all()
        elif count is not None and self._may_count and self._peers.seen >= count - 1:
            until = self._peers.persisted_until
            for held in self._held:
                held.is_confirmed = held.is_confirmed or held.received_by <= until
            if count <= 1 and self._connections == 1 and not self._peers:
                self._held.clear()
        self.advance(now)

    def _confirm_all(self) -> None:
        for held in self._held:
            held.is_confirmed = True

    # Effects.

    def held_answer(self, request: bytes, count: int | None, since: float) -> bytes:
        """Return the answer "held".

        Args:
            request: The request.
            count: How much had been received; None if that says nothing.
            since: All that was received before this time is persisted.
        """
        number = b"-" if count is None else b"%d" % count
        time = b"-" if self._clock is None else b"%d" % self._clock.earliest(since)
        return b"held %b %b %b %b" % (request, self._name, number, time)

    def next_effect(self, now: float) -> Announce | CountPeers | Wait:
        """Return what is to be done for our own request. Call it again after each effect."""
        self.advance(now)
        if self.state is not OrderState.ASKING:
            return Wait(inf)
        if self._count_is_due:
            self._count_is_due = False
            return CountPeers()
        if now >= self._ask_at:
            self._ask_at = inf
            self._times_asked += 1
            return Announce(b"ask %b-%d %b" % (self._request, self._times_asked, self._name))
        return Wait(min(self._ask_at, self.passes_at(self._held[0])))


def _is_number(text: bytes) -> bool:
    return text.isdigit() and len(text) < 20
