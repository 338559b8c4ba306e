"""What one relay does with the plain messages that it receives; `test_plain_agreement` has how several agree on the order."""

import pytest

from relay.core.plain_agreement import (
    MAX_REORDER_WINDOW,
    REORDER_WINDOW,
    Announce,
    OrderState,
    Wait,
)
from relay.core.plain_order import (
    MAX_FULL_WAIT,
    MAX_QUEUED_BYTES,
    MAX_WAIT,
    Outcome,
    Persist,
)
from relay.core.plain_queue import OVERHEAD
from tests.core.plain_messages import counted, update
from tests.core.plain_orders import echo, flowing, next_persist, outcome_of, passed


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
