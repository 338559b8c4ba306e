"""The order of plain publishes: in which order one relay persists what it received, and what becomes of what it cannot persist.

`relay.core.plain_agreement` decides from when on it may, and `relay.core.plain_queue` has what waits.
"""

from collections.abc import Callable, Sequence
from enum import Enum, auto
from math import inf
from typing import NamedTuple

from relay.core.occurrences import CountedMessage
from relay.core.plain_agreement import (
    REORDER_WINDOW,
    Announce,
    CountPeers,
    HeldConnection,
    OrderState,
    PlainAgreement,
    Wait,
)
from relay.core.plain_queue import OVERHEAD, BarrierRequest, Pending, PlainQueue
from relay.core.updates import Update

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

#: Seconds after which Redis' clock is read again when it could not be.
_CLOCK_RETRY = 0.1

#: Updates persisted in one round trip, and their bytes: it has to end within the time-out.
BATCH_UPDATES = 256
BATCH_BYTES = 1024 * 1024


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


class ReadClock(NamedTuple):
    """Effect: read Redis' clock, and call `PlainOrder.on_clock` or `PlainOrder.on_no_clock`."""


class PlainOrder:
    """One relay's plain messages. Two tasks drive it: `next_persist` for the queue, `next_barrier` for our own request.

    ==================  ==============================================================================================
    state               what `next_persist` lets pass, in the order of `relay.core.plain_queue`
    ==================  ==============================================================================================
    ASKING, HOLDING     updates received before the first connection that is held, and "held" answers behind them
    FLOWING             everything; a "done" answer when all before it is persisted
    ==================  ==============================================================================================
    """

    def __init__(self, name: bytes, new_request: Callable[[], bytes]) -> None:
        """Make the part of a relay that has not connected yet.

        Args:
            name: This relay's name, unique among relays, without blanks.
            new_request: Makes a name for a request, unique among all relays, without blanks.
        """
        self._name = name
        self._agreement = PlainAgreement(name, new_request)
        self._queue = PlainQueue()
        self._retry_at = -inf
        self._clock_retry_at = -inf
        self._request = b""  # the last of another relay on this connection
        self._held: HeldConnection | None = None  # the first that was held when it was answered
        self._gave_up = False  # an update waited too long, and nothing was persisted since
        self._is_full = False  # the same, for a Redis that is full
        self._full_until = -inf

    def __len__(self) -> int:
        return self._queue.length

    @property
    def state(self) -> OrderState:
        """Where this relay stands."""
        return self._agreement.state

    @property
    def goodbye(self) -> bytes:
        """What to publish to all relays when this one ends: nobody has to wait for it."""
        return b"bye %b" % self._name

    # Events.

    def on_connecting(self, now: float) -> None:
        """A new connection is about to receive: something may have been missed since the last one."""
        self._agreement.on_connecting(now)
        self._queue.end_segment()
        self._request = b""
        self._retry_at = self._clock_retry_at = -inf  # Redis answers, and others may wait for what was tried in vain

    def on_received(self, update: Update, counted: CountedMessage) -> bool:
        """A plain message was received. Returns False if no more of its channel can wait: it is to be delivered live only."""
        agreement = self._agreement
        agreement.received_count += 1
        if agreement.received_count == 1:
            agreement.on_receiving(update.received_at)
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
        request = self._agreement.on_message(message, now)
        if request is None or self._queue.size > MAX_QUEUED_BYTES - OVERHEAD:
            return  # a request will be repeated
        self._request = request
        self._held = self._agreement.first_held
        self._insert_held_answer()
        self._queue.append_request(BarrierRequest(request))

    def _insert_held_answer(self) -> None:
        if self._held is not None:
            held = BarrierRequest(self._request, self._agreement.held_count, self._held.since)
            self._queue.insert_request(held, self._held.since)

    def on_asked(self, now: float, *, is_refused: bool) -> None:
        """Our request was published, or could not be. is_refused: Redis does not let us."""
        self._agreement.on_asked(now, is_refused=is_refused)

    def on_peer_count(self, count: int | None, now: float, *, is_refused: bool = False) -> None:
        """The relays that listen were counted, this one included; None if they could not be counted now.

        is_refused: Redis does not let us.
        """
        self._agreement.on_peer_count(count, now, is_refused=is_refused)

    def on_clock(self, after: float, before: float, redis_ms: int) -> None:
        """Redis' clock was read between two monotonic times."""
        self._agreement.on_clock(after, before, redis_ms)

    def on_no_clock(self, now: float) -> None:
        """Redis' clock could not be read."""
        self._clock_retry_at = now + _CLOCK_RETRY

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

    def take_unheld(self, now: float) -> Persist | None:
        """Return what waits, if it may be persisted now and nothing else is to be done first. Else it stays where it is."""
        if now < self._retry_at or self._agreement.first_held is not None:
            return None
        batch = self._queue.take(BATCH_UPDATES, BATCH_BYTES, inf)
        return Persist(batch) if batch else None

    def next_persist(self, now: float) -> Persist | Announce | ReadClock | Wait:
        """Return what is to be done with the head of the queue. Call it again after each effect."""
        agreement, queue = self._agreement, self._queue
        agreement.advance(now)
        if now < self._retry_at:
            return Wait(self._retry_at)
        held = agreement.first_held
        if self._request and held is not self._held:
            # An earlier connection's updates pass: the one that asked need not ask again to learn it.
            self._held = held
            self._insert_held_answer()
        batch = queue.take(BATCH_UPDATES, BATCH_BYTES, inf if held is None else held.since)
        if batch:
            return Persist(batch)
        if agreement.needs_clock and now >= self._clock_retry_at:
            return ReadClock()
        head = queue.take_request()
        if head is not None:
            if head.held_since is None:
                return Announce(b"done %b %b" % (head.request, self._name))
            return Announce(agreement.held_answer(head.request, head.held_count, head.held_since))
        until = inf if held is None or not queue.length else agreement.passes_at(held)
        return Wait(min(until, self._clock_retry_at) if agreement.needs_clock else until)

    def next_barrier(self, now: float) -> Announce | CountPeers | Wait:
        """Return what is to be done for our own request. Call it again after each effect."""
        return self._agreement.next_effect(now)
