"""Plain messages are persisted in the order in which they were published, whichever relays received them.

The machine below is Redis and some relays, without I/O. Redis hands each message to the connections that it has, each of which
brings its messages in order, whenever it likes; connections break, and are made again. Time passes only so far that no relay
gives up waiting for another one.
"""

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from relay.core.occurrences import CountedMessage
from relay.core.plain_order import (
    MAX_FULL_WAIT,
    MAX_QUEUED_BYTES,
    MAX_REORDER_WINDOW,
    MAX_WAIT,
    REORDER_WINDOW,
    Announce,
    CountPeers,
    OrderState,
    Outcome,
    Persist,
    PlainOrder,
    Wait,
)
from relay.core.plain_queue import OVERHEAD, BarrierRequest
from relay.core.updates import Update

RELAYS = range(3)


#: By the last digit of a message, other than the one task's that all others are of.
OTHER_CHANNELS = {3: "task:u", 4: "task:u", 6: "general", 9: "task:v"}


def channel_of(number: int) -> str:
    return OTHER_CHANNELS.get(number % 10, "task:t")


def update(number: int, received_at: float, size: int = 0) -> Update:
    return Update(channel_of(number), "task_update", b"%d" % number + b" " * size, received_at)


def by_promise(numbers: Sequence[int]) -> list[dict[str, list[int]]]:
    """Return messages as the promise orders them: by channel, and all of them before or behind each general one."""
    parts: list[dict[str, list[int]]] = [{}]
    for number in numbers:
        channel = channel_of(number)
        parts[-1].setdefault(channel, []).append(number)
        if channel == "general":
            parts.append({})
    return parts


def counted(number: int = 0) -> CountedMessage:
    return CountedMessage(str(number), 1, 0.0, 0.0)


def requests(name: str) -> Iterator[bytes]:
    number = 0
    while True:
        number += 1
        yield f"{name}{number}".encode()


class Relay:
    """One relay's part, and its connection: messages that Redis has sent on it and that have not arrived."""

    def __init__(self, name: str) -> None:
        made = requests(name)
        self.order = PlainOrder(name.encode(), lambda: next(made))
        self.is_connected = False
        self.wire: list[int | bytes] = []
        self.persisting: Persist | None = None


class Agreement(RuleBasedStateMachine):
    """Redis, and relays that receive plain messages and persist them."""

    def __init__(self) -> None:
        super().__init__()
        self.relays = [Relay(name) for name in "abc"]
        self.published: list[int] = []  # those that a relay receives
        self.log: list[int] = []
        self.now = 100.0
        #: A relay waited for another one in vain.
        self.has_given_up = False

    def publish_to_all(self, message: int | bytes) -> bool:
        connected = [relay for relay in self.relays if relay.is_connected]
        for relay in connected:
            relay.wire.append(message)
        return bool(connected)

    @rule(index=st.sampled_from(RELAYS))
    def connect(self, index: int) -> None:
        relay = self.relays[index]
        if not relay.is_connected:
            relay.is_connected = True
            self.now += 0.001
            relay.order.on_connecting(self.now)

    @rule(index=st.sampled_from(RELAYS))
    def disconnect(self, index: int) -> None:
        """What was sent on the connection is lost with it, if another relay received it as well."""
        relay = self.relays[index]
        others = [other.wire for other in self.relays if other is not relay]
        lost = [item for item in relay.wire if isinstance(item, int) and not any(item in wire for wire in others)]
        if all(any(self.has(other, item) for other in self.relays) for item in lost):
            # Nobody waits for one that holds back and is away.
            self.has_given_up |= (
                relay.is_connected and relay.order.state is not OrderState.FLOWING and len(relay.order) > 0
            )
            relay.is_connected = False
            relay.wire = []

    def has(self, relay: Relay, number: int) -> bool:
        """Whether a relay has received a message, or it is persisted."""
        segments = [item for item in relay.order._queue._items if not isinstance(item, BarrierRequest)]
        queued = [each.update.data for segment in segments for waiting in segment.values() for each in waiting]
        return number in self.log or b"%d" % number in queued

    @rule(count=st.integers(1, 3))
    def publish(self, count: int) -> None:
        for _ in range(count):
            number = len(self.published)
            if self.publish_to_all(number):
                self.published.append(number)

    @rule(index=st.sampled_from(RELAYS), count=st.integers(1, 5))
    def receive(self, index: int, count: int) -> None:
        relay = self.relays[index]
        for _ in range(min(count, len(relay.wire))):
            item = relay.wire.pop(0)
            if isinstance(item, bytes):
                relay.order.on_barrier_message(item, self.now)
            else:
                assert relay.order.on_received(update(item, self.now), counted(item))

    @rule(index=st.sampled_from(RELAYS))
    def carry_on_barrier(self, index: int) -> None:
        self.do_barrier(index)

    def do_barrier(self, index: int) -> bool:
        relay = self.relays[index]
        effect = relay.order.next_barrier(self.now)
        if isinstance(effect, Announce):
            self.publish_to_all(effect.message)
            relay.order.on_asked(self.now, is_refused=False)
        elif isinstance(effect, CountPeers):
            relay.order.on_peer_count(sum(each.is_connected for each in self.relays), self.now)
        return not isinstance(effect, Wait)

    @rule(index=st.sampled_from(RELAYS))
    def begin_persisting(self, index: int) -> None:
        self.do_persist(index)

    def do_persist(self, index: int) -> bool:
        relay = self.relays[index]
        if relay.persisting is not None:
            return False
        effect = relay.order.next_persist(self.now)
        if isinstance(effect, Persist):
            relay.persisting = effect
        elif isinstance(effect, Announce):
            self.publish_to_all(effect.message)
        return not isinstance(effect, Wait)

    @precondition(lambda self: any(relay.persisting for relay in self.relays))
    @rule(index=st.sampled_from(RELAYS), is_away=st.booleans())
    def end_persisting(self, index: int, is_away: bool = False) -> None:
        relay = self.relays[index]
        if relay.persisting is None:
            return
        batch, relay.persisting = relay.persisting.batch, None
        outcome = Outcome.UNAVAILABLE if is_away else Outcome.PERSISTED
        if not is_away:
            for pending in batch:
                number = int(pending.update.data)
                if number not in self.log:
                    self.log.append(number)
        assert relay.order.on_outcomes([(each, outcome) for each in batch], self.now, 0.01) == []

    @rule(seconds=st.sampled_from([0.01, 0.1, REORDER_WINDOW]))
    def pass_time(self, seconds: float) -> None:
        """Not so long that a relay goes on without an answer."""
        if not self.gives_up(self.now + seconds):
            self.now += seconds

    def gives_up(self, now: float) -> bool:
        """Whether a relay that waits for others does so no longer at a time."""
        return any(
            relay.order.state is OrderState.ASKING and now >= relay.order._connected_at + MAX_REORDER_WINDOW
            for relay in self.relays
        )

    @rule()
    def calm(self) -> None:
        """Everything that is under way comes to its end."""
        for index in RELAYS:
            self.connect(index)
        for _ in range(1000):
            is_busy = False
            for index in RELAYS:
                is_busy |= bool(self.relays[index].wire)
                self.receive(index, len(self.relays[index].wire))
                is_busy |= self.do_barrier(index)
                is_busy |= self.do_persist(index)
                self.end_persisting(index)
            self.now += 0.005
            self.has_given_up |= self.gives_up(self.now)
            states = {relay.order.state for relay in self.relays}
            if not is_busy and states == {OrderState.FLOWING}:
                break
        assert states == {OrderState.FLOWING}
        assert sorted(self.log) == self.published
        if self.has_given_up:
            self.log.sort()  # relays that lost their connections twice have given up waiting for each other
        assert by_promise(self.log) == by_promise(self.published)

    def teardown(self) -> None:
        self.calm()


TestAgreement = Agreement.TestCase
TestAgreement.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


# Single cases.


def flowing() -> PlainOrder:
    """A relay that has found itself alone."""
    made = requests("x")
    order = PlainOrder(b"me", lambda: next(made))
    order.on_connecting(1.0)
    ask = order.next_barrier(1.0)
    assert isinstance(ask, Announce)
    order.on_asked(1.0, is_refused=False)
    order.on_barrier_message(ask.message, 1.0)
    assert isinstance(order.next_barrier(1.0), CountPeers)
    order.on_peer_count(1, 1.0)
    assert order.state is OrderState.FLOWING
    return order


def test_only_a_relay_that_starts_alone_holds_nothing_back() -> None:
    order = flowing()
    order.on_received(update(1, 1.5), counted())
    assert isinstance(order.next_persist(1.5), Persist)
    order.on_connecting(2.0)
    order.on_peer_count(1, 2.0)
    assert order.state is OrderState.HOLDING
    order.on_received(update(2, 2.1), counted())
    assert order.next_persist(2.1) == Wait(2.0 + REORDER_WINDOW)
    assert isinstance(order.next_persist(2.0 + REORDER_WINDOW), Persist)


@pytest.mark.parametrize("how", ["asking", "counting"])
def test_where_redis_does_not_let_it_ask_it_holds_back_for_the_least_time(how: str) -> None:
    order = flowing()
    order.on_connecting(2.0)
    if how == "asking":
        order.on_asked(2.0, is_refused=True)
    else:
        order.on_peer_count(None, 2.0, is_refused=True)
    assert order.state is OrderState.HOLDING
    order.on_received(update(1, 2.1), counted())
    assert isinstance(order.next_persist(2.1), Wait)
    assert isinstance(order.next_persist(2.0 + REORDER_WINDOW), Persist)


def test_a_relay_that_does_not_answer_is_not_waited_for_long() -> None:
    order = flowing()
    order.on_connecting(2.0)
    order.on_received(update(1, 2.1), counted())
    order.on_peer_count(2, 2.1)
    assert order.next_persist(2.2) == Wait(2.0 + MAX_REORDER_WINDOW)
    assert isinstance(order.next_persist(2.0 + MAX_REORDER_WINDOW), Persist)


def test_messages_of_an_earlier_connection_are_not_held_back() -> None:
    order = flowing()
    order.on_received(update(1, 1.5), counted())
    order.on_connecting(2.0)
    order.on_received(update(2, 2.5), counted())
    effect = order.next_persist(2.5)
    assert isinstance(effect, Persist)
    assert [pending.update.data for pending in effect.batch] == [b"1"]


def test_what_was_held_back_stays_so_when_the_connection_breaks_again() -> None:
    """Only on the connection after it can another relay say that what was missed before it is persisted."""
    order = flowing()
    order.on_connecting(2.0)
    order.on_received(update(1, 2.1), counted())
    order.on_connecting(2.2)
    assert isinstance(order.next_persist(2.3), Wait)
    order.on_barrier_message(b"ask other-1", 2.3)
    assert isinstance(order.next_persist(2.3), Wait), "its number says nothing of what it has from before"
    assert isinstance(order.next_persist(2.2 + MAX_REORDER_WINDOW), Persist)
    assert order.next_persist(2.2 + MAX_REORDER_WINDOW) == Announce(b"done other-1 me")


def outcome_of(order: PlainOrder, outcome: Outcome, now: float) -> list[Update]:
    effect = order.next_persist(now)
    assert isinstance(effect, Persist)
    return order.on_outcomes([(pending, outcome) for pending in effect.batch], now, 0.01)


def test_what_waited_in_vain_is_delivered_live_and_the_next_do_not_wait_before_something_is_persisted() -> None:
    order = flowing()
    first, second, third, fourth = (update(number, 2.0 + 5 * number) for number in range(4))
    order.on_received(first, counted())
    assert outcome_of(order, Outcome.UNAVAILABLE, 3.0) == []
    assert isinstance(order.next_persist(3.0), Wait)
    assert outcome_of(order, Outcome.UNAVAILABLE, 2.0 + MAX_WAIT) == [first]
    order.on_received(second, counted())
    assert outcome_of(order, Outcome.UNAVAILABLE, 18.0) == [second]
    order.on_received(third, counted())
    assert outcome_of(order, Outcome.PERSISTED, 18.0) == []
    order.on_received(fourth, counted())
    assert outcome_of(order, Outcome.UNAVAILABLE, 18.0) == []


def test_what_redis_refuses_is_delivered_live_and_concerns_no_other() -> None:
    order = flowing()
    for number in range(3):
        order.on_received(update(number, 2.0), counted())
    effect = order.next_persist(2.0)
    assert isinstance(effect, Persist)
    outcomes = (Outcome.UNAVAILABLE, Outcome.REFUSED, Outcome.UNAVAILABLE)
    live_only = order.on_outcomes(list(zip(effect.batch, outcomes, strict=True)), 2.0, 0.01)
    assert [each.data for each in live_only] == [b"1"]
    again = order.next_persist(3.0)
    assert isinstance(again, Persist)
    assert [pending.update.data for pending in again.batch] == [b"0", b"2"]


def test_what_finds_redis_full_waits_a_little_and_never_until_a_later_one_is_persisted() -> None:
    order = flowing()
    for number in range(3):
        order.on_received(update(number, 2.0 + number / 10), counted())
    effect = order.next_persist(2.2)
    assert isinstance(effect, Persist)
    outcomes = (Outcome.FULL, Outcome.PERSISTED, Outcome.FULL)
    assert order.on_outcomes(list(zip(effect.batch, outcomes, strict=True)), 2.2, 0.01) == [update(0, 2.0)]
    order.on_received(update(3, 2.3), counted())
    assert outcome_of(order, Outcome.FULL, 2.3) == []
    assert isinstance(order.next_persist(2.3), Wait)
    order.on_received(update(4, 2.6), counted())
    given_up = outcome_of(order, Outcome.FULL, 2.2 + MAX_FULL_WAIT)
    assert [each.data for each in given_up] == [b"2", b"3", b"4"]
    assert not order.on_received(update(5, 2.8), counted()), "nothing is tried for a while"
    assert order.on_received(update(6, 2.2 + 2 * MAX_FULL_WAIT), counted())
    assert outcome_of(order, Outcome.FULL, 3.2) == [update(6, 2.2 + 2 * MAX_FULL_WAIT)], "it is full still"
    assert order.on_received(update(7, 3.8), counted())
    assert outcome_of(order, Outcome.PERSISTED, 3.8) == []
    assert order.on_received(update(8, 3.9), counted())
    assert outcome_of(order, Outcome.FULL, 3.9) == [], "it had room meanwhile"


def test_no_more_waits_than_may() -> None:
    order = flowing()
    half = MAX_QUEUED_BYTES // 2 - OVERHEAD - 10
    assert order.on_received(update(0, 2.0, half), counted())
    assert not order.on_received(update(1, 2.0, 100), counted()), "a channel takes no more than is left"
    assert order.on_received(update(3, 2.0, half // 2), counted())
    assert not order.on_received(update(4, 2.0, half // 2), counted())
    while len(order):
        assert outcome_of(order, Outcome.PERSISTED, 2.0) == []
    assert order.on_received(update(1, 2.0, half), counted())


def test_no_more_requests_wait_than_may() -> None:
    order = flowing()
    assert order.on_received(update(0, 2.0), counted())
    most = MAX_QUEUED_BYTES // OVERHEAD
    for number in range(most + 10):
        order.on_barrier_message(b"ask other-%d" % number, 2.0)
    assert len(order) == most
    assert not order.on_received(update(3, 2.0), counted())


def test_a_channel_without_end_leaves_room_to_others() -> None:
    order = flowing()
    while order.on_received(update(0, 2.0), counted()):
        pass
    flood = len(order)
    assert flood > 15_000
    while order.on_received(update(3, 2.0), counted()):
        pass
    assert len(order) > 1.4 * flood
    assert order.on_received(update(9, 2.0), counted())


@pytest.mark.parametrize("message", [b"", b"ask", b"done", b"held x y", b"held x1-1 y -1", b"nonsense " * 9, b"\xff"])
def test_garbled_messages_of_others_do_no_harm(message: bytes) -> None:
    order = flowing()
    order.on_barrier_message(message, 2.0)
    for _ in range(3):
        order.next_persist(2.0)
    assert order.state is OrderState.FLOWING
