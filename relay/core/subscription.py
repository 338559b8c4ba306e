"""A subscription: from a position, or from nothing, to the live sequence of a channel.

A `Subscription` decides and returns effects; the session performs them: it reads history, and writes pages when the client has
room for them.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from enum import Enum, auto
from typing import NamedTuple

from relay.core.batches import Batch, Format, Message, batch_of
from relay.core.groups import Subscriber
from relay.core.hub import Hub
from relay.core.recovery import RecoveryBuffer, Snapshot, SubscribeResult
from relay.core.shared_updates import SharedUpdates
from relay.core.updates import Position, Update
from relay.core.whole_values import WithheldUpdates

#: Data of one page, in bytes, give or take one update, and its updates.
PAGE_BYTES = 64 * 1024
PAGE_UPDATES = 256

#: Reads in a row during which more was published than is buffered, after which the client is asked to try again.
MAX_OVERTAKEN_READS = 5

#: Reads in a row that fail for a client that has got a part of its history, before it is sent a reset instead of the rest.
MAX_FAILED_READS = 10


class State(Enum):
    """Where a subscription stands; the table is in `Subscription`."""

    READING = auto()
    SENDING = auto()
    WAITING = auto()
    LIVE = auto()
    ENDED = auto()


class ReadHistory(NamedTuple):
    """Effect: read the channel, and call `Subscription.on_history` or `Subscription.on_unavailable`."""

    since: Position | None


class Send(NamedTuple):
    """Effect: write a batch that waits for the client's pace. `result` comes with the first one of a read channel."""

    batch: Batch
    result: SubscribeResult | None = None


class Refuse(NamedTuple):
    """Effect: refuse the subscription; it has ended."""

    reason: str


Effect = ReadHistory | Send | Refuse


class Request(NamedTuple):
    """A client's request to subscribe.

    Attributes:
        channel: The channel to follow.
        format: How its updates are encoded and framed.
        answer: Returns the payloads that answer the request. Its argument is what the client gets of the past, or None where
            that is not known or not wanted.
        since: The position to resume from; None for a newcomer.
        wants_history: The client gets what was before: the state, or what came after `since`.
        requires_position: Refused while Redis cannot be read. Other clients are then served live, and get the state later.
        updates_in_answer: The answer has the updates of its argument in it.
    """

    channel: str
    format: Format
    answer: Callable[[SubscribeResult | None], Iterable[bytes]]
    since: Position | None = None
    wants_history: bool = True
    requires_position: bool = False
    updates_in_answer: bool = False


class Subscription:
    """One client's subscription to one channel.

    =========  =============================================  =========  =================================================
    state      event                                          next       effect
    =========  =============================================  =========  =================================================
    (start)    history is wanted                              READING    ReadHistory; what is live is buffered from here on
    (start)    no history is wanted                           SENDING    the answer is next
    READING    history, the buffer is whole                   SENDING
    READING    history, the buffer is stale                   READING    ReadHistory; Refuse after MAX_OVERTAKEN_READS
    READING    no history, positions are required             ENDED      Refuse; if it was answered before, the next two
    READING    no history, but it was answered before         READING    ReadHistory again, MAX_FAILED_READS times
    READING    still none                                     SENDING    nothing; a reset and the state follow when they can
    READING    no history, positions are not required         SENDING    the answer is next; the state follows when it can
    SENDING    room for a page                                SENDING    Send the answer, the state, missed updates
    SENDING    nothing left; history or buffer is incomplete  READING    ReadHistory after the last update sent
    SENDING    nothing left; the channel is as far            LIVE
    SENDING    nothing left; the channel is not as far yet    WAITING
    WAITING    the channel is as far                          LIVE       the buffer is offered
    READING,   the sequence was reset                         same       the buffer is stale
    SENDING
    WAITING    the sequence was reset                         LIVE       it gets the reset like all others
    any        end                                            ENDED      none, then or later
    =========  =============================================  =========  =================================================

    "As far": the channel's sequence has delivered the position that the history went up to.

    Attributes:
        state: See above.
        format: How its updates are encoded and framed.
    """

    __slots__ = (
        "_answered",
        "_buffer",
        "_failed_reads",
        "_history_end",
        "_hub",
        "_needs_snapshot",
        "_on_live",
        "_overtaken_reads",
        "_pages",
        "_position",
        "_position_before_withheld",
        "_read_is_due",
        "_refusal",
        "_request",
        "_subscriber",
        "_withheld",
        "format",
        "state",
    )

    def __init__(
        self, hub: Hub, subscriber: Subscriber, request: Request, on_live: Callable[["Subscription"], None]
    ) -> None:
        """Make a subscription that begins; call `next_effect`. If history is wanted, the hub has to pass it updates.

        Args:
            hub: Where the channel is.
            subscriber: The client.
            request: What it asks for.
            on_live: Called when it follows the channel like all others, and needs nothing any more.
        """
        self._on_live = on_live
        self._hub = hub
        self._subscriber = subscriber
        self._request = request
        self._buffer = RecoveryBuffer()
        self._answered = False
        #: Position of the last update that was given out, or planned to be: what is live follows this one.
        self._position = request.since
        #: Where history went up to.
        self._history_end: Position | None = None
        #: What waits for room, in order: payloads are those of answers, batches are pages that many clients get.
        self._pages: deque[Update | bytes | SubscribeResult | Batch] = deque()
        self._read_is_due = False
        self._needs_snapshot = False
        self._refusal: str | None = None
        self._overtaken_reads = self._failed_reads = 0
        #: What the client does not get as it was published, since it wants whole values; and up to where it got everything.
        self._withheld = WithheldUpdates()
        self._position_before_withheld: Position | None = None
        self.format = request.format
        self.state = State.READING if request.wants_history else State.SENDING
        if request.wants_history:
            self._read_is_due = True
        else:
            self._pages.extend(request.answer(None))

    @property
    def channel(self) -> str:
        """The channel that is followed."""
        return self._request.channel

    @property
    def has_page(self) -> bool:
        """The next effect is a page, for which the client must have room."""
        return self.state is State.SENDING and bool(self._pages)

    def next_effect(self) -> Effect | None:
        """Return what is to be done next.

        Returns:
            None when the channel is live, the subscription has ended, or it only waits for the channel: the hub calls then.
        """
        if self._refusal is not None and self.state is State.ENDED:
            reason, self._refusal = self._refusal, None
            return Refuse(reason)
        if self.state is State.READING and self._read_is_due:
            return self._read()
        if self.state is not State.SENDING:
            return None
        if not self._pages:
            return self._continue()
        return self._next_page()

    def _read(self) -> ReadHistory:
        self._read_is_due = False
        self._buffer.restart()
        return ReadHistory(self._position)

    def _next_page(self) -> Send:
        """Encode what is next now: a stateful encoding depends on what was sent before."""
        messages: list[Message] = []
        result: SubscribeResult | None = None
        size = 0
        while self._pages and size < PAGE_BYTES and len(messages) < PAGE_UPDATES:
            item = self._pages.popleft()
            if isinstance(item, Batch):
                return Send(batch_of(messages).followed_by(item) if messages else item, result)
            if isinstance(item, SubscribeResult):
                result = item
                messages += [self.format.payload(payload) for payload in self._request.answer(item)]
            elif isinstance(item, bytes):
                messages.append(self.format.payload(item))
                size += len(item)
            else:
                messages.append(self.format.message(item))
                size += len(item.data)
        return Send(batch_of(messages) if messages else Batch(self.format.framing.join([]), 0, 0), result)

    def _continue(self) -> Effect | None:
        """All pages were written: follow the channel, or find out what else is missing."""
        until = self._history_end
        if until is None:  # there is no history, or none to be had
            self._follow()
            return None
        assert self._position is not None
        if self._buffer.is_stale or self._position < until:
            self.state = State.READING
            return self._read()
        self._pages.extend(self._take_buffered())
        if self._pages:
            return self._next_page()
        self.state = State.WAITING
        if self._has_delivered_history(self._hub.position(self.channel)):
            self._settle()
        return None

    def _take_buffered(self) -> Sequence[Update]:
        assert self._position is not None
        updates = self._buffer.take(self._position)
        for update in reversed(updates):
            if update.position is not None:
                self._position = update.position
                break
        return self._without_withheld(updates)

    def _without_withheld(self, updates: Sequence[Update]) -> Sequence[Update]:
        """Return those that are given out as they are: for whole values, those before the first with an operation."""
        encoding = self.format.encoding
        if isinstance(updates, SharedUpdates) and not (
            encoding.stateful or self._withheld or (encoding.whole_values and updates.has_operations)
        ):
            return updates
        if not encoding.whole_values:
            return [update for update in updates if not (encoding.stateful and encoding.hides(update))]
        given: list[Update] = []
        for update in updates:
            if update.position is None or not (self._withheld or update.has_operations):
                given.append(update)
                continue
            if not self._withheld:
                self._position_before_withheld = Position(update.position.epoch, update.position.offset - 1)
            self._withheld.add(update)
        return given

    # What the session reports.

    def on_history(self, snapshot: Snapshot) -> None:
        """History was read."""
        if self.state is not State.READING:
            return
        if self._buffer.is_stale:
            self._overtaken_reads += 1
            self._read_is_due = True
            if self._overtaken_reads >= MAX_OVERTAKEN_READS:
                self.on_unavailable("the channel changes faster than its history can be read")
            return
        self._overtaken_reads = self._failed_reads = 0
        self.state = State.SENDING
        entries = snapshot.entries if self._position is not None else None
        state = [snapshot.state] if snapshot.state is not None else []
        self._history_end = snapshot.top
        given = None if entries is None else self._without_withheld(entries)
        if entries is None:
            self._withheld.clear()
        if not self._answered:
            self._answered = True
            recovered = None if self._request.since is None else entries is not None
            updates = given if given is not None else state
            self._pages.append(SubscribeResult(snapshot.top, recovered, updates))
            if not self._request.updates_in_answer:
                self._plan(updates)
        elif given is not None:
            self._plan(given)
        else:  # history was cut off while it was sent
            self._pages.extend(self.format.encoding.reset(self.channel, snapshot))
        self._position = entries[-1].position if entries and snapshot.is_partial else snapshot.top

    def _plan(self, updates: Sequence[Update]) -> None:
        """Give out updates when there is room: those that many clients get are encoded for all of them."""
        if isinstance(updates, SharedUpdates) and not self.format.encoding.stateful:
            self._pages.extend(updates.pages(self.format, PAGE_UPDATES, PAGE_BYTES))
        else:
            self._pages.extend(updates)

    def on_unavailable(self, reason: str) -> bool:
        """History cannot be read now.

        A client that was answered cannot be refused any more: it would not know which subscription has ended.

        Returns:
            Whether it is to be read again, after a pause.
        """
        if self.state is not State.READING:
            return False
        if self._answered and self._failed_reads < MAX_FAILED_READS:
            self._failed_reads += 1
            self._read_is_due = True
            return True
        if self._request.requires_position and not self._answered:
            self.end()
            self._refusal = f"positions are not available now ({reason}); subscribe again"
            return False
        self.state = State.SENDING
        self._history_end = None
        self._needs_snapshot = True
        if not self._answered:
            self._pages.extend(self._request.answer(None))
        return False

    def end(self) -> None:
        """The client leaves the channel, or has gone: nothing happens any more."""
        if self.state is not State.ENDED:
            self.state = State.ENDED
            self._pages.clear()
            self._hub.end_recovery(self.channel, self)
            self._hub.unsubscribe(self._subscriber, self.channel, self.format)

    # What the hub reports, until the subscription follows.

    def on_update(self, update: Update) -> None:
        """The channel delivers an update: keep it, or go on with it."""
        position = update.position
        if self.state is not State.WAITING or position is None:
            self._buffer.append(update)
        elif self._has_delivered_history(position):  # else it was in the history
            self._buffer.append(update)
            self._settle()

    def on_reset(self) -> None:
        """The channel's sequence was broken: what was read is out of date, or up to date already."""
        if self.state is State.WAITING:
            self._settle()
        else:
            self._buffer.is_stale = True

    def _has_delivered_history(self, position: Position | None) -> bool:
        """Whether the channel has delivered what was read. If it is in another epoch, it has not noticed the new one yet."""
        until = self._history_end
        if until is None or position is None:
            return False
        return position.epoch == until.epoch and position.offset >= until.offset

    def _settle(self) -> None:
        """Give the client what was buffered, and have it follow like all others."""
        updates = self._take_buffered()
        if updates:
            self._subscriber.offer(batch_of([self.format.message(update) for update in updates]))
        # A client that was closed for what it was offered has left the hub as well.
        if self.state is State.WAITING:
            self._follow()

    def _follow(self) -> None:
        self.state = State.LIVE
        self._hub.subscribe(
            self._subscriber,
            self.channel,
            self.format,
            needs_snapshot=self._needs_snapshot,
            withheld=self._withheld,
            position=self._position_before_withheld if self._withheld else self._position,
        )
        self._hub.end_recovery(self.channel, self)
        if self.state is State.LIVE:
            self._on_live(self)
        else:  # the client was closed for what that flushed
            self._hub.unsubscribe(self._subscriber, self.channel, self.format)
