"""What one relay does with the plain messages that it receives; `test_plain_agreement` has how several agree on the order."""

import pytest

from relay.core.plain_agreement import (
    MAX_HOLDER_WINDOW,
    MAX_REORDER_WINDOW,
    REORDER_WINDOW,
    Announce,
    CountPeers,
    OrderState,
    Wait,
)
from relay.core.plain_order import (
    MAX_FULL_WAIT,
    MAX_QUEUED_BYTES,
    MAX_WAIT,
    Outcome,
    Persist,
    PlainOrder,
    ReadClock,
)
from relay.core.plain_queue import OVERHEAD
from relay.core.updates import Update
from tests.core.plain_messages import counted, requests, update


def next_persist(order: PlainOrder, now: float) -> Persist | Announce | ReadClock | Wait:
    """As of a relay that has read Redis' clock, which shows its own time plus 1,000 seconds."""
    effect = order.next_persist(now)
    if isinstance(effect, ReadClock):
        order.on_clock(now, now, int((1000.0 + now) * 1000))
        effect = order.next_persist(now)
    return effect


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
    assert isinstance(next_persist(order, 1.5), Persist)
    order.on_connecting(2.0)
    echo(order, 2.0)
    order.on_peer_count(1, 2.0)
    assert order.state is OrderState.HOLDING
    order.on_received(update(2, 2.1), counted())
    assert next_persist(order, 2.1) == Wait(2.0 + REORDER_WINDOW)
    assert isinstance(next_persist(order, 2.0 + REORDER_WINDOW), Persist)


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
    assert isinstance(next_persist(order, 2.1), Wait)
    assert isinstance(next_persist(order, 2.0 + REORDER_WINDOW), Persist)


def test_a_relay_that_does_not_answer_is_not_waited_for_long() -> None:
    order = flowing()
    order.on_connecting(2.0)
    order.on_received(update(1, 2.1), counted())
    order.on_peer_count(2, 2.1)
    assert next_persist(order, 2.2) == Wait(2.0 + MAX_REORDER_WINDOW)
    assert isinstance(next_persist(order, 2.0 + MAX_REORDER_WINDOW), Persist)


def test_messages_of_an_earlier_connection_are_not_held_back() -> None:
    order = flowing()
    order.on_received(update(1, 1.5), counted())
    order.on_connecting(2.0)
    order.on_received(update(2, 2.5), counted())
    effect = next_persist(order, 2.5)
    assert isinstance(effect, Persist)
    assert [pending.update.data for pending in effect.batch] == [b"1"]


def test_updates_of_each_connection_pass_by_themselves() -> None:
    order = flowing()
    order.on_connecting(2.0)
    order.on_received(update(1, 2.1), counted())
    order.on_connecting(2.2)
    order.on_received(update(2, 2.3), counted())
    assert isinstance(next_persist(order, 2.3), Wait)
    order.on_barrier_message(b"ask other-1 other", 2.3)
    assert next_persist(order, 2.3) == Announce(b"held other-1 me - 1002000"), "the count says nothing of both"
    assert passed(order, 2.0 + MAX_REORDER_WINDOW) == [b"1"]
    assert next_persist(order, 5.0) == Announce(b"held other-1 me 1 1002200"), "the other need not ask again"
    assert next_persist(order, 5.0) == Wait(2.2 + MAX_REORDER_WINDOW)
    assert passed(order, 2.2 + MAX_REORDER_WINDOW) == [b"2"]


def test_what_was_confirmed_passes_although_the_connection_is_away() -> None:
    order = flowing()
    order.on_connecting(2.0)
    order.on_received(update(1, 2.1), counted())
    echo(order, 2.1)
    order.on_peer_count(1, 2.1)
    order.on_connecting(2.2)
    order.on_received(update(2, 2.3), counted())
    assert isinstance(next_persist(order, 2.3), Wait)
    assert passed(order, 2.0 + REORDER_WINDOW) == [b"1"]
    assert order.state is OrderState.ASKING


def test_a_connection_that_brought_nothing_leaves_nothing_to_wait_for() -> None:
    order = flowing()
    order.on_connecting(2.0)
    order.on_connecting(3.0)
    order.on_received(update(1, 3.1), counted())
    assert next_persist(order, 3.1) == Wait(3.0 + MAX_REORDER_WINDOW)
    order.on_barrier_message(b"ask other-1 other", 3.1)
    assert next_persist(order, 3.1) == Announce(b"held other-1 me 1 1002999")


def test_calls_are_tried_again_as_soon_as_there_is_a_connection() -> None:
    order = flowing()
    order.on_received(update(1, 2.0), counted())
    assert outcome_of(order, Outcome.UNAVAILABLE, 2.0) == []
    assert isinstance(next_persist(order, 2.005), Wait)
    order.on_connecting(2.02)
    assert passed(order, 2.02) == [b"1"]


# Other relays.


def echo(order: PlainOrder, now: float) -> None:
    """Let it publish its request, and receive it."""
    ask = order.next_barrier(now)
    assert isinstance(ask, Announce), ask
    order.on_asked(now, is_refused=False)
    order.on_barrier_message(ask.message, now)


def knowing(*others: bytes) -> PlainOrder:
    """A relay that knows others, was cut off, and holds back what it has received since."""
    order = flowing()
    for other in others:
        order.on_barrier_message(b"ask %b-1 %b" % (other, other), 1.1)
        assert next_persist(order, 1.1) == Announce(b"done %b-1 me" % other)
    order.on_connecting(2.0)
    order.on_received(update(1, 2.1), counted())
    echo(order, 2.1)
    return order


def persists(order: PlainOrder, now: float, peers: int = 1) -> bool:
    """Whether it persists soon after it has counted others."""
    effect = order.next_barrier(now)
    if isinstance(effect, CountPeers):
        order.on_peer_count(peers, now)
    return isinstance(next_persist(order, max(now, 2.0 + REORDER_WINDOW)), Persist)


def test_one_that_is_known_is_waited_for_although_it_is_away() -> None:
    order = knowing(b"other")
    assert not persists(order, 2.2)
    order.on_barrier_message(b"done x2-1 other", 2.3)
    assert persists(order, 2.3)


def held_since(redis_ms: int, *, name: bytes = b"other") -> PlainOrder:
    """A relay that holds back since 1002000 on Redis' clock, and has heard that another does since then."""
    order = knowing(name)
    next_persist(order, 2.15)  # reads the clock
    order.on_barrier_message(b"held x2-1 %b - %d" % (name, redis_ms), 2.2)
    return order


@pytest.mark.parametrize(
    ("name", "redis_ms", "passes_at"),
    [
        (b"other", 1001000, 2.0 + MAX_HOLDER_WINDOW),
        (b"other", 1002000, 2.0 + MAX_REORDER_WINDOW),
        (b"a", 1002000, 2.0 + MAX_HOLDER_WINDOW),
        (b"a", 1002050, 2.0 + MAX_REORDER_WINDOW),
    ],
)
def test_one_that_holds_back_earlier_is_waited_for_longer(name: bytes, redis_ms: int, passes_at: float) -> None:
    """Where both began at once it is the one with the lesser name, so they do not wait for each other."""
    order = held_since(redis_ms, name=name)
    assert not isinstance(next_persist(order, passes_at - 0.01), Persist)
    assert passed(order, passes_at) == [b"1"]


def test_one_that_holds_back_earlier_and_no_longer_answers_is_not_waited_for_longer() -> None:
    order = held_since(1001000)
    times = [2.5 + 0.25 * number for number in range(12)]
    for now in times:
        assert not isinstance(next_persist(order, 6.0), Persist)
        echo(order, now)
    assert passed(order, 6.0) == [b"1"]


def test_an_answer_to_an_older_request_does_not_say_that_nothing_is_held_back() -> None:
    order = held_since(1001000)
    order.on_barrier_message(b"done x1-1 other", 4.95)
    assert not isinstance(next_persist(order, 2.0 + MAX_REORDER_WINDOW), Persist)


def test_one_that_says_goodbye_is_not_waited_for() -> None:
    order = knowing(b"other")
    bye = PlainOrder(b"other", lambda: b"").goodbye
    order.on_barrier_message(bye, 2.2)
    assert persists(order, 2.2)


@pytest.mark.parametrize(("since", "is_enough"), [(1002102, True), (1002099, False), (1001000, False)])
def test_one_that_holds_back_what_came_later_is_not_waited_for(since: int, is_enough: bool) -> None:
    order = knowing(b"other")
    next_persist(order, 2.15)  # reads the clock
    order.on_barrier_message(b"held x2-1 other 99 %d" % since, 2.2)
    assert persists(order, 2.2) is is_enough
    order = knowing(b"other")
    next_persist(order, 2.15)
    order.on_barrier_message(b"held x7-1 other - %d" % since, 2.2)
    assert persists(order, 2.2) is is_enough, "an answer to somebody else says as much"


def test_one_that_was_waited_for_in_vain_is_waited_for_no_more() -> None:
    order = knowing(b"other")
    for now in (2.4, 2.7, 3.0, 3.3, 3.6, 3.9, 4.2, 4.5, 4.8):
        echo(order, now)
        assert isinstance(next_persist(order, now), Wait)
    assert passed(order, 2.0 + MAX_REORDER_WINDOW) == [b"1"]
    order.on_connecting(9.0)
    order.on_received(update(2, 9.1), counted())
    echo(order, 9.1)
    assert isinstance(order.next_barrier(9.1), CountPeers)


def test_one_that_is_cut_off_again_has_not_waited_in_vain() -> None:
    order = knowing(b"other")
    order.on_connecting(6.0)
    echo(order, 6.1)
    assert isinstance(order.next_barrier(6.1), Wait)


def test_one_that_does_not_answer_the_request_of_another_is_forgotten() -> None:
    order = flowing()
    for message in (b"ask gone-1 gone", b"bye gone", b"ask dead-1 dead", b"ask here-1 here"):
        order.on_barrier_message(message, 1.1)
    order.on_barrier_message(b"ask new-1 new", 2.2)
    order.on_barrier_message(b"done new-1 here", 2.3)
    order.on_connecting(9.0)
    order.on_received(update(1, 9.1), counted())
    echo(order, 9.1)
    assert isinstance(order.next_barrier(9.1), Wait)
    for name in (b"here", b"new"):
        order.on_barrier_message(b"done x2-1 " + name, 9.2)
    assert isinstance(order.next_barrier(9.2), CountPeers)


def test_one_that_has_just_connected_is_asked_at_once() -> None:
    order = knowing(b"other")
    assert isinstance(order.next_barrier(2.11), Wait)
    order.on_barrier_message(b"ask y1-1 other", 2.12)
    assert isinstance(order.next_barrier(2.12), Announce)


def test_relays_of_an_earlier_version_are_understood() -> None:
    """Their requests have no name, and their answers no time."""
    order = knowing()
    order.on_barrier_message(b"ask old-1", 2.2)
    assert next_persist(order, 2.2) == Announce(b"held old-1 me 1 1001999")
    order.on_barrier_message(b"held x2-1 old 1", 2.2)
    assert persists(order, 2.2, peers=2)


def passed(order: PlainOrder, now: float) -> list[bytes]:
    """Persist what passes, and return it."""
    effect = next_persist(order, now)
    assert isinstance(effect, Persist), effect
    order.on_all_persisted()
    return [pending.update.data for pending in effect.batch]


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


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"ask",
        b"done",
        b"held x y",
        b"held x1-1 y -1",
        b"held x1-1 y - -",
        b"bye",
        b"held x1-1 y 1 \xb2",
        b"nonsense " * 9,
        b"\xff",
    ],
)
def test_garbled_messages_of_others_do_no_harm(message: bytes) -> None:
    order = flowing()
    order.on_barrier_message(message, 2.0)
    for _ in range(3):
        order.next_persist(2.0)
    assert order.state is OrderState.FLOWING
