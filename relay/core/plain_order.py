"""The order of plain publishes: how several relays agree on it, and in which order one relay persists what it received.

Every relay persists all plain messages that it receives, in the order in which it receives them; Redis recognises those that
were persisted already. A relay whose connection was away has missed some, and another relay may be about to persist just those.
So it holds back what it receives on the new connection, and asks the others, on a channel that all relays receive on the same
connection as plain messages:

    one that has connected          ask <request>
    each other, in its own time     done <request> <its name>
    one that holds back itself      held <request> <its name> <how much it has received since it connected>

A relay that receives the request has received everything that was published before it, and answers "done" when all of that is
persisted. One that holds back itself would never come to that if it waited for the asker, so it answers "held" at once, when
everything from before is persisted. Of two relays that have received the same request, the one with the larger
count connected first and has missed nothing that the other one has received: it goes on, and the other waits until it is done.

Not covered: a relay whose connection breaks while it holds back. Until it connects again nobody waits for it, and what it holds
may be persisted behind later messages: once each, but out of order.
"""

from collections.abc import Callable, Sequence
from enum import Enum, auto
from math import inf
from typing import NamedTuple

from relay.core.occurrences import CountedMessage
from relay.core.plain_queue import OVERHEAD, BarrierRequest, Pending, PlainQueue
from relay.core.updates import Update

#: Seconds for which a relay that has connected holds back, at least and at most: the least is for others that connect at the
#: same time. Only a relay that starts and finds itself alone does not hold back.
REORDER_WINDOW = 0.5
MAX_REORDER_WINDOW = 3.0

#: Seconds after which the request is sent again: before we have received it ourselves, and later, since relays come and go.
_RETRY_UNECHOED = 0.05
_RETRY_ECHOED = 0.25

#: Bytes that updates take at most while they wait to be persisted: some 36,000 small ones. A channel may take no more than are
#: left, so one that is published to without end leaves half to all others. What comes beyond is delivered live only.
MAX_QUEUED_BYTES = 64 * 1024 * 1024

#: Seconds for which an update waits for a Redis that is away, or cannot write now; then it is delivered live only. When one has
#: waited so long in vain, the next do not wait until something is persisted again.
MAX_WAIT = 15.0

#: Seconds for which an update waits for a Redis that is full, and for which it is not tried again when one has waited so long:
#: what comes meanwhile is delivered live only. It is longer than relays usually differ in when they persist: what one gives up
#: on, another persists if Redis has room again, and the first must not have persisted the next by then.
MAX_FULL_WAIT = 0.5

#: Updates persisted in one round trip, and their bytes: it has to end within the time-out.
BATCH_UPDATES = 256
BATCH_BYTES = 1024 * 1024


class OrderState(Enum):
    """Where a relay stands; the table is in `PlainOrder`."""

    ASKING = auto()
    HOLDING = auto()
    FLOWING = auto()


class Outcome(Enum):
    """The outcome of persisting one update."""

    #: It is persisted, by us or by another relay.
    PERSISTED = auto()
    #: Redis is away, or cannot write now.
    UNAVAILABLE = auto()
    #: Redis is full, and has room again at any time.
    FULL = auto()
    #: Redis refuses it.
    REFUSED = auto()


#: What `Pending(...)` does, at half of its cost: there is one for each message.
_pending = tuple.__new__


class Persist(NamedTuple):
    """Effect: persist these, in order, and call `PlainOrder.on_outcomes`."""

    batch: Sequence[Pending]


class Announce(NamedTuple):
    """Effect: publish this message to all relays. For our own request call `PlainOrder.on_asked` afterwards."""

    message: bytes


class CountPeers(NamedTuple):
    """Effect: count the relays that listen, this one included, and call `PlainOrder.on_peer_count`."""


class Wait(NamedTuple):
    """Effect: ask again when something has happened, or at this monotonic time."""

    until: float


class PlainOrder:
    """One relay's part in the agreement. Two tasks drive it: `next_persist` for the queue, `next_barrier` for our own request.

    =======  ================================================  =======  ==================================================
    state    event                                             next     effect
    =======  ================================================  =======  ==================================================
    any      connected                                         ASKING   Announce "ask", repeated while it is not answered
    ASKING   our request was echoed                             ASKING   CountPeers
    ASKING   as many answers as peers; others connected before HOLDING
    ASKING   alone, on the first connection                    FLOWING
    ASKING   peers cannot be counted: Redis refuses            HOLDING
    ASKING   MAX_REORDER_WINDOW has passed                     HOLDING
    HOLDING  REORDER_WINDOW has passed since we connected      FLOWING
    =======  ================================================  =======  ==================================================

    ==================  ==============================================================================================
    state               what `next_persist` lets pass, in the order of `relay.core.plain_queue`
    ==================  ==============================================================================================
    ASKING, HOLDING     updates received before the state was ASKING, and "held" answers behind them
    FLOWING             everything; a "done" answer when all before it is persisted
    ==================  ==============================================================================================

    Attributes:
        state: See above.
    """

    def __init__(self, name: bytes, new_request: Callable[[], bytes]) -> None:
        """Make the part of a relay that has not connected yet.

        Args:
            name: This relay's name, unique among relays, without blanks.
            new_request: Makes a name for a request, unique among all relays, without blanks.
        """
        self._name = name
        self._new_request = new_request
        self._queue = PlainQueue()
        self._connected_at = -inf
        #: Since when something may have been missed that is not persisted: the first connection after the state was FLOWING.
        self._held_from = -inf
        self._connections = 0
        self._received_count = 0  # on this connection
        self._retry_at = -inf
        self._gave_up = False  # an update waited too long, and nothing was persisted since
        self._is_full = False  # the same, for a Redis that is full
        self._full_until = -inf
        # Our own request.
        self._request = b""
        self._times_asked = 0
        self._echoes: dict[bytes, int] = {}  # how much had been received when each was echoed
        self._answered: set[bytes] = set()
        self._ask_at = inf
        self._count_is_due = False
        self.state = OrderState.FLOWING

    def __len__(self) -> int:
        return self._queue.length

    # Events.

    def on_connecting(self, now: float) -> None:
        """A new connection is about to receive: something may have been missed since the last one."""
        self._advance(now)
        if self.state is OrderState.FLOWING:
            self._held_from = now
            self._queue.end_segment()
        self._connected_at = now
        self._connections += 1
        self._received_count = 0
        self._request = self._new_request()
        self._times_asked = 0
        self._echoes = {}
        self._answered = set()
        self._ask_at = now
        self._count_is_due = False
        self.state = OrderState.ASKING

    def on_received(self, update: Update, counted: CountedMessage) -> bool:
        """A plain message was received. Returns False if no more of its channel can wait: it is to be delivered live only."""
        self._received_count += 1
        queue = self._queue
        size = len(update.data) + OVERHEAD
        if size + queue.shares.get(update.channel, 0) > MAX_QUEUED_BYTES - queue.size:
            return False
        if self._is_full and update.received_at < self._full_until:
            return False
        queue.append(_pending(Pending, (update, counted)))
        return True

    def on_barrier_message(self, message: bytes, now: float) -> None:
        """A relay, this one or another, has published this to all relays."""
        kind, request, name, count = (*message.split(b" "), b"", b"", b"")[:4]
        if kind == b"ask":
            if self._request and request.startswith(self._request + b"-"):
                self._echoes[request] = self._received_count
                self._count_is_due = self.state is OrderState.ASKING
            else:
                self._on_request(request, now)
        elif (kind == b"done" and request in self._echoes) or (
            kind == b"held" and count.isdigit() and len(count) < 20 and int(count) <= self._echoes.get(request, -1)
        ):
            self._answered.add(name)
            self._count_is_due = self.state is OrderState.ASKING

    def _on_request(self, request: bytes, now: float) -> None:
        if self._queue.size > MAX_QUEUED_BYTES - OVERHEAD:
            return  # it will be repeated
        self._advance(now)
        # One that also holds back what it received on an earlier connection cannot compare that by its number: then the
        # other one waits until it is done.
        if self.state is not OrderState.FLOWING and self._held_from == self._connected_at:
            self._queue.insert_request(BarrierRequest(request, self._received_count), self._held_from)
        self._queue.append_request(BarrierRequest(request, None))

    def on_asked(self, now: float, *, is_refused: bool) -> None:
        """Our request was published, or could not be. is_refused: Redis does not let us."""
        if self.state is not OrderState.ASKING:
            return
        if is_refused:
            self.state = OrderState.HOLDING
            return
        self._ask_at = now + (_RETRY_ECHOED if self._echoes else _RETRY_UNECHOED)
        self._count_is_due = self._count_is_due or bool(self._echoes)

    def on_peer_count(self, count: int | None, now: float, *, is_refused: bool = False) -> None:
        """The relays that listen were counted, this one included; None if they could not be counted now.

        is_refused: Redis does not let us.
        """
        if self.state is not OrderState.ASKING:
            return
        if is_refused:
            self.state = OrderState.HOLDING
        elif count is not None and len(self._answered) >= count - 1:
            is_alone_at_start = count <= 1 and self._connections == 1
            self.state = OrderState.FLOWING if is_alone_at_start else OrderState.HOLDING
        self._advance(now)

    def on_all_persisted(self) -> None:
        """A batch was tried, and all of it is persisted: as `on_outcomes`."""
        self._gave_up = self._is_full = False
        self._retry_at = -inf

    def on_outcomes(self, outcomes: Sequence[tuple[Pending, Outcome]], now: float, retry_delay: float) -> list[Update]:
        """A batch was tried.

        Args:
            outcomes: The batch, in order, with what became of each.
            now: The monotonic time in seconds.
            retry_delay: Seconds until those are tried again for which Redis was away.

        Returns:
            Updates that are to be delivered live only.
        """
        again: list[Pending] = []
        live_only: list[Update] = []
        persisted = max(
            (place for place, (_, outcome) in enumerate(outcomes) if outcome is Outcome.PERSISTED), default=-1
        )
        if persisted >= 0:
            self._is_full = False
        full = [pending for pending, outcome in outcomes if outcome is Outcome.FULL]
        is_out_of_patience = bool(full) and (self._is_full or now - full[0].update.received_at >= MAX_FULL_WAIT)
        for place, (pending, outcome) in enumerate(outcomes):
            waited = now - pending.update.received_at
            if outcome is Outcome.PERSISTED:
                self._gave_up = False
            elif outcome is Outcome.REFUSED:
                live_only.append(pending.update)
            elif outcome is Outcome.FULL:
                # Where there was room in the middle of the batch, what was refused before that is too late now.
                if is_out_of_patience or place < persisted:
                    live_only.append(pending.update)
                else:
                    again.append(pending)
            elif self._gave_up or waited >= MAX_WAIT:
                self._gave_up = True
                live_only.append(pending.update)
            else:
                again.append(pending)
        self._queue.restore(again)
        if is_out_of_patience and persisted < 0:
            live_only += self._give_up_on_room(now)
        # Less than others hold back for: they may have missed what waits here.
        self._retry_at = now + min(retry_delay, REORDER_WINDOW / 4) if again else -inf
        return live_only

    def _give_up_on_room(self, now: float) -> list[Update]:
        """Try nothing for a while. Returns what waits, as far as no other relay waits for it."""
        self._is_full = True
        self._full_until = now + MAX_FULL_WAIT
        waiting: list[Update] = []
        while batch := self._queue.take(BATCH_UPDATES, BATCH_BYTES, inf):
            waiting += [pending.update for pending in batch]
        return waiting

    # Effects.

    def next_persist(self, now: float) -> Persist | Announce | Wait:
        """Return what is to be done with the head of the queue. Call it again after each effect."""
        self._advance(now)
        if now < self._retry_at:
            return Wait(self._retry_at)
        before = inf if self.state is OrderState.FLOWING else self._held_from
        batch = self._queue.take(BATCH_UPDATES, BATCH_BYTES, before)
        if batch:
            return Persist(batch)
        head = self._queue.take_request()
        if head is not None:
            if head.held_count is None:
                return Announce(b"done %b %b" % (head.request, self._name))
            return Announce(b"held %b %b %d" % (head.request, self._name, head.held_count))
        return Wait(self._flows_at if self._queue.length else inf)

    def next_barrier(self, now: float) -> Announce | CountPeers | Wait:
        """Return what is to be done for our own request. Call it again after each effect."""
        self._advance(now)
        if self.state is not OrderState.ASKING:
            return Wait(inf)
        if self._count_is_due:
            self._count_is_due = False
            return CountPeers()
        if now >= self._ask_at:
            self._ask_at = inf
            self._times_asked += 1
            return Announce(b"ask %b-%d" % (self._request, self._times_asked))
        return Wait(min(self._ask_at, self._connected_at + MAX_REORDER_WINDOW))

    @property
    def _flows_at(self) -> float:
        """When time alone changes the state."""
        if self.state is OrderState.ASKING:
            return self._connected_at + MAX_REORDER_WINDOW
        return self._connected_at + REORDER_WINDOW if self.state is OrderState.HOLDING else inf

    def _advance(self, now: float) -> None:
        if self.state is OrderState.ASKING and now >= self._connected_at + MAX_REORDER_WINDOW:
            self.state = OrderState.HOLDING
        if self.state is OrderState.HOLDING and now >= self._connected_at + REORDER_WINDOW:
            self.state = OrderState.FLOWING
