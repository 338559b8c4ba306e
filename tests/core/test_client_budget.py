"""Budgets: what a client may send on end, and what becomes of one that sends more."""

from hypothesis import given
from hypothesis import strategies as st

from relay.core.client_budget import BURST, MAX_SLOWED, RATE, SUBSCRIBE_RATE, ClientBudget, TokenBucket
from relay.core.closecodes import Close


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 50)), max_size=50))
def test_a_client_that_waits_as_told_never_takes_more_than_its_share(steps: list[tuple[float, float]]) -> None:
    bucket = TokenBucket(capacity=20, rate=4)
    now = taken = 0.0
    for pause, cost in steps:
        now += pause
        taken += cost
        now += bucket.take(now, cost)
        assert taken <= 20 + 4 * now + 1e-6


def test_a_client_within_its_budget_is_never_slowed() -> None:
    budget = ClientBudget(max_subscriptions=10)
    assert budget.charge(0.0, int(BURST / 2), 0) == 0.0  # at once, for example to subscribe to all it may
    for second in range(10, 1000):
        assert budget.charge(float(second), int(RATE / 2), 1000) == 0.0


def test_a_client_that_keeps_at_it_is_slowed_and_then_dropped() -> None:
    budget = ClientBudget(max_subscriptions=10)
    now = frames = 0.0
    while not isinstance(verdict := budget.charge(now, 100, 600), Close):
        frames += 100
        now += verdict + 0.001
        assert now < 2 * MAX_SLOWED
    assert verdict is Close.FLOODING
    assert now >= MAX_SLOWED
    assert frames <= BURST + RATE * (now + 1)


def test_a_client_that_sends_much_at_once_takes_turns_until_it_has_paused() -> None:
    budget = ClientBudget(max_subscriptions=10)
    seen = [budget.is_low]
    for now, frames in ((0.0, int(BURST / 2)), (10.0, 1)):
        budget.charge(now, frames, 0)
        seen.append(budget.is_low)
    assert seen == [False, True, False]


def test_a_client_that_pauses_is_forgiven() -> None:
    budget = ClientBudget(max_subscriptions=10)
    now = 0.0
    for _ in range(100):
        verdict = budget.charge(now, int(BURST), 0)
        assert isinstance(verdict, float)
        now += verdict + BURST / RATE


def test_as_many_subscriptions_as_it_may_have_begin_at_once() -> None:
    budget = ClientBudget(max_subscriptions=10)
    assert [budget.charge_subscribe(5.0) for _ in range(10)] == [0.0] * 10
    assert [budget.charge_subscribe(5.0) for _ in range(2)] == [1 / SUBSCRIBE_RATE, 2 / SUBSCRIBE_RATE]
