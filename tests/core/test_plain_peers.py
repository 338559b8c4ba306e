"""Which other relays a relay waits for that holds back plain messages."""

import pytest

from relay.core.plain_agreement import MAX_HOLDER_WINDOW, MAX_REORDER_WINDOW, REORDER_WINDOW, Announce, CountPeers, Wait
from relay.core.plain_order import Persist, PlainOrder
from tests.core.plain_messages import counted, update
from tests.core.plain_orders import echo, flowing, next_persist, passed


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
    """A relay that holds back since 1002000 on Redis' clock. Another has said since when it does."""
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


def test_an_answer_without_a_time_does_not_say_that_nothing_is_held_back() -> None:
    """As of one that has connected again, and not read Redis' clock yet."""
    order = held_since(1001000)
    order.on_barrier_message(b"held x2-1 other - -", 2.3)
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
