"""The timer wheel against a plain dictionary of times."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from relay.core.timer_wheel import HORIZON, TimerWheel

STEPS = st.lists(
    st.tuples(st.just("schedule"), st.integers(0, 5), st.floats(-10, 3 * HORIZON))
    | st.tuples(st.just("cancel"), st.integers(0, 5), st.just(0.0))
    | st.tuples(st.just("wait"), st.just(0), st.floats(0, 2 * HORIZON)),
    max_size=40,
)


@given(STEPS)
def test_timers_come_due_in_order_and_in_time(steps: list[tuple[str, int, float]]) -> None:
    wheel = TimerWheel[int]()
    expected: dict[int, float] = {}
    now = 1e9
    for step, item, seconds in steps:
        if step == "schedule":
            wheel.schedule(item, now + seconds, now)
            expected[item] = min(now + seconds, now + HORIZON)
        elif step == "cancel":
            wheel.cancel(item)
            expected.pop(item, None)
        else:
            now += seconds
            due = wheel.due(now)
            assert len(due) == len(set(due))
            assert all(expected[item] <= now for item in due), "none is early"
            assert not {item for item, at in expected.items() if at <= now - 0.25} - set(due), "none is late"
            times = [expected.pop(item) for item in due]
            assert all(first <= second + 0.25 for first, second in pairwise(times))
        assert len(wheel) == len(expected)


def test_buckets_are_bounded_however_far_the_times_are_apart() -> None:
    wheel = TimerWheel[int]()
    for item in range(100_000):
        wheel.schedule(item, 1e9 + item * 977.0, 1e9)
        wheel.cancel(item)
    assert not len(wheel)
    assert len(wheel._buckets) <= HORIZON * 4 + 1
    assert wheel.due(1e9 + HORIZON) == []
    assert not wheel._buckets
    assert not wheel._order
