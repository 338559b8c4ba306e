"""What the tests of one relay's plain messages share."""

from relay.core.plain_agreement import Announce, CountPeers, OrderState, Wait
from relay.core.plain_order import Outcome, Persist, PlainOrder, ReadClock
from relay.core.updates import Update
from tests.core.plain_messages import requests


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


def echo(order: PlainOrder, now: float) -> None:
    """Let it publish its request, and receive it."""
    ask = order.next_barrier(now)
    assert isinstance(ask, Announce), ask
    order.on_asked(now, is_refused=False)
    order.on_barrier_message(ask.message, now)


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
